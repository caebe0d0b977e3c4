"""Images made without Docker."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile

from tests.lab.images import build


def test_an_archive_is_what_docker_load_reads_and_every_digest_in_it_is_true() -> None:
    with tarfile.open(fileobj=io.BytesIO(build("muster-web:v2", b"\x7fELF", ["sh", "httpd"]))) as archive:
        files = {member.name: archive.extractfile(member) for member in archive.getmembers()}
        contents = {name: file.read() for name, file in files.items() if file}
    [manifest] = json.loads(contents["manifest.json"])
    assert manifest["RepoTags"] == ["muster-web:v2"]
    config = contents[manifest["Config"]]
    assert manifest["Config"] == hashlib.sha256(config).hexdigest() + ".json"
    [layer] = manifest["Layers"]
    assert json.loads(config)["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(contents[layer]).hexdigest()]
    with tarfile.open(fileobj=io.BytesIO(contents[layer])) as tree:
        assert tree.getmember("bin/httpd").linkname == "busybox"
        assert tree.getmember("bin/busybox").mode == 0o755


def test_an_image_depends_on_its_content_and_its_tag_alone() -> None:
    assert build("a:v1", b"x", ["sh", "wget"]) == build("a:v1", b"x", ["wget", "sh"])
    assert build("a:v1", b"x", ["sh"]) != build("a:v2", b"x", ["sh"])
