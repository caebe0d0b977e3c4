"""Reading an agent's API through its Unix socket, which needs neither token nor TLS: for agents of this machine."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path
from typing import Any, TypeVar, overload

from agent.errors import Unreachable
from agent.model.decode import decode_json

T = TypeVar("T")

TIMEOUT_S = 5.0  # an agent that is asked for the status asks its coordinator; both answer in milliseconds
MAX_ANSWER_BYTES = 16_777_216  # the status of 10,000 replicas


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(TIMEOUT_S)
            self.sock.connect(str(self._path))
        except OSError:
            self.close()
            raise


@overload
def get(path: Path, url: str, type_: type[T]) -> T: ...
@overload
def get(path: Path, url: str, type_: Any) -> Any: ...
def get(path: Path, url: str, type_: Any) -> Any:
    """What `GET url` answers, as a `type_`. Raises Unreachable for no answer or one that isn't a 200, InputError."""
    connection = _Connection(path)
    try:
        connection.request("GET", url)
        response = connection.getresponse()
        data = response.read(MAX_ANSWER_BYTES + 1)
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"no answer: {error}", where=str(path)) from None
    finally:
        connection.close()
    if response.status != 200:
        raise Unreachable(f"answered {response.status}: {data[:200].decode(errors='replace')}", where=str(path))
    return decode_json(data, type_, where=url, max_bytes=MAX_ANSWER_BYTES)
