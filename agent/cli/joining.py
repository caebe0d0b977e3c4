"""An agent without an identity waits for one: the installer asks for its keys and gives it the grant.

Over a socket of its own, one connection at a time. A line of JSON, {"name", "address"}, is answered with the
IdentityRequest. Then comes the IdentityGrant, up to the end of the stream, answered with {"accepted": true} or with
what is wrong (RFC 9457). So the process that joins is the one that then runs, and it has imported everything by the
time the grant comes.
"""

import importlib
import logging
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from agent.config import Config
from agent.errors import MusterError, TooLarge
from agent.model.cluster import IdentityGrant
from agent.model.decode import decode_json
from agent.model.types import HostAddress, Label
from agent.storage.files import refused
from agent.storage.identity import MAX_GRANT_BYTES, accept, create, is_granted

logger = logging.getLogger(__name__)

SOCKET: Final = "joining.sock"
ROUND_S: Final = 1.0  # between two signs of life to systemd, and two looks for a grant that came another way
PATIENCE_S: Final = 60.0  # an installer comes at once; a boot isn't over while a unit of it is still starting
MAX_LINE_BYTES: Final = 4_096
BLOCK_BYTES: Final = 65_536

NEEDED: Final = ("agent.node.driver.agent", "agent.api.app", "agent.api.server", "agent.net.tls")
"""What the agent runs with, and thereby everything that takes long to import."""


class Introduction(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """This host's name, and the address at which others reach it."""

    name: Label
    address: HostAddress


def wait_for_identity(config: Config, waiting: Callable[[], None]) -> None:
    """Wait until this host has an identity, or nobody has come to bring one; `waiting` is called about once a second.

    Raises StorageError.
    """
    path = Path(config.run_dir) / SOCKET
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            listener.bind(str(path))
            path.chmod(0o600)
        except OSError as error:
            raise refused("nobody can hand over an identity", error, path) from error
        try:
            listener.listen()
            listener.settimeout(ROUND_S)
            logger.info("this host has no identity yet: waiting for `bootstrap install`")
            patient_until = time.monotonic() + PATIENCE_S
            while not is_granted(Path(config.data_dir)) and time.monotonic() < patient_until:
                waiting()
                try:
                    link, _ = listener.accept()
                except TimeoutError:
                    continue
                with link:
                    _join(_Installer(link, waiting), config)
        finally:
            path.unlink(missing_ok=True)


class _Installer:
    """The connection of an installer. One that ends early counts as having sent nothing more."""

    def __init__(self, link: socket.socket, waiting: Callable[[], None]) -> None:
        self._link, self._waiting = link, waiting
        link.settimeout(ROUND_S)

    def hear(self, limit: int, end: bytes | None = None) -> bytes:
        """Reads until `end`, or until the end of the stream. Raises TooLarge."""
        heard = bytearray()
        while end is None or not heard.endswith(end):
            self._waiting()
            try:
                block = self._link.recv(BLOCK_BYTES)
            except TimeoutError:
                continue
            except ConnectionError:
                return b""
            if not block:
                break
            heard += block
            if len(heard) > limit:
                raise TooLarge(f"more than {limit} bytes", where="what installs this host")
        return bytes(heard)

    def tell(self, message: object) -> None:
        """Sends a line."""
        try:
            self._link.sendall(msgspec.json.encode(message) + b"\n")
        except (ConnectionError, TimeoutError):
            return  # `hear` tells


def _join(installer: _Installer, config: Config) -> None:
    data_dir = Path(config.data_dir)
    try:
        line = installer.hear(MAX_LINE_BYTES, b"\n")
        if not line:
            return
        told = decode_json(line, Introduction, where="the introduction: $", max_bytes=MAX_LINE_BYTES)
        with ThreadPoolExecutor(1, "keys") as pool:  # keys wait for the disk, on to which all files of the agent go now
            made = pool.submit(create, data_dir, told.name, told.address, config.api_port, config.peer_port)
            made.add_done_callback(lambda done: None if done.exception() else installer.tell(done.result()))
            for name in NEEDED:
                importlib.import_module(name)
        made.result()
        data = installer.hear(MAX_GRANT_BYTES)
        if data:
            accept(data_dir, decode_json(data, IdentityGrant, where="the grant: $", max_bytes=MAX_GRANT_BYTES))
            installer.tell({"accepted": True})
    except MusterError as error:
        installer.tell({"detail": error.what, "where": error.where, "fix": error.fix})
