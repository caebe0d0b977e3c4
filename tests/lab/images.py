"""Images made offline: a static busybox and two scripts, in `docker save` format: the same bytes, and so the
same image id, on every host.

`muster-web:<tag>` serves HTTP on $PORT (8080): `/` says "muster-web <VERSION> on <hostname>", `/health` says "ok" until
somebody removes /www/health, `/cgi-bin/env` shows the environment. VERSION is the tag, so every tag is another image.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import platform
import re
import tarfile

from tests.lab.base import Base
from tests.lab.process import LabError, execute

DEMO = "muster-web:demo"

_NAME = re.compile(r"[a-z0-9][a-z0-9._/-]{0,100}:[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

SERVE = """\
#!/bin/sh
# Process 1 of a container has no default signal actions: without the trap, `docker stop` waits for its timeout.
echo "muster-web $VERSION on $(hostname)" > /www/index.html
httpd -f -p "$PORT" -h /www &
trap "kill $!; exit 0" TERM INT
wait $!
"""

SHOW_ENVIRONMENT = """\
#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'
env
"""


@functools.cache
def archive(tree: Base, name: str = DEMO, serve: str = SERVE) -> bytes:
    """The image as `docker load` reads it, with `serve` as its script. Raises LabError for a name without a tag."""
    if not _NAME.fullmatch(name):
        raise LabError(f"image name {name!r}: repository:tag is wanted")
    busybox = tree.path / "busybox"
    return build(name, busybox.read_bytes(), execute([str(busybox), "--list"]).stdout.split(), serve)


def build(name: str, busybox: bytes, applets: list[str], serve: str = SERVE) -> bytes:
    """The `docker save` archive (image specification 1.2) of one layer. The same input gives the same bytes."""
    layer = _layer(busybox, applets, serve)
    digest = hashlib.sha256(layer).hexdigest()
    config = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "created": "2000-01-01T00:00:00Z",
        "config": {
            "Cmd": ["/bin/serve"],
            "Env": ["PATH=/bin", "PORT=8080", f"VERSION={name.rpartition(':')[2]}"],
            "ExposedPorts": {"8080/tcp": {}},
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created": "2000-01-01T00:00:00Z", "created_by": "tests.lab"}],
    }
    config_bytes = json.dumps(config, sort_keys=True).encode()
    config_name = f"{hashlib.sha256(config_bytes).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": [f"{digest}/layer.tar"]}]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        _add(tar, config_name, config_bytes)
        _add(tar, f"{digest}/layer.tar", layer)
        _add(tar, "manifest.json", json.dumps(manifest).encode())
    return buffer.getvalue()


def _layer(busybox: bytes, applets: list[str], serve: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("bin", "etc", "tmp", "www", "www/cgi-bin"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(folder)
        _add(tar, "bin/busybox", busybox, 0o755)
        for applet in sorted({*applets} - {"busybox"}):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        _add(tar, "bin/serve", serve.encode(), 0o755)
        _add(tar, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\n")
        _add(tar, "www/health", b"ok\n")
        _add(tar, "www/cgi-bin/env", SHOW_ENVIRONMENT.encode(), 0o755)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    member = tarfile.TarInfo(name)  # time 0 and owner 0, so the bytes depend on the content alone
    member.size, member.mode = len(content), mode
    tar.addfile(member, io.BytesIO(content))
