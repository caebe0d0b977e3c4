"""A Docker Engine of our own for the tests marked `docker`: private directories and socket, no rules in iptables.

Where no dockerd can be had (not installed, not root, no cgroups) those tests skip and say why.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import docker
import pytest

from tests.support.waiting import wait_for_sync

START_TIMEOUT_S = 30.0
IMAGE = "muster-test:1"


def ending_at_once(program: str, first: str = "") -> list[str]:
    """A container's command that a stop ends at once; a container's first process ignores SIGTERM by itself."""
    return ["/bin/sh", "-c", f"trap exit TERM; {first}{program} & wait"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "docker: needs a private dockerd (root and Debian's docker.io)")


@dataclass
class Dockerd:
    """A private dockerd below `directory`; `start` and `kill` as a test likes."""

    directory: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def url(self) -> str:
        return f"unix://{self.directory}/docker.sock"

    def start(self) -> None:
        command = [
            "dockerd",
            f"--data-root={self.directory}/data",
            f"--exec-root={self.directory}/exec",
            f"--pidfile={self.directory}/pid",
            f"--host={self.url}",
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
            "--userland-proxy=true",
        ]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for_sync(self._answers, START_TIMEOUT_S, what="dockerd")

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError((self.directory / "log").read_text()[-500:])
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(f"{self.directory}/docker.sock") != 0:
                return False
        client = self.client()
        client.close()
        return True

    def stop(self) -> None:
        """As systemctl stop does: containers end with it."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def client(self) -> docker.APIClient:
        return docker.APIClient(base_url=self.url, timeout=30)

    def import_image(self) -> None:
        """A tree of busybox alone."""
        busybox = shutil.which("busybox")
        assert busybox is not None
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tree:
            tree.add(busybox, "bin/busybox")
            for name in ("sh", "sleep", "httpd", "echo", "cat", "env", "true", "false"):
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tree.addfile(link)
        client = self.client()
        repository, tag = IMAGE.split(":")
        client.import_image_from_data(data.getvalue(), repository=repository, tag=tag)
        client.close()


def _missing() -> str:
    if os.geteuid() != 0:
        return "not root, so no private dockerd"
    for program in ("dockerd", "containerd", "busybox"):
        if shutil.which(program) is None:
            return f"{program} isn't installed (Debian: docker.io, busybox-static)"
    return ""


def running_dockerd(directory: Path) -> Iterator[Dockerd]:
    """One that runs and has the image, until the generator is closed; its files go with it."""
    daemon = Dockerd(directory)
    try:
        daemon.start()
        daemon.import_image()
        yield daemon
    finally:
        daemon.stop()
        for mounted in ("exec", "data"):
            subprocess.run(["umount", "-R", "-q", str(directory / mounted)], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def dockerd() -> Iterator[Dockerd]:
    if why := _missing():
        pytest.skip(why)
    directory = Path(tempfile.mkdtemp(prefix="muster-dockerd-"))
    daemon = running_dockerd(directory)
    try:
        running = next(iter(daemon))
    except (RuntimeError, AssertionError) as error:
        pytest.skip(f"dockerd doesn't run here: {error}")
    yield running
    with contextlib.suppress(StopIteration):
        next(iter(daemon))


@pytest.fixture
def engine(dockerd: Dockerd) -> Iterator[docker.APIClient]:
    client = dockerd.client()
    yield client
    client.close()
