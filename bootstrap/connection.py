"""One process on a host, which is asked in frames: the operator's side of `bootstrap.remote`."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.errors import MusterError, NotAllowed, TimedOut, Unreachable
from agent.formats.terminal import clean_lines
from agent.tasks import cancel_and_wait
from bootstrap import ssh
from bootstrap.inventory import InventoryHost
from bootstrap.program import HELLO, LOADING, program

HELLO_TIMEOUT_S: Final = 45.0  # ssh's own limit for connecting, twice with a bastion, and python's start
END_TIMEOUT_S: Final = 5.0
MAX_GREETING_BYTES: Final = 262_144  # what a login shell's start-up files write before us
MAX_COMPLAINT_BYTES: Final = 65_536  # the end of stderr is what matters
MAX_FRAME_BYTES: Final = 33_554_432  # as the other side has it
BLOCK_BYTES: Final = 1_048_576

Step = Callable[[str], None]


class Connection:
    """`open` it, `ask` it one thing at a time, `close` it."""

    def __init__(self, process: asyncio.subprocess.Process, host: InventoryHost, settings: ssh.SshSettings) -> None:
        self._process = process
        self._host, self._settings = host, settings
        self._complaint = b""
        self._password: str | None = None
        self._prompted = 0
        self._listening = asyncio.create_task(self._listen(), name=f"stderr of {host.alias}")

    @classmethod
    async def open(cls, host: InventoryHost, settings: ssh.SshSettings, password: str | None = None) -> Connection:
        """Log in and start the helper there. Raises MusterError that says what to do."""
        ssh.check_key(host, settings)
        if host.local:
            user = "root" if os.geteuid() == 0 else ""
        else:
            user = host.user or (await asyncio.to_thread(ssh.resolve, host, settings)).user
        try:
            process = await asyncio.create_subprocess_exec(
                *ssh.helper_command(host, settings, user),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=ssh.environment(os.environ),
                limit=MAX_GREETING_BYTES,
                start_new_session=True,  # no terminal, on which the ssh of a bastion could ask for a password
            )
        except FileNotFoundError as error:
            raise ssh.missing(str(error.filename)) from None
        assert process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # one user may have only so much; or ssh has ended already
            pipe = process.stdin.transport.get_extra_info("pipe")
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, BLOCK_BYTES)
        connection = cls(process, host, settings)
        connection._password = password
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                await connection._greet()
        except TimeoutError:
            await connection.close()
            raise TimedOut("the connection hangs", fix="Try it by hand: the shell there may wait for input.") from None
        except BaseException:
            await connection.close()
            raise
        return connection

    async def ask(
        self, do: str, *, step: Step = lambda text: None, limit_s: float, blob: Path | None = None, **fields: object
    ) -> Any:
        """The answer to one question; `blob` is a file whose bytes follow it. Raises MusterError, TimedOut."""
        message = {"do": do, **fields}
        if blob is not None:
            message["size"] = (await asyncio.to_thread(blob.stat)).st_size
        try:
            async with asyncio.timeout(limit_s):
                await self._send(message)
                if blob is not None:
                    await self._send_file(blob)
                return await self._answer(step)
        except TimeoutError:
            raise TimedOut(f"no answer to `{do}` within {limit_s:g} s", fix="Run this again.") from None
        except (ConnectionError, asyncio.IncompleteReadError):
            raise await self._lost() from None

    async def close(self) -> None:
        """Closing its input ends the helper; if it doesn't end, it is killed."""
        process = self._process
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            await cancel_and_wait(self._listening)

    # Inside

    async def _greet(self) -> None:
        """Send the program; skip whatever was written before its hello."""
        assert self._process.stdout is not None
        if self._password is None:
            await self._write(program())
        try:
            await self._process.stdout.readuntil(HELLO)
        except asyncio.IncompleteReadError:
            raise await self._lost() from None
        except asyncio.LimitOverrunError:
            raise Unreachable("its shell writes without end when it starts", fix="Look at ~/.bashrc there.") from None

    async def _send(self, message: object) -> None:
        data = msgspec.json.encode(message)
        await self._write(struct.pack(">I", len(data)) + data)

    async def _send_file(self, path: Path) -> None:
        with path.open("rb") as file:
            while block := await asyncio.to_thread(file.read, BLOCK_BYTES):
                if not await self._write(block):
                    return

    async def _write(self, data: bytes) -> bool:
        """False: nobody reads any more. Its last words say more than the error, so nothing is raised."""
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        try:
            await self._process.stdin.drain()
        except ConnectionError:
            return False
        return True

    async def _answer(self, step: Step) -> Any:
        assert self._process.stdout is not None
        while True:
            (length,) = struct.unpack(">I", await self._process.stdout.readexactly(4))
            if length > MAX_FRAME_BYTES:
                raise MusterError("an answer that isn't one", where=self._host.alias)
            message = _tamed(msgspec.json.decode(await self._process.stdout.readexactly(length)))
            if "step" in message:
                step(str(message["step"]))
            elif "failed" in message:
                failed = message["failed"]
                raise MusterError(str(failed["what"]), where=str(failed["where"]), fix=str(failed["fix"]))
            else:
                return message["done"]

    async def _listen(self) -> None:
        assert self._process.stderr is not None
        while block := await self._process.stderr.read(4096):
            self._complaint = (self._complaint + block)[-MAX_COMPLAINT_BYTES:]
            prompts = self._complaint.count(ssh.SUDO_PROMPT.encode())
            if self._password is not None and prompts > self._prompted:
                self._prompted = prompts
                if prompts > 1:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(self._process.pid, signal.SIGTERM)
                else:
                    await self._write(f"{self._password}\n".encode())
            if self._password is not None and LOADING.encode() in self._complaint:
                self._password = None
                await self._write(program())

    async def _lost(self) -> MusterError:
        """Why the process ended, from its last words."""
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                code = await self._process.wait()
                await asyncio.shield(self._listening)
        except TimeoutError:
            code = -1
        if self._prompted > 1:
            return NotAllowed("sudo doesn't take that password", fix="Run this again with the right one.")
        complaint = clean_lines(self._complaint.decode("utf-8", "replace").replace("\r\n", "\n"))
        resolved = None
        if not self._host.local:
            try:
                resolved = await asyncio.to_thread(ssh.resolve, self._host, self._settings)
            except MusterError as error:  # ssh's own configuration is at fault
                return error
        if "Permission denied (" in complaint and resolved is not None:
            held = await asyncio.to_thread(ssh.held_keys)
            locked = await asyncio.to_thread(ssh.locked_key, resolved.identity_files, held)
            if locked is not None:
                return NotAllowed(f"the key {locked} is locked", fix=f"Unlock it: ssh-add {locked}")
            if not await asyncio.to_thread(ssh.has_key, resolved, held):
                return ssh.no_key(self._host)
        return ssh.explain(self._host, resolved, complaint, code, key=ssh.key_file(self._host, self._settings))


def _tamed(value: Any) -> Any:
    """Cleans text from a host, which ends up on the operator's terminal and in files here."""
    if isinstance(value, str):
        return clean_lines(value)
    if isinstance(value, list):
        return [_tamed(each) for each in value]
    if isinstance(value, dict):
        return {_tamed(key): _tamed(each) for key, each in value.items()}
    return value
