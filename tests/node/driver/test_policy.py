"""policy.toml as the daemon reads it: whatever stands there, a policy or one line that says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.errors import NeedsRepair, StorageError
from agent.host import HostPolicy
from agent.node.driver.agent import read_policy


def test_without_a_file_it_is_the_default_one(tmp_path: Path) -> None:
    assert read_policy(tmp_path / "policy.toml") == HostPolicy()


def test_what_it_says_holds(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text('bind_mounts = ["/srv/models:ro"]\nruntimes = ["docker"]\n')
    assert read_policy(file) == HostPolicy(bind_mounts=("/srv/models:ro",), runtimes=("docker",))


@pytest.mark.parametrize(
    ("data", "where", "what"),
    [
        (b"bind_mounts =", "policy.toml", "not valid TOML: "),
        (b"bind_mounts = '\xff'", "policy.toml", "not UTF-8 at byte 15"),
        (b"bind_mounts = " + b"[" * 10_000, "policy.toml", "nested too deep"),
        (b"bind_mounts = " + b"[" * 300 + b"]" * 300, "policy.toml: $.bind_mounts[0]", "expected text, got an array"),
        (b"bind_mounts." + b"a." * 500 + b"a = 1", "policy.toml: $.bind_mounts", "expected an array, got an object"),
        (b"runtimes = " + b"9" * 5000, "policy.toml", "not valid TOML: "),
        (b"runtimes = ['podman']", "policy.toml: $.runtimes[0]", 'expected one of "docker", "process", got "podman"'),
    ],
)
def test_a_mistake_is_told_in_one_line_with_its_place(tmp_path: Path, data: bytes, where: str, what: str) -> None:
    file = tmp_path / "policy.toml"
    file.write_bytes(data)
    with pytest.raises(NeedsRepair) as caught:
        read_policy(file)
    assert caught.value.where == str(tmp_path / where)
    assert caught.value.what.startswith(what)
    assert "\n" not in caught.value.what


def test_a_file_that_can_not_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="can't be read"):
        read_policy(tmp_path)
