"""The one tarball that a host gets: a plain tree of unpacked wheels for its Python and architecture, and our packages.

    MANIFEST                 sha256 and path of every other file
    lib/agent, lib/bootstrap, lib/aiohttp, …   with byte code where the host's Python is this one

Built on the operator's machine and kept in `$XDG_CACHE_HOME/muster`. For this machine's own Python and architecture the
installed distributions' files are taken, without a network; for others pip fetches wheels whose hashes the lock names.
The same input gives the same bytes.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from agent import __version__
from agent.errors import MusterError, NotFound
from bootstrap import wheels
from bootstrap.lockfile import runtime_requirements
from bootstrap.remote.layout import LIBRARY, MANIFEST

FORMAT: Final = 1  # counted up when the same input shall give other bytes
PACKAGES: Final = ("agent", "bootstrap")
RESOURCES: Final = ("requirements.lock", "systemd/muster-agent.service")
"""Beside the packages, here and in a bundle: an agent's host can install others."""

ROOT: Final = Path(__file__).resolve().parent.parent
COMPRESSION: Final = 6  # gzip's own default; 9 takes three times as long for 1 %
COMPILE_TIMEOUT_S: Final = 300.0
KEPT_BUNDLES: Final = 8  # in the cache: some versions for some targets

Files = dict[str, bytes]
"""Path in the tree → content."""

# Reads [[source, compiled, shown], …] as JSON. A process of its own, with a fixed hash seed, so that sets in constants
# have one order; hash-based and unchecked (PEP 552): the files' times don't matter, and nobody edits them there.
_COMPILE: Final = """\
import json, py_compile, sys
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
for source, compiled, shown in json.load(sys.stdin):
    try:
        py_compile.compile(source, compiled, shown, doraise=True, invalidation_mode=mode)
    except py_compile.PyCompileError:
        pass  # a template, or a file for another Python
"""


class Target(Struct, frozen=True, kw_only=True, order=True):
    """What a host runs: Python's version (3, 11), `platform.machine()`, gnu or musl."""

    python: tuple[int, int]
    machine: str
    libc: str

    @classmethod
    def own(cls) -> Target:
        """This interpreter's."""
        libc = "gnu" if platform.libc_ver()[0] == "glibc" else "musl"
        return cls(python=sys.version_info[:2], machine=platform.machine(), libc=libc)

    def __str__(self) -> str:
        return f"Python {self.python[0]}.{self.python[1]} on {self.machine}" + (
            " (musl)" if self.libc == "musl" else ""
        )


class Bundle(Struct, frozen=True, kw_only=True):
    """A tarball in the cache. `version` is the name of its directory on the host; `manifest` the sha256 of its list of
    files.
    """

    version: str
    path: Path
    size: int
    sha256: str
    manifest: str


def resource(name: str) -> Path:
    """A file that is installed beside the packages. Raises NotFound."""
    path = ROOT / name
    if not path.is_file():
        fix = "Use the commands of a clone, after `make venv`: pip installs only the packages."
        raise NotFound("this installation of Muster lacks a file", where=str(path), fix=fix)
    return path


def cache_directory(environ: Mapping[str, str]) -> Path:
    """`$XDG_CACHE_HOME/muster` (XDG Base Directory)."""
    configured = environ.get("XDG_CACHE_HOME", "")
    base = Path(configured) if configured.startswith("/") else Path(environ.get("HOME", "/")) / ".cache"
    return base / "muster"


def build(target: Target, cache: Path) -> Bundle:
    """The bundle for that target, from the cache if it is there. Blocks; a new one takes seconds.

    Raises MusterError saying what to do, e.g. when wheels can't be fetched.
    """
    own = _own_files()
    key = _key(target, own)
    place = cache / f"bundle-{key}.tar.gz"
    try:
        with _locked(cache):
            if (known := _cached(place)) is not None:
                return known
            files = {f"{LIBRARY}/{path}": data for path, data in _tree(target, own).items()}
            made = _write(place, files, key)
            _prune(cache)
    except OSError as error:
        what = f"the agent's files can't be put together: {error.strerror}"
        # Not by name: on a disk without room none is found for what is temporary, which may be the error.
        fix = f"They are kept in {cache}, and made where TMPDIR says, else in /tmp; XDG_CACHE_HOME names another cache."
        raise MusterError(what, where=error.filename or str(cache), fix=fix) from None
    return made


def pack(files: Mapping[str, bytes]) -> tuple[bytes, bytes]:
    """(tarball, manifest) of a tree; always the same for the same files."""
    manifest = "".join(f"{hashlib.sha256(data).hexdigest()}  {path}\n" for path, data in sorted(files.items())).encode()
    packed = io.BytesIO()
    with (
        gzip.GzipFile("", "wb", COMPRESSION, packed, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for path, data in [(MANIFEST, manifest), *sorted(files.items())]:
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))
    return packed.getvalue(), manifest


def _tree(target: Target, own: Files) -> Files:
    """Everything below lib/."""
    if target == Target.own():
        if (shipped := _shipped()) is not None:
            return shipped
        files = wheels.installed_files()
        with tempfile.TemporaryDirectory(prefix="muster-bundle-") as directory:
            return {**files, **own, **_byte_code({**files, **own}, Path(directory))}
    locked = runtime_requirements(resource("requirements.lock").read_text("utf-8"))
    locked = tuple(each for each in locked if each.name not in wheels.LEFT_OUT)
    with tempfile.TemporaryDirectory(prefix="muster-bundle-") as directory:
        fetched = wheels.download(locked, target.python, wheels.platforms(target.machine, target.libc), Path(directory))
        return {**wheels.unpack(fetched), **own}


def _own_files() -> Files:
    """Our packages, what is installed beside them, and enough of a distribution that its version can be asked for."""
    files: Files = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix in (".py", ".html", ".js", ".css"):
                files[path.relative_to(ROOT).as_posix()] = path.read_bytes()
    for name in RESOURCES:
        files[name] = resource(name).read_bytes()
    metadata = f"Metadata-Version: 2.1\nName: muster\nVersion: {__version__}\n"
    files[f"muster-{__version__}.dist-info/METADATA"] = metadata.encode()
    return files


def _manifest() -> bytes | None:
    """The manifest of the bundle that this program came in; None if it was installed in another way."""
    path = ROOT.parent / MANIFEST
    return path.read_bytes() if ROOT.name == LIBRARY and path.is_file() else None


def _shipped() -> Files | None:
    """Everything below lib/ as it came: what runs here runs on a host with the same Python. Raises MusterError."""
    listed = _manifest()
    if listed is None:
        return None
    files: Files = {}
    for line in listed.decode().splitlines():
        wanted, _, path = line.partition("  ")
        data = (ROOT.parent / path).read_bytes()
        if hashlib.sha256(data).hexdigest() != wanted:
            raise MusterError("a file isn't as it was installed", where=path, fix="Run `bootstrap install` again.")
        files[path.removeprefix(f"{LIBRARY}/")] = data
    return files


def _byte_code(files: Files, directory: Path) -> Files:
    """`__pycache__` for every module."""
    tag = sys.implementation.cache_tag
    jobs, places = [], {}
    for number, (path, data) in enumerate(sorted(files.items())):
        if not path.endswith(".py"):
            continue
        source, compiled = directory / f"{number}.py", directory / f"{number}.pyc"
        source.write_bytes(data)
        jobs.append([str(source), str(compiled), f"/opt/muster/current/lib/{path}"])
        parent, _, name = path.rpartition("/")
        places[f"{parent}{'/' if parent else ''}__pycache__/{name[:-3]}.{tag}.pyc"] = compiled
    environ = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [sys.executable, "-s", "-P", "-c", _COMPILE],
        input=json.dumps(jobs).encode(),
        capture_output=True,
        timeout=COMPILE_TIMEOUT_S,
        env=environ,
        check=False,
    )
    if done.returncode != 0:
        raise MusterError(f"byte code can't be made: {done.stderr.decode(errors='replace').strip()[-300:]}")
    return {path: compiled.read_bytes() for path, compiled in places.items() if compiled.exists()}


def _key(target: Target, own: Files) -> str:
    """Identifies the input: our files, the distributions, the target, and this Python if its byte code is included."""
    parts: list[object] = [FORMAT, msgspec.to_builtins(target)]
    parts += [[path, hashlib.sha256(data).hexdigest()] for path, data in sorted(own.items())]
    if target == Target.own():
        if (listed := _manifest()) is not None:
            parts += [hashlib.sha256(listed).hexdigest()]
        else:
            parts += [sys.version, sorted(wheels.installed_versions().items())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _write(place: Path, files: Files, key: str) -> Bundle:
    packed, manifest = pack(files)
    fields = {
        "version": f"{__version__}-{key[:10]}",
        "size": len(packed),
        "sha256": hashlib.sha256(packed).hexdigest(),
        "manifest": hashlib.sha256(manifest).hexdigest(),
    }
    for path, data in ((place, packed), (_notes(place), json.dumps(fields).encode())):
        beside = path.with_suffix(".new")
        try:
            beside.write_bytes(data)
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    return msgspec.convert({**fields, "path": str(place)}, Bundle, dec_hook=lambda kind, value: kind(value))


def _cached(place: Path) -> Bundle | None:
    """The cached tarball, if it is complete."""
    try:
        fields = json.loads(_notes(place).read_bytes())
        bundle = msgspec.convert({**fields, "path": str(place)}, Bundle, dec_hook=lambda kind, value: kind(value))
        if hashlib.sha256(place.read_bytes()).hexdigest() != bundle.sha256:
            return None
    except (OSError, ValueError, TypeError):
        return None
    place.touch()
    return bundle


def _notes(place: Path) -> Path:
    return place.with_name(place.name.removesuffix(".tar.gz") + ".json")


def _prune(cache: Path) -> None:
    """Keeps only the most recently used."""
    places = sorted(cache.glob("bundle-*.tar.gz"), key=lambda path: path.stat().st_mtime, reverse=True)
    for place in places[KEPT_BUNDLES:]:
        _notes(place).unlink(missing_ok=True)
        place.unlink(missing_ok=True)


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Lets two installs that run at once build a bundle only once."""
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(cache / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
