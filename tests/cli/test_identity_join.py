"""`agent identity join`: request and grant in one process, as bootstrap's helper uses it on a host."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.model.cluster import IdentityRequest
from agent.model.decode import decode_json
from tests.support.trust import Trust

TIMEOUT_S = 30.0


@pytest.fixture
def joining(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    config = tmp_path / "agent.toml"
    config.write_text(f'data_dir = "{tmp_path}/data"\n')
    argv = [sys.executable, "-m", "agent", "identity", "join", "--config", str(config), "--name", "n1"]
    argv += ["--address", "192.0.2.7", "--json"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        yield process
        process.kill()


def asked(process: subprocess.Popen[bytes]) -> IdentityRequest:
    assert process.stdout is not None
    request: IdentityRequest = decode_json(process.stdout.readline(), IdentityRequest, max_bytes=65_536)
    return request


def test_the_request_comes_before_the_grant_is_given(joining: subprocess.Popen[bytes], tmp_path: Path) -> None:
    request = asked(joining)
    assert (request.name, request.address) == ("n1", "192.0.2.7")
    trust = Trust()
    certificate = trust.certify_request(request)
    grant = trust.grant(certificate, trust.genesis([(request, certificate)]))
    out, err = joining.communicate(msgspec.json.encode(grant), TIMEOUT_S)
    assert (joining.returncode, out) == (0, b'{"accepted":true}\n'), err
    assert (tmp_path / "data/identity/grant.json").exists()


def test_without_a_grant_only_the_keys_are_made(joining: subprocess.Popen[bytes], tmp_path: Path) -> None:
    asked(joining)
    out, err = joining.communicate(b"", TIMEOUT_S)
    assert (joining.returncode, out) == (0, b""), err
    assert (tmp_path / "data/identity/signing.pem").exists()
    assert not (tmp_path / "data/identity/grant.json").exists()


def test_a_grant_that_does_not_fit_is_refused(joining: subprocess.Popen[bytes], tmp_path: Path) -> None:
    asked(joining)
    joining.communicate(b"{}", TIMEOUT_S)
    assert joining.returncode == 2
    assert not (tmp_path / "data/identity/grant.json").exists()
