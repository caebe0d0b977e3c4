"""The Docker Engine's API as far as we use it: requests over its socket, on the event loop, with our own errors. Shell.

By aiohttp, which every agent has loaded, rather than by Docker's SDK: that blocks, so it needs threads, merges the
streams of a log, and brings 8 MB and a second HTTP client. The SDK still reads registries' credentials
(`agent.runtime.credentials`).

Requests have no version in their path: the engine's own is meant. Only full ids and names of our own patterns become
part of a path, and what the engine redirects to isn't followed.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

import msgspec
from yarl import URL

from agent import errors
from agent.lean_aiohttp import aiohttp
from agent.model.stack import Image
from agent.runtime.containers import CONTAINER_ID
from agent.runtime.credentials import registry_auth
from agent.runtime.protocol import RawLine

DEFAULT_URL: Final = "unix:///var/run/docker.sock"

CALL_TIMEOUT_S = 30.0  # every call but a pull, a stop or a stream; a loaded engine takes seconds
PULL_STALL_S = 120.0  # no byte of progress for so long: the engine itself never gives up on a stalled layer
LOAD_TIMEOUT_S = 600.0  # the engine unpacks the whole archive before it answers: 10 GB at 20 MB/s
PART_BYTES = 1_048_576  # of an archive, read and sent at once
MAX_LOG_FRAME_BYTES = 1_048_576  # Docker writes lines of up to 16 KiB as frames; anything like this isn't one
MAX_MESSAGE_BYTES = 1_048_576  # a line; an event has all labels of its container, longer ones are nobody's
MAX_MESSAGE_CHARACTERS = 300  # of what the engine said

_SERVER = re.compile(r"[A-Za-z]{1,32}/(\S{1,64})")  # such as Docker/20.10.24 (linux)
_LOADED = re.compile(r"Loaded image(?: ID)?: (\S{1,512})")
_NO_JSON = (msgspec.DecodeError, UnicodeDecodeError)
_AWAY = (aiohttp.ClientError, TimeoutError, OSError, *_NO_JSON)
# "start" comes behind "create", "die" behind "kill": whoever looked at those would do so while the engine is at work.
_EVENTS = ("start", "die", "destroy", "oom", "health_status", "pause", "unpause")


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
def _answering(what: str) -> Iterator[None]:
    """The errors that keep the engine from answering, as ours. `what` was being done."""
    try:
        yield
    except _AWAY as error:
        doing = "connecting" if isinstance(error, aiohttp.ClientConnectorError) else what
        raise errors.RuntimeUnavailable(
            f"Docker doesn't answer while {doing}", fix="Look at `systemctl status docker` there."
        ) from error


class Engine:
    """One dockerd, for one event loop. Connects when it is asked, and again by itself after it was away.

    `url`: `unix://<path>` or `tcp://<host>:<port>`.
    """

    def __init__(self, url: str | None = None, *, timeout_s: float = CALL_TIMEOUT_S) -> None:
        self._url = url or DEFAULT_URL
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def close(self) -> None:
        """End all connections, for good."""
        self._closed = True
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ping(self) -> str:
        """The engine's version. Raises RuntimeUnavailable.

        By a header of the cheapest answer: for `/version` Docker starts two programs, which takes 5 ms of a processor.
        """
        what = "asking for its version"
        async with self._asked(what, "GET", "/_ping", timeout=self._timeout) as response:
            await response.read()
            named = _SERVER.match(response.headers.get("Server", ""))
        if named is not None:
            return named[1]
        return str((await self._call(what, "GET", "/version"))["Version"])[:64]

    async def info(self) -> dict[str, Any]:
        """What `docker info` tells. Raises RuntimeUnavailable."""
        return dict(await self._call("asking how it is", "GET", "/info"))

    # Containers

    async def list_labels(self, labels: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """By id the labels of all containers, running or not, that have these; an empty value stands for any."""
        found = await self._containers("listing containers", label=_labels(labels))
        return {str(each["Id"]): each.get("Labels") or {} for each in found}

    async def _containers(self, what: str, **filters: list[str]) -> list[Any]:
        params = {"all": "1", "filters": _filters(**filters)}
        return list(await self._call(what, "GET", "/containers/json", params=params))

    async def inspect(self, container: str) -> dict[str, Any] | None:
        """Everything about a container; None when it is gone."""
        try:
            return dict(await self._call("inspecting a container", "GET", f"/containers/{_id(container)}/json"))
        except NotThere:
            return None

    async def create(self, name: str, body: dict[str, Any]) -> str:
        """The new container's id. `name` has passed our pattern (`ContainerName`)."""
        what = f"creating container {name}"
        return str((await self._call(what, "POST", "/containers/create", params={"name": name}, body=body))["Id"])

    async def start(self, container: str) -> None:
        await self._call("starting the container", "POST", f"/containers/{_id(container)}/start")

    async def stop(self, container: str, timeout_s: int) -> None:
        """SIGTERM, then SIGKILL after `timeout_s`. No error if it is gone already."""
        patience = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S + timeout_s)
        path, params = f"/containers/{_id(container)}/stop", {"t": str(timeout_s)}
        with contextlib.suppress(NotThere):
            await self._call("stopping a container", "POST", path, params=params, timeout=patience)

    async def remove(self, container: str) -> None:
        """Kill and remove it, with its anonymous volumes. No error if it is gone, or being removed."""
        try:
            with contextlib.suppress(NotThere):
                params = {"v": "1", "force": "1"}
                await self._call("removing a container", "DELETE", f"/containers/{_id(container)}", params=params)
        except EngineRefused as error:
            if error.code != 409:
                raise

    async def stats(self, container: str) -> Any:
        """One sample at once; None when the container is gone. An engine before 20.10 takes a second for it."""
        params = {"stream": "0", "one-shot": "1"}
        try:
            return await self._call("sampling a container", "GET", f"/containers/{_id(container)}/stats", params=params)
        except NotThere:
            return None

    # Networks and volumes

    async def ensure_network(self, name: str, labels: dict[str, str]) -> None:
        """Create a bridge network unless there is one of that name. Raises Conflict when it is another cluster's."""
        present = await self._networks(name)
        if not present:
            body = {"Name": name, "Driver": "bridge", "CheckDuplicate": True, "Labels": labels}
            try:
                await self._call(f"creating network {name}", "POST", "/networks/create", body=body)
            except EngineRefused as error:
                if error.code != 409:
                    raise
            present = await self._networks(name)
        for network in present:
            _same_cluster(f"network {name}", network.get("Labels") or {}, labels)
        # Docker takes one name twice from two agents at the same moment: the oldest stays.
        for network in present[1:]:
            await self._remove_network(network["Id"])

    async def _networks(self, name: str) -> list[Any]:
        """Those of exactly this name, the oldest first."""
        params = {"filters": _filters(name=[name])}
        found = await self._call(f"looking for network {name}", "GET", "/networks", params=params)
        return sorted((each for each in found if each["Name"] == name), key=lambda each: (each["Created"], each["Id"]))

    async def _remove_network(self, network: str) -> bool:
        """One that is used stays."""
        return await self._gone("removing a network", f"/networks/{_id(network)}")

    async def _gone(self, what: str, path: str) -> bool:
        """Delete it unless it is used; whether it isn't there any more."""
        try:
            await self._call(what, "DELETE", path)
        except NotThere:
            return True
        except EngineRefused:
            return False
        return True

    async def connect(self, container: str, network: str, alias: str) -> None:
        body = {"Container": _id(container), "EndpointConfig": {"Aliases": [alias]}}
        path = f"/networks/{quote(network, safe='')}/connect"
        await self._call(f"connecting to network {network}", "POST", path, body=body)

    async def ensure_volume(self, name: str, labels: dict[str, str]) -> None:
        """Create a named volume unless there is one. Raises Conflict when it is another cluster's."""
        body = {"Name": name, "Labels": labels}
        present = await self._call(f"creating volume {name}", "POST", "/volumes/create", body=body)
        _same_cluster(f"volume {name}", present.get("Labels") or {}, labels)

    async def volume_path(self, name: str, labels: dict[str, str], *, make: bool) -> Path | None:
        """Where a named volume's content is. Raises Unprocessable if its driver keeps it elsewhere."""
        if make:
            await self.ensure_volume(name, labels)
        for volume in await self._volumes(f"looking for volume {name}", _filters(name=[name])):
            if volume["Name"] != name:  # the filter takes parts of names too
                continue
            _same_cluster(f"volume {name}", volume.get("Labels") or {}, labels)
            if volume.get("Driver") != "local" or volume.get("Options"):
                what = f"volume {name} is kept by driver {volume.get('Driver')}, which has backups of its own"
                raise errors.Unprocessable(what)
            return Path(volume["Mountpoint"])
        return None

    async def _volumes(self, what: str, filters: str) -> list[Any]:
        return list((await self._call(what, "GET", "/volumes", params={"filters": filters}))["Volumes"] or ())

    async def remove_networks(self, owner: Mapping[str, str], keep_stacks: frozenset[str]) -> bool:
        """Remove the cluster's networks whose stack isn't kept and that no container has, even an ended one.

        Returns whether none of the owner's is left. The others are an earlier identity's, or of agents beside it on
        this engine, who remove them in their turn.
        """
        params = {"filters": _filters(label=_labels(_cluster_of(owner)))}
        found = await self._call("listing networks", "GET", "/networks", params=params)
        unwanted = [each for each in found if (each.get("Labels") or {}).get("muster.stack") not in keep_stacks]
        left = [each for each in unwanted if not await self._remove_unused_network(each)]
        return not any(_is_of(owner, each) for each in left)

    async def _remove_unused_network(self, network: Any) -> bool:
        """The engine itself only keeps one that a running container has."""
        if await self._containers("looking who uses a network", network=[str(network["Name"])]):
            return False
        return await self._remove_network(network["Id"])

    async def remove_volumes(self, owner: Mapping[str, str], stack: str) -> bool:
        """Remove the stack's volumes that no container has; whether none of the owner's is left, as with networks."""
        labels = {**_cluster_of(owner), "muster.stack": stack}
        left = []
        for each in await self._volumes("listing volumes", _filters(label=_labels(labels))):
            if not await self._gone("removing a volume", f"/volumes/{quote(str(each['Name']), safe='')}"):
                left.append(each)
        return not any(_is_of(owner, each) for each in left)

    # Images

    async def image_id(self, image: Image) -> str | None:
        """The id of the image if the engine has it, and if it is the one that is pinned."""
        try:
            found = await self._call(f"looking for image {image.ref}", "GET", f"/images/{quote(image.ref, '/:@')}/json")
        except NotThere:
            return None
        digests = {str(found["Id"]), *(str(each).partition("@")[2] for each in found.get("RepoDigests") or [])}
        return str(found["Id"]) if image.digest is None or image.digest in digests else None

    async def load(self, archive: Path) -> tuple[str, ...]:
        """Load a `docker save` archive; the names, or else ids, of its images. Raises Unprocessable, OSError."""
        file = await asyncio.to_thread(archive.open, "rb")
        unread: list[OSError] = []

        async def parts() -> AsyncGenerator[bytes]:
            try:
                while data := await asyncio.to_thread(file.read, PART_BYTES):
                    yield data
            except OSError as error:
                unread.append(error)
                raise

        try:
            async with self._asked(
                "loading an image",
                "POST",
                "/images/load",
                params={"quiet": "1"},
                headers={"Content-Type": "application/x-tar"},
                data=parts(),
                timeout=aiohttp.ClientTimeout(total=None, sock_read=LOAD_TIMEOUT_S),
            ) as response:
                return _loaded([message async for message in _messages(response)])
        except errors.RuntimeUnavailable:
            if unread:  # the archive's fault, which the connection ended with
                raise unread[0] from None
            raise
        finally:
            await asyncio.to_thread(file.close)  # an early answer leaves the parts where they were

    async def pull(self, image: Image) -> AsyncGenerator[Any]:
        """Progress messages while it is pulled, each a JSON object.

        Raises EngineRefused when the pull breaks off, NoCredentials.
        """
        repository, tag = _repository_and_tag(image.ref)
        header = await registry_auth(repository)
        async with self._asked(
            f"pulling {image.ref}",
            "POST",
            "/images/create",
            params={"fromImage": repository, "tag": tag},
            headers={"X-Registry-Auth": header} if header else {},
            timeout=aiohttp.ClientTimeout(total=None, sock_read=PULL_STALL_S),
        ) as response:
            try:
                async for message in _messages(response):
                    yield message
            except _AWAY as error:
                raise EngineRefused("the pull broke off or stood still") from error

    # Streams

    @contextlib.asynccontextmanager
    async def events(self, labels: Mapping[str, str]) -> AsyncIterator[AsyncIterator[Any]]:
        """Events of containers with these labels (as `list_labels`), from when this is entered; they end when the
        engine goes.
        """
        params = {"filters": _filters(type=["container"], label=_labels(labels), event=list(_EVENTS))}
        endless = aiohttp.ClientTimeout(total=None, sock_connect=CALL_TIMEOUT_S)
        async with self._asked("listening to events", "GET", "/events", params=params, timeout=endless) as response:
            yield _messages(response)

    async def logs(
        self, container: str, *, tail: int | None, since: datetime | None, follow: bool
    ) -> AsyncGenerator[RawLine]:
        """A container's log, line by line; it ends where the connection does. Raises NotThere."""
        params = {
            "stdout": "1",
            "stderr": "1",
            "timestamps": "1",
            "follow": "1" if follow else "0",
            "tail": "all" if tail is None else str(tail),
            **({"since": f"{since.timestamp():.6f}"} if since else {}),
        }
        patience = aiohttp.ClientTimeout(total=None, sock_read=None if follow else CALL_TIMEOUT_S)
        path = f"/containers/{_id(container)}/logs"
        async with self._asked("reading a log", "GET", path, params=params, timeout=patience) as response:
            with contextlib.suppress(aiohttp.ClientError, OSError, asyncio.IncompleteReadError):
                while True:
                    yield await _log_line(response.content)

    # Requests

    async def _call(
        self,
        what: str,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: object = None,
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> Any:
        """The answer, decoded; None for an empty one. Raises NotThere, EngineRefused, RuntimeUnavailable."""
        data, headers = None, {}
        if body is not None:
            data, headers = msgspec.json.encode(body), {"Content-Type": "application/json"}
        async with self._asked(
            what, method, path, params=params, headers=headers, data=data, timeout=timeout or self._timeout
        ) as response:
            content = await response.read()
            return msgspec.json.decode(content) if content else None

    @contextlib.asynccontextmanager
    async def _asked(
        self,
        what: str,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        data: bytes | AsyncGenerator[bytes] | None = None,
        timeout: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer that isn't read yet; unread bytes at the end are lost, with the connection. Raises as `_call`."""
        session, base = self._connected()
        url = URL(base + path, encoded=True)
        with _answering(what):
            async with session.request(
                method, url, params=params, headers=headers, data=data, timeout=timeout, allow_redirects=False
            ) as response:
                if response.status >= 300 and response.status != 304:  # 304: it is so already
                    said = f"{what}: {_said(await response.read())}"
                    raise NotThere(said) if response.status == 404 else EngineRefused(said, code=response.status)
                yield response

    def _connected(self) -> tuple[aiohttp.ClientSession, str]:
        if self._closed:  # nobody would close another session
            raise errors.RuntimeUnavailable("the agent has let go of Docker, as it ends")
        scheme, _, place = self._url.partition("://")
        local = scheme in ("unix", "http+unix")
        if not local and scheme not in ("tcp", "http"):
            what = f"Docker can't be reached by {scheme}://"
            raise errors.RuntimeUnavailable(what, where="DOCKER_HOST", fix="It begins with unix:// or tcp://.")
        if self._session is None:
            # Without a limit: streams keep their connections, and callers bound what they ask at once.
            connector = aiohttp.UnixConnector(place, limit=0) if local else aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self._session, "http://docker" if local else f"http://{place.rstrip('/')}"


def _id(full: str) -> str:
    """Of a container or a network: safe in a path."""
    if CONTAINER_ID.fullmatch(full) is None:
        raise errors.InvariantBroken("not a full id")
    return full


def _filters(**filters: list[str]) -> str:
    return msgspec.json.encode(filters).decode()


def _labels(labels: Mapping[str, str]) -> list[str]:
    """As a filter has them."""
    return [f"{name}={value}" if value else name for name, value in labels.items()]


def _cluster_of(owner: Mapping[str, str]) -> dict[str, str]:
    return {"muster.cluster": owner["muster.cluster"]}


def _is_of(owner: Mapping[str, str], found: Any) -> bool:
    return owner.items() <= (found.get("Labels") or {}).items()


def _said(body: bytes) -> str:
    """The message of an answer that isn't a success."""
    try:
        return str(msgspec.json.decode(body)["message"])[:MAX_MESSAGE_CHARACTERS]
    except (*_NO_JSON, TypeError, KeyError):
        return body[:MAX_MESSAGE_CHARACTERS].decode(errors="replace").strip() or "no reason was given"


def _same_cluster(what: str, present: dict[str, str], ours: dict[str, str]) -> None:
    owner = present.get("muster.cluster")
    if owner is not None and owner != ours["muster.cluster"]:
        raise errors.Conflict(f"{what} belongs to another cluster", fix="Rename it in the plan, or the stack.")


def _repository_and_tag(ref: str) -> tuple[str, str]:
    """As the engine takes them; a digest stands in a tag's place."""
    name, at, digest = ref.partition("@")
    if at:
        return name, digest
    directory, slash, last = ref.rpartition("/")
    name, _, tag = last.partition(":")
    return f"{directory}{slash}{name}", tag or "latest"


async def _messages(response: aiohttp.ClientResponse) -> AsyncIterator[Any]:
    """JSON values, one a line. Raises EngineRefused for a line longer than any."""
    try:
        while line := await response.content.readline(max_line_length=MAX_MESSAGE_BYTES):
            if line.strip():
                yield msgspec.json.decode(line)
    except (*_NO_JSON, aiohttp.http_exceptions.LineTooLong) as error:
        raise EngineRefused("Docker sent a message that isn't one") from error


def _loaded(messages: list[Any]) -> tuple[str, ...]:
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


async def _log_line(content: aiohttp.StreamReader) -> RawLine:
    """Of Docker's multiplexed log: per frame stream (1 byte), 3 zero bytes, length (4, big endian), content."""
    header = await content.readexactly(8)
    length = int.from_bytes(header[4:], "big")
    if length > MAX_LOG_FRAME_BYTES:
        raise errors.MusterError("Docker sent a log frame that isn't one")
    stream: Literal["stdout", "stderr"] = "stderr" if header[0] == 2 else "stdout"
    at, _, line = (await content.readexactly(length)).decode(errors="replace").partition(" ")
    return RawLine(at=at, stream=stream, line=line.rstrip("\r\n"))
