"""ssh's command line, and what its complaints become: one line with what to do."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import NotFound
from bootstrap.inventory import InventoryHost, parse_inventory
from bootstrap.program import LOADER
from bootstrap.ssh import (
    Resolved,
    SshSettings,
    arguments,
    check_key,
    environment,
    explain,
    has_key,
    held_keys,
    helper_command,
    locked_key,
    no_key,
    resolve,
)

RESOLVED = Resolved(user="ops", identity_files=())


def host(line: str = "ops@n1:2222") -> InventoryHost:
    return parse_inventory(line)[0]


def options_of(argv: list[str]) -> set[str]:
    return {value for flag, value in pairwise(argv) if flag == "-o"}


def test_nothing_is_asked_nothing_forwarded_and_the_host_stands_behind_two_hyphens() -> None:
    argv = arguments(host(), SshSettings())
    assert argv[-2:] == ["--", "n1"]
    wanted = {"BatchMode=yes", "PasswordAuthentication=no", "ForwardAgent=no", "StrictHostKeyChecking=yes"}
    assert wanted <= options_of(argv)
    assert argv[argv.index("-p") + 1] == "2222"
    assert argv[argv.index("-l") + 1] == "ops"
    assert "IdentitiesOnly=yes" not in options_of(argv)


def test_new_keys_are_believed_only_when_told() -> None:
    assert "StrictHostKeyChecking=accept-new" in options_of(arguments(host(), SshSettings(accept_new=True)))


def test_a_named_key_that_is_not_there_is_told_before_ssh_tries_others(tmp_path: Path) -> None:
    (tmp_path / "key").touch()
    check_key(host(f"n1 key={tmp_path}/key"), SshSettings())
    check_key(host(), SshSettings())
    check_key(host("n1 key=%d/.ssh/key"), SshSettings())  # ssh's own words (ssh_config(5), TOKENS)
    for one, settings in ((host("n1 key=/none"), SshSettings()), (host("n1"), SshSettings(identity_file="/none"))):
        with pytest.raises(NotFound) as caught:
            check_key(one, settings)
        assert (caught.value.what, caught.value.where) == ("there is no such key", "/none")


def test_a_named_key_is_the_only_one_and_the_lists_wins() -> None:
    argv = arguments(host("n1 key=/a"), SshSettings(identity_file="/b"))
    assert "IdentitiesOnly=yes" in options_of(argv)
    assert argv[argv.index("-i") + 1] == "/a"
    argv = arguments(host("n1"), SshSettings(identity_file="~/b"))
    assert argv[argv.index("-i") + 1] == os.path.expanduser("~/b")


@pytest.mark.parametrize(
    ("line", "user", "settings", "begins"),
    [
        ("root@n1", "root", SshSettings(), "python3 -I -c "),
        ("ops@n1", "ops", SshSettings(), "sudo -n -- python3 -I -c "),
        ("ops@n1", "ops", SshSettings(sudo_password=True), "sudo -S -p muster-sudo-password: -- python3 -I -c "),
        ("ops@n1 ansible_become=no", "ops", SshSettings(), "python3 -I -c "),
        ("n1 ansible_become=yes", "root", SshSettings(), "python3 -I -c "),
        ("root@n1 python=/opt/py/bin/python3.12", "root", SshSettings(), "/opt/py/bin/python3.12 -I -c "),
    ],
)
def test_root_is_reached_by_sudo_where_the_user_is_another(
    line: str, user: str, settings: SshSettings, begins: str
) -> None:
    command = helper_command(host(line), settings, user)[-1]
    assert command.startswith(begins)
    assert command == f"""{begins}'{LOADER}' "$SSH_CONNECTION\""""


def test_the_loader_is_one_word_in_any_shell() -> None:
    """Single quotes: sh, bash, zsh, fish and csh leave all but ' and (csh) ! as it is."""
    assert not set("'!\n") & set(LOADER)
    said = subprocess.run(["sh", "-c", f"printf %s '{LOADER}'"], capture_output=True, text=True, check=True).stdout
    assert said == LOADER


def test_no_terminal_and_no_window_asks_for_passwords() -> None:
    assert environment({"DISPLAY": ":0"})["SSH_ASKPASS_REQUIRE"] == "never"


@pytest.mark.parametrize(
    ("complaint", "what", "fix"),
    [
        ("ssh: connect to host n1 port 2222: Connection refused", "nothing listens on port 2222", "sshd"),
        ("ssh: connect to host n1 port 2222: Connection timed out", "no answer on the network", "firewall"),
        ("ssh: connect to host n1 port 22: No route to host", "no answer on the network", "address"),
        ("Timeout, server n1 not responding.", "no answer on the network", "on"),
        ("ssh: Could not resolve hostname n1: Name or service not known", "there is no host n1", "hosts.txt:1"),
        (
            "No ED25519 host key is known for n1 and you have requested.\nHost key verification failed.",
            "its host key isn't known",
            "--accept-new",
        ),
        (
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
            "its host key isn't the one that is known",
            "ssh-keygen -R '[n1]:2222'",
        ),
        (
            "Offending ED25519 key in /home/me/.ssh/known hosts:3\nREMOTE HOST IDENTIFICATION HAS CHANGED!\n"
            "Host key for [n1]:2222 has changed and you have requested strict checking.",
            "its host key isn't the one that is known",
            "ssh-keygen -f '/home/me/.ssh/known hosts' -R '[n1]:2222', then log in once: ssh -p 2222 ops@n1.",
        ),
        (
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nOffending RSA key in /srv/known_hosts:3\n"
            "Host key for bastion has changed and you have requested strict checking.",
            "the host key of bastion isn't the one that is known",
            "ssh-keygen -f /srv/known_hosts -R bastion, then log in once: ssh -p 2222 ops@n1.",
        ),
        (
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key for n1;reboot has changed",
            "the host key of n1;reboot",
            "-R 'n1;reboot'",
        ),
        ("ops@n1: Permission denied (password).", "ssh doesn't let ops in (password)", "PubkeyAuthentication"),
        (
            'Load key "/home/me/id": bad permissions\nops@n1: Permission denied (publickey).',
            "ssh won't use the key /home/me/id: others may read it",
            "chmod 600 /home/me/id",
        ),
        (
            'Load key "junk": error in libcrypto\nops@n1: Permission denied (publickey).',
            "ssh can't read the key junk: error in libcrypto",
            ".pub",
        ),
        (
            'Load key "/home/me/id.pub": bad permissions\nops@n1: Permission denied (publickey).',
            "ssh can't read the key /home/me/id.pub",
            ".pub",
        ),
        (
            'Load key "/home/me/other": bad permissions\nsudo: a password is required',
            "sudo asks ops for a password",
            "--ask-sudo-password",
        ),
        (
            "Received disconnect from n1 port 22:2: Too many authentication failures",
            "ssh tried more keys than its sshd allows",
            "key=FILE in hosts.txt:1",
        ),
        ("ops@n1: Permission denied (publickey).", "ssh doesn't let ops in (publickey)", "ssh-copy-id -p 2222 ops@n1"),
        ("sudo: a password is required", "sudo asks ops for a password", "--ask-sudo-password"),
        ("sudo: a terminal is required to read the password", "sudo asks ops", "--ask-sudo-password"),
        ("ops is not in the sudoers file.", "ops may not use sudo", "group sudo"),
        ("bash: line 1: sudo: command not found", "there is no sudo", "apt install sudo"),
        ("bash: line 1: python3: command not found", "there is no python3", "apt install python3"),
        ("sudo: python3: command not found", "there is no python3", "apt install python3"),
        ("fish: Unknown command: python3", "there is no python3", "apt install python3"),
        ("muster: python3 here is 3.6", "its python3 is 3.6, 3.11 is needed", "python="),
        ("kex_exchange_identification: Connection closed by remote host", "sshd closed the connection", "journalctl"),
        ("Bad owner or permissions on /home/me/.ssh/config", "ssh won't use /home/me/.ssh/config", "chmod"),
        ("write: No space left on device", "no space left on the disk", "df -h"),
        ("Warning: Permanently added 'n1'\nsomething else", "the connection ended: something else", "by hand"),
        ("", "the connection ended: exit 255", "ssh -p 2222 ops@n1 true"),
    ],
)
def test_every_usual_failure_is_one_line_with_its_fix(complaint: str, what: str, fix: str) -> None:
    error = explain(host(), RESOLVED, f"{complaint}\r\n", 255)
    assert what in error.what
    assert fix in error.fix
    assert "\n" not in error.what


def test_a_key_that_was_named_is_the_one_to_bring_there() -> None:
    denied = explain(host("root@n1"), None, "root@n1: Permission denied (publickey).", 255, key="/home/me/my key")
    assert "Bring that key there: ssh-copy-id -i '/home/me/my key' root@n1;" in denied.fix
    assert "Where root may not log in" in denied.fix
    silent = explain(host("root@n1"), None, "", 255, key="/home/me/id")
    assert silent.fix == "Try it by hand: ssh -i /home/me/id root@n1 true"


@given(st.text(max_size=300))
def test_any_complaint_becomes_one_line(complaint: str) -> None:
    error = explain(host(), None, complaint, 255)
    assert error.what
    assert error.fix
    assert "\n" not in error.what


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """ssh takes it from the home in passwd, so it's included here by an option that only these tests give."""
    config, wrapper = tmp_path / "config", tmp_path / "ssh"
    monkeypatch.setattr("bootstrap.ssh._OPTIONS", ("BatchMode=yes",))
    real = subprocess.run(["sh", "-c", "command -v ssh"], capture_output=True, text=True, check=True).stdout.strip()
    wrapper.write_text(f'#!/bin/sh\nexec {real} -F {config} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def write(*lines: str) -> None:
        config.write_text("\n".join(["Host n1", *lines, ""]))

    return write


def test_the_users_own_configuration_counts(configured: Callable[..., None]) -> None:
    configured("User deploy", "IdentityFile ~/.ssh/other")
    found = resolve(host("n1"), SshSettings())
    assert (found.user, found.identity_files) == ("deploy", ("~/.ssh/other",))


@pytest.mark.parametrize(
    ("line", "elsewhere"),
    [
        ("IdentityAgent ~/.keys/agent.sock", True),
        ("PKCS11Provider /usr/lib/token.so", True),
        ("IdentityAgent none", False),
    ],
)
def test_keys_in_an_agent_or_a_token_that_is_configured_count(
    configured: Callable[..., None], monkeypatch: pytest.MonkeyPatch, line: str, elsewhere: bool
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    configured(line, "IdentityFile /nowhere/id")
    assert has_key(resolve(host("n1"), SshSettings()), held_keys()) is elsewhere


def test_a_key_with_a_passphrase_is_locked_and_one_without_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    for name, passphrase in (("open", ""), ("shut", "a secret")):
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(tmp_path / name)]
        subprocess.run(argv, check=True)
    missing, opened, shut = (str(tmp_path / name) for name in ("missing", "open", "shut"))
    held = held_keys()
    assert locked_key((missing, opened), held) is None
    assert locked_key((missing, opened, shut), held) == shut
    assert has_key(Resolved(user="ops", identity_files=(missing, shut)), held)
    assert not has_key(Resolved(user="ops", identity_files=(missing,)), held)
    assert "ssh-keygen -t ed25519; then bring it there: ssh-copy-id -p 2222 ops@n1" in no_key(host()).fix


TOKEN = "sk-ssh-ed25519@openssh.com AAAAGnNr on a token"


@pytest.mark.parametrize(
    ("script", "has"),
    [
        (f"echo '{TOKEN}'", True),
        ("echo 'ecdsa-sha2-nistp256 AAAAE2Vj /usr/lib/opensc-pkcs11.so'", True),
        ("echo 'The agent has no identities.'; exit 1", False),
        ("echo 'Could not open a connection to your authentication agent.' >&2; exit 2", False),
        ("exec sleep 10", True),  # it may have some
    ],
)
def test_a_key_that_an_agent_holds_counts_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, has: bool
) -> None:
    monkeypatch.setattr("bootstrap.ssh.QUERY_TIMEOUT_S", 0.5)
    program = tmp_path / "ssh-add"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert has_key(Resolved(user="ops", identity_files=()), held_keys()) is has


def test_without_an_agent_program_there_is_no_key_in_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert held_keys() == ""
