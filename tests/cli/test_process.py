"""The command as a process: how fast its help is, exit codes, pipes, and the host's side of joining."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from agent.cli import joining
from agent.cli.main import COMMANDS
from agent.errors import EXIT_USAGE
from agent.model.cluster import IdentityRequest
from agent.model.decode import decode_json
from tests.support.trust import Trust

HELP_BUDGET_S = 0.15  # of CPU: what a person doesn't notice


def run(*args: str, stdin: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "agent", *args],
        input=stdin,
        capture_output=True,
        env={**os.environ, **env},
        timeout=30,
        check=False,
    )


def test_help_loads_nothing_heavy_and_is_there_at_once() -> None:
    script = (
        "import sys, time\n"
        "from agent.cli.main import run\n"
        "code = run(['--help'])\n"
        "heavy = {'msgspec', 'aiohttp', 'rich', 'cryptography', 'jwt', 'asyncio'} & set(sys.modules)\n"
        "print(code, sorted(heavy), time.process_time() <= float(sys.argv[1]), file=sys.stderr)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, str(HELP_BUDGET_S)], capture_output=True, text=True, timeout=30, check=True
    )
    assert found.stderr.strip() == "0 [] True"
    for name in COMMANDS:
        assert f"\n  {name}" in found.stdout


SLOW = ("aiohttp", "cryptography.hazmat.primitives.serialization", "cryptography.x509", "http.client", "jwt", "rich")
SPARED = """
import importlib, json, sys
from agent.cli.main import COMMANDS
for name in ("deploy", "scale", "restart", "status", "ps", "logs", "events"):
    importlib.import_module(COMMANDS[name][0])
print(json.dumps(sorted(set(sys.modules) & set(sys.argv[1:]))))
"""


def test_what_people_give_most_imports_none_of_what_is_slow_to_import() -> None:
    found = subprocess.run([sys.executable, "-c", SPARED, *SLOW], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == []


NO_TEXTS = """
import importlib, sys
import msgspec._utils
assert callable(msgspec._utils._forward_ref)

def compiled(text):
    sys.exit(f"msgspec compiles {text!r}")

msgspec._utils._forward_ref = compiled
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


@pytest.mark.parametrize("needed", [joining.NEEDED, ("agent.cli.deploy",), ("bootstrap.install_cli",)])
def test_no_start_compiles_annotations(needed: tuple[str, ...]) -> None:
    """They are types already, where structs are read: else each is a text that every process compiles again."""
    found = subprocess.run([sys.executable, "-c", NO_TEXTS, *needed], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize(("argument", "code"), [("--version", 0), ("nonsense", EXIT_USAGE)])
def test_a_command_whose_output_is_closed_ends_as_any_other(closed: str, argument: str, code: int) -> None:
    line = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "agent", argument]
    found = subprocess.run(line, capture_output=True, text=True, timeout=30, check=False)
    assert (found.returncode, "Traceback" in found.stderr) == (code, False)


AT_WORK_BEHIND = """
import threading
from agent.cli import main

def work():
    threading.main_thread().join()
    print("done", flush=True)

def run(args):
    threading.Thread(target=work).start()
    return 7

main.run = run
main.main([])
"""


def test_a_thread_that_still_works_is_waited_for() -> None:
    """As what takes a backup back that was cancelled: nothing half-done is left."""
    found = subprocess.run([sys.executable, "-c", AT_WORK_BEHIND], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (7, "done\n")


HELP_OF_EACH = """
import json, os, sys, tempfile
import agent.lean_aiohttp, asyncio, cryptography.x509, jwt, msgspec, rich.console, rich.live, rich.table
from agent.cli.main import run

def help_of(name):
    with tempfile.TemporaryFile() as written:
        child = os.fork()
        if child == 0:
            os.dup2(written.fileno(), 1)
            os.dup2(written.fileno(), 2)
            os._exit(run([name, "--help"]))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        written.seek(0)
        return code, written.read().decode()

print(json.dumps({name: help_of(name) for name in sys.argv[1:]}))
"""
HELPS = [name for name in COMMANDS if name != "run"]


@pytest.fixture(scope="module")
def helps() -> dict[str, tuple[int, str]]:
    """Each command's exit code and words, in a process that has imported no other command; what isn't ours is there."""
    command = [sys.executable, "-c", HELP_OF_EACH, *HELPS]
    found: dict[str, tuple[int, str]] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return found


@pytest.mark.parametrize("name", HELPS)
def test_every_command_has_help_and_the_common_options(name: str, helps: dict[str, tuple[int, str]]) -> None:
    code, said = helps[name]
    assert code == 0, said
    for option in ("--json", "--home", "--via", "--socket", "--no-color"):
        assert option in said


def test_version_and_usage_errors() -> None:
    assert run("--version").stdout.startswith(b"agent, version ")
    wrong = run("statsu")
    assert wrong.returncode == 2
    assert wrong.stderr == b"error: agent: No such command 'statsu'\n  See `agent --help`.\n"


def test_a_reader_that_has_enough_is_no_error(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen(
        [sys.executable, "-m", "agent", "token"],
        stdout=writer,
        stderr=subprocess.PIPE,
        env={**os.environ, "MUSTER_HOME": str(tmp_path)},
    )
    os.close(writer)
    _, err = process.communicate(timeout=30)
    assert b"Traceback" not in err
    assert process.returncode == 1  # there is no home; nothing was written to the pipe


def test_a_host_makes_its_identity_and_takes_what_comes_back(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(f'name = "n1"\nadvertise = "192.0.2.7"\ndata_dir = "{tmp_path}/data"\n')
    asked = run("identity", "request", "--config", str(config))
    assert asked.returncode == 0, asked.stderr
    request = decode_json(asked.stdout, IdentityRequest, max_bytes=65_536)
    assert (request.name, request.address, request.api_port) == ("n1", "192.0.2.7", 9999)
    assert run("identity", "request", "--config", str(config)).stdout != b""
    trust = Trust()
    certificate = trust.certify_request(request)
    grant = trust.grant(certificate, trust.genesis([(request, certificate)]))
    bad = run("identity", "accept", "--config", str(config), stdin=b"{}")
    assert bad.returncode == 2
    assert b"standard input: $" in bad.stderr
    good = run("identity", "accept", "--config", str(config), stdin=msgspec.json.encode(grant))
    assert (good.returncode, json.loads(good.stdout)) == (0, {"accepted": True}), good.stderr
    other = Trust()
    foreign = other.grant(certificate, trust.genesis([(request, certificate)]))
    assert run("identity", "accept", "--config", str(config), stdin=msgspec.json.encode(foreign)).returncode != 0


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--config", "/nonexistent"), b"no such configuration file"),
        (("--name", "Not A Name"), b"--name"),
        (("--address", "-oProxyCommand=x"), b"--address"),
    ],
)
def test_a_bad_identity_request_is_named(args: tuple[str, ...], says: bytes, tmp_path: Path) -> None:
    found = run("identity", "request", *args, MUSTER_DATA_DIR=str(tmp_path / "data"))
    assert found.returncode in (1, 2)
    assert says in found.stderr
    assert not (tmp_path / "data").exists()
