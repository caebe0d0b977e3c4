"""The Docker Engine's API as far as we use it: blocking calls with our own errors. Shell; call in threads.

Two traps of docker-py are closed here. It puts what it is given into the URL as it is (`../volumes/x` names a volume),
so only full container ids and names of our own patterns are passed. And it merges stdout and stderr of a log, never
times a pull out, and doesn't free the connection of events; those requests are made through its session directly.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import docker
import docker.auth
import docker.constants
import docker.errors
import docker.utils
import requests

from agent import errors
from agent.model.stack import Image
from agent.runtime.answers import StreamedAnswer
from agent.runtime.containers import CONTAINER_ID
from agent.runtime.protocol import RawLine

CALL_TIMEOUT_S = 30  # every call but a pull, a stop or a stream; a loaded engine takes seconds
PULL_STALL_S = 120  # no byte of progress for so long: the engine itself never gives up on a stalled layer
LOAD_TIMEOUT_S = 600  # the engine unpacks the whole archive before it answers: 10 GB at 20 MB/s
MAX_LOG_FRAME_BYTES = 1_048_576  # Docker writes lines of up to 16 KiB as frames; anything like this isn't one
MAX_MESSAGE_CHARACTERS = 300  # of what the engine said

_LOADED = re.compile(r"Loaded image(?: ID)?: (\S{1,512})")
_CONNECTION_ERRORS = (requests.exceptions.ConnectionError, requests.exceptions.Timeout)


class NotThere(errors.NotFound):
    """The engine doesn't have it."""

    kind = "not-in-engine"


class EngineRefused(errors.MusterError):
    """The engine answered, and said no. `code` is its HTTP status."""

    kind = "engine-refused"

    def __init__(self, what: str, *, where: str = "", fix: str = "", code: int = 500) -> None:
        super().__init__(what, where=where, fix=fix)
        self.code = code


@contextlib.contextmanager
def engine_errors(what: str) -> Iterator[None]:
    """docker-py's and requests' errors as ours. `what` was being done; the engine's own words follow it."""
    try:
        yield
    except docker.errors.APIError as error:
        status = error.status_code or 500
        said = str(error.explanation or error)[:MAX_MESSAGE_CHARACTERS]
        raise (
            NotThere(f"{what}: {said}") if status == 404 else EngineRefused(f"{what}: {said}", code=status)
        ) from error
    except (*_CONNECTION_ERRORS, docker.errors.DockerException, OSError) as error:
        raise errors.RuntimeUnavailable(
            f"Docker doesn't answer while {what}", fix="Look at `systemctl status docker` there."
        ) from error


class Engine:
    """One dockerd. Connects on first use, and again by itself after it was away. Threads may share it."""

    def __init__(self, base_url: str | None = None, *, timeout_s: int = CALL_TIMEOUT_S) -> None:
        self._base_url = base_url
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._client: docker.APIClient | None = None
        self.version = ""

    def client(self) -> docker.APIClient:
        """The connected client. Raises RuntimeUnavailable."""
        with engine_errors("connecting"):
            _listens(self._base_url or docker.constants.DEFAULT_UNIX_SOCKET)
        with self._lock:
            if self._client is None:
                with engine_errors("connecting"):
                    client = docker.APIClient(base_url=self._base_url, timeout=self._timeout_s)
                    with contextlib.ExitStack() as unless_connected:
                        unless_connected.callback(client.close)
                        self.version = str(client.version()["Version"])[:64]
                        unless_connected.pop_all()
                self._client = client
            return self._client

    def close(self) -> None:
        """Close idle connections."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def ping(self) -> str:
        """The engine's version. Raises RuntimeUnavailable."""
        client = self.client()
        with engine_errors("asking for its version"):
            self.version = str(client.version()["Version"])[:64]
        return self.version

    def info(self) -> dict[str, Any]:
        """What `docker info` tells. Raises RuntimeUnavailable."""
        client = self.client()
        with engine_errors("asking how it is"):
            return dict(client.info())

    # Containers

    def list_ids(self, labels: dict[str, str]) -> list[str]:
        """Ids of all containers, running or not, with these labels."""
        wanted = [f"{name}={value}" for name, value in labels.items()]
        with engine_errors("listing containers"):
            return [str(each["Id"]) for each in self.client().containers(all=True, filters={"label": wanted})]

    def inspect(self, container: str) -> dict[str, Any] | None:
        """Everything about a container; None when it is gone."""
        try:
            with engine_errors("inspecting a container"):
                return dict(self.client().inspect_container(_id(container)))
        except NotThere:
            return None

    def create(self, name: str, body: dict[str, Any]) -> str:
        """The new container's id. `name` has passed our pattern (`ContainerName`)."""
        with engine_errors(f"creating container {name}"):
            return str(self.client().create_container_from_config(body, name)["Id"])  # type: ignore[no-untyped-call]  # the stubs have gaps

    def start(self, container: str) -> None:
        with engine_errors("starting the container"):
            self.client().start(_id(container))

    def stop(self, container: str, timeout_s: int) -> None:
        """SIGTERM, then SIGKILL after `timeout_s`. Gone already: fine."""
        with contextlib.suppress(NotThere), engine_errors("stopping a container"):
            self.client().stop(_id(container), timeout=timeout_s)

    def remove(self, container: str) -> None:
        """Kill and remove, with its anonymous volumes. Gone already, or being removed: fine."""
        try:
            with contextlib.suppress(NotThere), engine_errors("removing a container"):
                self.client().remove_container(_id(container), v=True, force=True)
        except EngineRefused as error:
            if error.code != 409:
                raise

    # Networks and volumes

    def ensure_network(self, name: str, labels: dict[str, str]) -> None:
        """Create a bridge network unless there is one of that name. Raises Conflict when it is another cluster's."""
        present = self._networks(name)
        if not present:
            try:
                with engine_errors(f"creating network {name}"):
                    self.client().create_network(name, driver="bridge", labels=labels, check_duplicate=True)
            except EngineRefused as error:
                if error.code != 409:
                    raise
            present = self._networks(name)
        for network in present:
            _same_cluster(f"network {name}", network.get("Labels") or {}, labels)
        # Docker takes one name twice from two agents at the same moment: the oldest stays.
        for network in present[1:]:
            with contextlib.suppress(NotThere, EngineRefused), engine_errors("removing a network"):
                self.client().remove_network(_id(network["Id"]))

    def _networks(self, name: str) -> list[Any]:
        """Those of exactly this name, the oldest first."""
        with engine_errors(f"looking for network {name}"):
            found = self.client().networks(names=[name])
        return sorted((each for each in found if each["Name"] == name), key=lambda each: (each["Created"], each["Id"]))

    def connect(self, container: str, network: str, alias: str) -> None:
        with engine_errors(f"connecting to network {network}"):
            self.client().connect_container_to_network(_id(container), network, aliases=[alias])

    def ensure_volume(self, name: str, labels: dict[str, str]) -> None:
        """Create a named volume unless there is one. Raises Conflict when it is another cluster's."""
        with engine_errors(f"creating volume {name}"):
            present = self.client().create_volume(name, labels=labels)
        _same_cluster(f"volume {name}", present.get("Labels") or {}, labels)

    def volume_path(self, name: str, labels: dict[str, str], *, make: bool) -> Path | None:
        """Where a named volume's content lies. Raises Unprocessable for one of a driver that keeps it elsewhere."""
        if make:
            self.ensure_volume(name, labels)
        with engine_errors(f"looking for volume {name}"):
            found = self.client().volumes(filters={"name": name})["Volumes"] or []
        for volume in found:
            if volume["Name"] != name:  # the filter takes parts of names too
                continue
            _same_cluster(f"volume {name}", volume.get("Labels") or {}, labels)
            if volume.get("Driver") != "local" or volume.get("Options"):
                what = f"volume {name} is kept by driver {volume.get('Driver')}, which has backups of its own"
                raise errors.Unprocessable(what)
            return Path(volume["Mountpoint"])
        return None

    def remove_networks(self, labels: dict[str, str], keep_stacks: frozenset[str]) -> None:
        """Remove networks with these labels whose stack isn't kept and that nothing uses."""
        wanted = [f"{name}={value}" for name, value in labels.items()]
        with engine_errors("listing networks"):
            found = self.client().networks(filters={"label": wanted})
        for network in found:
            if (network.get("Labels") or {}).get("muster.stack") not in keep_stacks:
                with contextlib.suppress(NotThere, EngineRefused), engine_errors("removing a network"):
                    self.client().remove_network(_id(network["Id"]))

    def remove_volumes(self, labels: dict[str, str]) -> None:
        """Remove volumes with these labels that nothing uses."""
        wanted = [f"{name}={value}" for name, value in labels.items()]
        with engine_errors("listing volumes"):
            found = self.client().volumes(filters={"label": wanted})["Volumes"] or []
        for volume in found:
            with contextlib.suppress(NotThere, EngineRefused), engine_errors("removing a volume"):
                self.client().remove_volume(str(volume["Name"]))

    def stats(self, container: str) -> Any:
        """One sample at once; None when the container is gone. An engine before 20.10 takes a second for it."""
        client = self.client()
        with contextlib.suppress(NotThere), engine_errors("sampling a container"):
            response = client.get(
                f"{client.base_url}/v{client.api_version}/containers/{_id(container)}/stats",
                params={"stream": "0", "one-shot": "1"},
                timeout=CALL_TIMEOUT_S,
            )
            _raise_for_status(response)
            return response.json()
        return None

    # Images

    def image_id(self, image: Image) -> str | None:
        """The id of the image if the engine has it, and if it is the one that is pinned."""
        try:
            with engine_errors(f"looking for image {image.ref}"):
                found = self.client().inspect_image(image.ref)  # type: ignore[no-untyped-call]  # the stubs have gaps
        except NotThere:
            return None
        digests = {str(found["Id"]), *(str(each).partition("@")[2] for each in found.get("RepoDigests") or [])}
        return str(found["Id"]) if image.digest is None or image.digest in digests else None

    def load(self, archive: Path) -> tuple[str, ...]:
        """Load a `docker save` archive; the names, or else ids, of its images. Raises Unprocessable."""
        client = self.client()
        with engine_errors("loading an image"), archive.open("rb") as file:
            response = client.post(
                f"{client.base_url}/v{client.api_version}/images/load",
                params={"quiet": "1"},
                headers={"Content-Type": "application/x-tar"},
                data=file,
                stream=True,
                timeout=(CALL_TIMEOUT_S, LOAD_TIMEOUT_S),
            )
            with contextlib.closing(response):
                _raise_for_status(response)
                return _loaded(json.loads(line) for line in response.iter_lines() if line)

    def open_pull(self, image: Image) -> StreamedAnswer[Any]:
        """A stream of progress messages, one JSON object a line."""
        client = self.client()
        repository, tag = docker.utils.parse_repository_tag(image.ref)
        registry, _ = docker.auth.resolve_repository_name(repository)
        header = docker.auth.get_config_header(client, registry)
        with engine_errors(f"pulling {image.ref}"):
            response = client.post(
                f"{client.base_url}/v{client.api_version}/images/create",
                params={"fromImage": repository, "tag": tag or "latest"},
                headers={"X-Registry-Auth": header} if header else {},
                stream=True,
                timeout=(CALL_TIMEOUT_S, PULL_STALL_S),
            )
            _raise_for_status(response)
        return StreamedAnswer((json.loads(line) for line in response.iter_lines() if line), response)

    # Streams

    def open_events(self, labels: dict[str, str]) -> StreamedAnswer[Any]:
        """A stream of container events (decoded) with these labels."""
        client = self.client()
        wanted = [f"{name}={value}" for name, value in labels.items()]
        kinds = ["create", "start", "die", "stop", "kill", "destroy", "oom", "health_status", "pause", "unpause"]
        with engine_errors("listening to events"):
            response = client.get(
                f"{client.base_url}/v{client.api_version}/events",
                params={"filters": json.dumps({"type": ["container"], "label": wanted, "event": kinds})},
                stream=True,
                timeout=(CALL_TIMEOUT_S, None),
            )
            _raise_for_status(response)
        return StreamedAnswer((json.loads(line) for line in response.iter_lines() if line), response)

    def open_logs(
        self, container: str, *, tail: int | None, since: datetime | None, follow: bool
    ) -> StreamedAnswer[Any]:
        """A container's log, line by line."""
        client = self.client()
        with engine_errors("reading a log"):
            response = client.get(
                f"{client.base_url}/v{client.api_version}/containers/{_id(container)}/logs",
                params={
                    "stdout": "1",
                    "stderr": "1",
                    "timestamps": "1",
                    "follow": "1" if follow else "0",
                    "tail": "all" if tail is None else str(tail),
                    **({"since": f"{since.timestamp():.6f}"} if since else {}),
                },
                stream=True,
                timeout=(CALL_TIMEOUT_S, None if follow else CALL_TIMEOUT_S),
            )
            _raise_for_status(response)
        return StreamedAnswer(_log_lines(response.raw.read), response)


def _listens(url: str) -> None:
    """Raises OSError when nobody listens on a local engine's socket; docker-py leaves one of ours open each time."""
    path = urlsplit(url).path
    if path and "unix" in url.partition("://")[0]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(CALL_TIMEOUT_S)
            probe.connect(path)


def _id(container: str) -> str:
    if CONTAINER_ID.fullmatch(container) is None:
        raise errors.InvariantBroken("not a full id")
    return container


def _same_cluster(what: str, present: dict[str, str], ours: dict[str, str]) -> None:
    owner = present.get("muster.cluster")
    if owner is not None and owner != ours["muster.cluster"]:
        raise errors.Conflict(f"{what} belongs to another cluster", fix="Rename it in the plan, or the stack.")


def _raise_for_status(response: requests.Response) -> None:
    try:
        response.raise_for_status()
    except requests.exceptions.HTTPError as error:
        with contextlib.closing(response):  # whatever its body is, and whether it comes
            docker.errors.create_api_error_from_http_exception(error)


def _loaded(messages: Iterable[Any]) -> tuple[str, ...]:
    found: list[str] = []
    for message in messages:
        if error := message.get("error"):
            raise errors.Unprocessable(f"Docker doesn't take the archive: {str(error)[:MAX_MESSAGE_CHARACTERS]}")
        for line in str(message.get("stream", "")).splitlines():
            if (loaded := _LOADED.fullmatch(line.strip())) is not None:
                found.append(loaded[1])
    if not found:
        raise errors.Unprocessable("Docker found no image in the archive", fix="Make it with `docker save IMAGE`.")
    return tuple(found)


def _log_lines(read: Callable[[int], bytes]) -> Iterator[RawLine]:
    """Lines of Docker's multiplexed log: per frame stream (1 byte), 3 zero bytes, length (4, big endian), content."""
    while len(header := _exactly(read, 8)) == 8:
        length = int.from_bytes(header[4:], "big")
        if length > MAX_LOG_FRAME_BYTES:
            raise errors.MusterError("Docker sent a log frame that isn't one")
        stream: Literal["stdout", "stderr"] = "stderr" if header[0] == 2 else "stdout"
        text = _exactly(read, length).decode(errors="replace")
        at, _, line = text.partition(" ")
        yield RawLine(at=at, stream=stream, line=line.rstrip("\r\n"))


def _exactly(read: Callable[[int], bytes], length: int) -> bytes:
    data = b""
    while len(data) < length and (more := read(length - len(data))):
        data += more
    return data
