"""The credentials that this host's administrator gave Docker for registries: `docker login`'s file, and helpers.

Docker's SDK reads the file. Helpers are asked here: the SDK waits for one without end, and on a server nobody is there
to unlock a keyring. Their protocol is in the README of docker-credential-helpers: the registry goes to standard input
of `docker-credential-NAME get`, a JSON object comes back. Shell.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from agent import errors
from agent.runtime.proc import signal_group

HELPER_TIMEOUT_S = 30.0  # those of clouds ask a service for a token first, which takes seconds
MAX_HELPER_BYTES = 65_536  # a cloud's token has some thousand
HELPER_PREFIX: Final = "docker-credential-"
TOKEN_USER: Final = "<token>"  # noqa: S105 what stands in a user's place
"""The secret that comes with it is an identity token."""
NOT_FOUND: Final = b"credentials not found in native keychain"
"""What every helper says, with exit code 1, of a registry that it has nothing for."""

Text = Annotated[str, Meta(max_length=MAX_HELPER_BYTES)]


class NoCredentials(errors.MusterError):
    """Docker's configuration has credentials for that registry, but they can't be read."""

    kind = "no-credentials"


class _Found(Struct, frozen=True):
    """What the file says: the registry as helpers call it, the helper's program if any, the file's own header."""

    registry: str
    helper: str
    header: str


class _Said(Struct, frozen=True):
    """A helper's answer."""

    Username: Text
    Secret: Text


async def registry_auth(repository: str, timeout_s: float = HELPER_TIMEOUT_S) -> str:
    """X-Registry-Auth for pulls from there; empty if there is none. Raises NoCredentials."""
    found = await asyncio.to_thread(_read, repository)
    if found is None:
        return ""
    said = await _ask(found, timeout_s) if found.helper else None
    if said is None:
        return found.header
    if said.Username == TOKEN_USER:
        return _header({"ServerAddress": found.registry, "IdentityToken": said.Secret})
    return _header({"ServerAddress": found.registry, "Username": said.Username, "Password": said.Secret})


def _read(repository: str) -> _Found | None:
    """None if nothing is configured. Blocks."""
    directory = Path(os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"))
    if not any(path.exists() for path in (directory / "config.json", Path(os.path.expanduser("~/.dockercfg")))):
        return None
    from docker import auth  # 8 MB: only for hosts that log in to a registry
    from docker.errors import DockerException
    from docker.utils.config import find_config_file

    try:
        registry, _ = auth.resolve_repository_name(repository)
        config = auth.load_config()
        helper = config.get_credential_store(registry)
        if not isinstance(helper, str | None):
            raise TypeError("a helper's name is a text")
        own = auth.AuthConfig({"auths": config.auths}).resolve_authconfig(registry)
        header = _header(own) if own else ""
    except (DockerException, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # The library checks little. The cause isn't kept: it has what was read.
        raise _unreadable(str(find_config_file()), type(error).__name__) from None
    called = auth.INDEX_URL if registry == auth.INDEX_NAME else registry
    return _Found(called, HELPER_PREFIX + helper if helper else "", header)


async def _ask(found: _Found, timeout_s: float) -> _Said | None:
    """The helper's answer; None when it has nothing for that registry."""
    source = f"{found.helper} for {found.registry}"
    # Files in memory rather than pipes: what a helper leaves running can't keep its output from ending.
    with _in_memory(found.registry.encode()) as question, _in_memory() as answer:
        code = await _run(found, source, question, answer, timeout_s)
        output = os.pread(answer, MAX_HELPER_BYTES + 1, 0)
    if code != 0:
        if NOT_FOUND in output:
            return None
        raise _unreadable(source, f"exit code {code}")
    try:
        if len(output) > MAX_HELPER_BYTES:
            raise ValueError("longer than any")
        said = msgspec.json.decode(output, type=_Said)
    except (ValueError, RecursionError) as error:  # whose text may have the secret
        raise _unreadable(source, type(error).__name__) from None
    return said if said.Username or said.Secret else None


async def _run(found: _Found, source: str, question: int, answer: int, timeout_s: float) -> int:
    """The helper's exit code. Raises NoCredentials when it isn't there, or doesn't end."""
    try:
        process = await asyncio.create_subprocess_exec(
            found.helper,
            "get",
            stdin=question,
            stdout=answer,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise _unreadable(source, getattr(error, "strerror", None) or "no program's name") from None
    try:
        async with asyncio.timeout(timeout_s):
            return await process.wait()
    except TimeoutError:
        fix = f"Does it wait for input? Try it there: echo {found.registry} | {found.helper} get"
        raise _unreadable(source, f"no answer within {timeout_s:g} s", fix) from None
    finally:
        if process.returncode is None:
            signal_group(process.pid, signal.SIGKILL)
            await process.wait()


@contextlib.contextmanager
def _in_memory(data: bytes = b"") -> Iterator[int]:
    """A file that nobody else finds (memfd_create(2))."""
    descriptor = os.memfd_create(HELPER_PREFIX, os.MFD_CLOEXEC)
    try:
        os.pwrite(descriptor, data, 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _header(fields: dict[str, object]) -> str:
    from docker import auth

    header: str = auth.encode_header(fields).decode()
    return header


def _unreadable(source: str, why: str, fix: str = "") -> NoCredentials:
    return NoCredentials(f"credentials can't be read from {source} ({why})", fix=fix)
