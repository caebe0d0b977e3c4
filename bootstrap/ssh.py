"""OpenSSH: the command line for a host, and what its messages mean. The user's own configuration and agent are used."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

from agent.errors import MusterError, NotAllowed, NotFound, RuntimeUnavailable, TimedOut, Unreachable
from bootstrap.inventory import InventoryHost
from bootstrap.program import LOADER, LOADING, TOO_OLD

CONNECT_TIMEOUT_S: Final = 10  # a host across the world answers within one
ALIVE_INTERVAL_S: Final = 5
ALIVE_COUNT: Final = 6  # a host that says nothing for half a minute is gone
QUERY_TIMEOUT_S: Final = 10.0

SUDO_PROMPT: Final = "muster-sudo-password:"
"""sudo writes it to stderr when it wants the password; ours, so that it is known among what else comes there."""

_OPTIONS: Final = (
    "BatchMode=yes",
    "PasswordAuthentication=no",
    "KbdInteractiveAuthentication=no",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "RequestTTY=no",
    f"ConnectTimeout={CONNECT_TIMEOUT_S}",
    f"ServerAliveInterval={ALIVE_INTERVAL_S}",
    f"ServerAliveCountMax={ALIVE_COUNT}",
)


class SshSettings(Struct, frozen=True, kw_only=True):
    """The settings of the command line, for all hosts."""

    identity_file: str | None = None
    accept_new: bool = False
    sudo_password: bool = False


class Resolved(Struct, frozen=True, kw_only=True):
    """How ssh resolves a destination (`ssh -G`). `keys_elsewhere`: it names an agent or a token that holds keys."""

    user: str
    identity_files: tuple[str, ...]
    keys_elsewhere: bool = False


def arguments(host: InventoryHost, settings: SshSettings) -> list[str]:
    """ssh's own arguments, up to and including the destination, without a command."""
    argv = ["ssh", "-T", *(part for option in _OPTIONS for part in ("-o", option))]
    argv += ["-o", f"StrictHostKeyChecking={'accept-new' if settings.accept_new else 'yes'}"]
    if key := key_file(host, settings):
        argv += ["-o", "IdentitiesOnly=yes", "-i", key]
    if host.port is not None:
        argv += ["-p", str(host.port)]
    if host.user is not None:
        argv += ["-l", host.user]
    return [*argv, "--", host.host]


def key_file(host: InventoryHost, settings: SshSettings) -> str | None:
    """The private key that was named for this host."""
    named = host.key or settings.identity_file
    return os.path.abspath(os.path.expanduser(named)) if named else None


def check_key(host: InventoryHost, settings: SshSettings) -> None:
    """If the file that was named doesn't exist, ssh would silently try other keys. Raises NotFound."""
    key = key_file(host, settings)
    if key is not None and "%" not in key and not os.path.exists(key) and not host.local:
        fix = f"Name one that is there: key=FILE in {host.where}, or --identity-file FILE."
        raise NotFound("there is no such key", where=key, fix=fix)


def helper_command(host: InventoryHost, settings: SshSettings, user: str) -> list[str]:
    """The argv that starts the helper on the host as root; on this machine for a local one."""
    python = host.python or ("/usr/bin/python3" if host.local and os.path.exists("/usr/bin/python3") else "python3")
    sudo = user != "root" if host.sudo is None else host.sudo and user != "root"
    how = ["sudo", "-S", "-p", SUDO_PROMPT] if settings.sudo_password else ["sudo", "-n"]
    prefix = [*how, "--"] if sudo else []
    if host.local:
        return [*prefix, python, "-I", "-c", LOADER]
    # The host's login shell puts this line together again, whichever it is: only these words, no data.
    command = " ".join([*prefix, python, "-I", "-c", f"'{LOADER}'", '"$SSH_CONNECTION"'])
    return [*arguments(host, settings), command]


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Keeps ssh from prompting, on a terminal or in a window."""
    return {**environ, "SSH_ASKPASS_REQUIRE": "never", "LC_ALL": "C.UTF-8"}


def resolve(host: InventoryHost, settings: SshSettings) -> Resolved:
    """Ask ssh how its configuration resolves the destination. Raises RuntimeUnavailable without an ssh."""
    options = arguments(host, settings)
    try:
        done = _run([*options[:1], "-G", *options[1:]])
    except FileNotFoundError:
        raise missing("ssh") from None
    except subprocess.TimeoutExpired:
        raise TimedOut("`ssh -G` doesn't end", fix="Look at `Match exec` lines in ~/.ssh/config.") from None
    if done.returncode != 0:
        raise MusterError(f"ssh refuses: {_last(done.stderr)}", fix="Look at ~/.ssh/config.")
    pairs = [line.partition(" ") for line in done.stdout.splitlines()]
    values = {key: value for key, _, value in pairs}
    return Resolved(
        user=values.get("user", ""),
        identity_files=tuple(value for key, _, value in pairs if key == "identityfile"),
        keys_elsewhere=any(values.get(key, "none") != "none" for key in ("identityagent", "pkcs11provider")),
    )


def missing(program: str) -> RuntimeUnavailable:
    """The error when that program isn't on this machine."""
    package = "openssh-client" if program == "ssh" else program
    return RuntimeUnavailable(f"there is no {program} on this machine", fix=f"Install it: apt install {package}")


def held_keys() -> str | None:
    """The public keys that the user's ssh agent holds, including tokens'; None when it doesn't answer in time."""
    try:
        return _run(["ssh-add", "-L"]).stdout  # to stdout it also says that it has none; no key is called so
    except OSError:
        return ""
    except subprocess.TimeoutExpired:  # e.g. it asks on a window that nobody sees
        return None


def locked_key(files: tuple[str, ...], held: str | None) -> str | None:
    """The first of these private keys that has a passphrase and isn't among those that the agent holds."""
    for name in files:
        path = Path(name).expanduser()
        if held is None or not path.is_file():
            continue
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            opened = _run(["ssh-keygen", "-y", "-P", "", "-f", str(path)])
            if opened.returncode != 0 and "passphrase" in opened.stderr:
                public = path.with_name(path.name + ".pub")
                blob = public.read_text("utf-8", "replace").split()[1:2] if public.is_file() else []
                if not blob or blob[0] not in held:
                    return name
    return None


def has_key(resolved: Resolved, held: str | None) -> bool:
    """Whether ssh may have any key to offer: a private key's file, or one that an agent or a token holds."""
    files = any(Path(name).expanduser().is_file() for name in resolved.identity_files)
    return files or resolved.keys_elsewhere or held is None or re.search(r"^\S+ AAAA", held, re.MULTILINE) is not None


def no_key(host: InventoryHost) -> MusterError:
    """The error for a user who never made one."""
    fix = (
        f"Make one: ssh-keygen -t ed25519; then bring it there: ssh-copy-id {_by_hand(host, None)}. "
        "A token has to be plugged in and its key loaded: ssh-add -s LIBRARY (PKCS#11), or ssh-add -K (FIDO)."
    )
    return NotAllowed("ssh finds no key on this machine", fix=fix)


def explain(
    host: InventoryHost, resolved: Resolved | None, complaint: str, code: int, *, key: str | None = None
) -> MusterError:
    """One line and its fix for how the connection ended, from what ssh, sudo or python wrote to stderr. Pure.

    `key`: the private key that was named for this host.
    """
    text = complaint.replace("\r", "")
    for pattern, make in _COMPLAINTS:
        if match := re.search(pattern, text, re.IGNORECASE | re.MULTILINE):
            return make(_Case(host, resolved, match, key))
    said = _last(text) or f"exit {code}"
    return Unreachable(f"the connection ended: {said}", fix=f"Try it by hand: ssh {_by_hand(host, key)} true")


class _Case:
    """A message that was recognised."""

    def __init__(self, host: InventoryHost, resolved: Resolved | None, match: re.Match[str], key: str | None) -> None:
        self.host, self.resolved, self.match, self.key = host, resolved, match, key

    @property
    def hand(self) -> str:
        """ssh's arguments as a user would type them."""
        return _by_hand(self.host, self.key)

    @property
    def user(self) -> str:
        """The user to log in as."""
        return self.host.user or (self.resolved.user if self.resolved is not None else "") or "the user"


def _by_hand(host: InventoryHost, key: str | None) -> str:
    named = f"-i {shlex.quote(key)} " if key else ""
    port = f"-p {host.port} " if host.port else ""
    return f"{named}{port}{f'{host.user}@' if host.user else ''}{host.host}"


_NOISE: Final = re.compile(rf"Warning: Permanently added|{LOADING}|{SUDO_PROMPT}")


def _last(text: str) -> str:
    said = [line.strip() for line in text.splitlines() if line.strip() and not _NOISE.match(line)]
    return said[-1][:300] if said else ""


def _run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, check=False
    )


def _changed_key(case: _Case) -> MusterError:
    """Of the host, or of one on the way there; ssh says which file has the old key, and under which name."""
    named = re.search(r"^Host key for (\S+) has changed", case.match.string, re.MULTILINE)
    file = re.search(r"^Offending \S+ key in (.+):\d+$", case.match.string, re.MULTILINE)
    name = named[1] if named else _known_as(case.host)
    where = f"-f {shlex.quote(file[1])} " if file else ""
    whose = "its host key" if name in (case.host.host, _known_as(case.host)) else f"the host key of {name}"
    fix = (
        f"If it was set up anew: ssh-keygen {where}-R {shlex.quote(name)}, then log in once: ssh {case.hand}. "
        "If nobody did that, another machine answers in its place: don't go on."
    )
    return NotAllowed(f"{whose} isn't the one that is known", fix=fix)


def _unknown_key(case: _Case) -> MusterError:
    fix = f"Log in once to check it: ssh {case.hand}; or trust keys that are seen for the first time: --accept-new"
    return NotAllowed("its host key isn't known", fix=fix)


def _denied(case: _Case) -> MusterError:
    if unread := re.search(r'^Load key "?([^"\n]+?)"?: (.*)$', case.match.string, re.MULTILINE):
        return _bad_key(unread[1], unread[2].strip())
    what = f"ssh doesn't let {case.user} in ({case.match[1]})"
    if "publickey" not in case.match[1]:
        return NotAllowed(
            what, fix="Its sshd accepts no keys: `PubkeyAuthentication yes` in /etc/ssh/sshd_config there."
        )
    other = "; or name another key: --identity-file FILE"
    fix = f"Bring {'that' if case.key else 'your'} key there: ssh-copy-id {case.hand}{other}"
    if case.user == "root":
        fix += ". Where root may not log in, name a user who may use sudo: user@host."
    return NotAllowed(what, fix=fix)


def _too_many_keys(case: _Case) -> MusterError:
    fix = f"Name the right one: key=FILE in {case.host.where}, or --identity-file FILE."
    return NotAllowed("ssh tried more keys than its sshd allows", fix=fix)


def _bad_key(file: str, why: str) -> MusterError:
    if "permission" in why and not file.endswith(".pub"):
        fix = f"Close it to them: chmod 600 {shlex.quote(file)}"
        return NotAllowed(f"ssh won't use the key {file}: others may read it", fix=fix)
    fix = "Name the private key, the file without `.pub`: --identity-file FILE"
    return NotAllowed(f"ssh can't read the key {file}: {why}", fix=fix)


def _known_as(host: InventoryHost) -> str:
    return f"[{host.host}]:{host.port}" if host.port not in (None, 22) else host.host


def _sudo_rule(case: _Case) -> MusterError:
    fix = f"Add --ask-sudo-password; or let {case.user} use sudo without one, or log in as root."
    return NotAllowed(f"sudo asks {case.user} for a password", fix=fix)


_COMPLAINTS: Final = (
    (r"REMOTE HOST IDENTIFICATION HAS CHANGED", _changed_key),
    (r"Host key verification failed|No \S+ host key is known", _unknown_key),
    (r"Too many authentication failures", _too_many_keys),
    (r"Permission denied \(([^)]*)\)", _denied),
    (
        r"Could not resolve hostname (\S+?):",
        lambda c: Unreachable(f"there is no host {c.match[1]}", fix=f"Look for a slip in {c.host.where}, or at DNS."),
    ),
    (
        r"port (\d+): Connection refused",
        lambda c: Unreachable(
            f"nothing listens on port {c.match[1]}",
            fix=f"Is sshd running there, and on that port? {c.host.host}:PORT in the list names another.",
        ),
    ),
    (
        r"Connection timed out|Operation timed out|No route to host|Network is unreachable|timeout.*not responding",
        lambda c: Unreachable("no answer on the network", fix="Is it on, and its address right? Does a firewall drop?"),
    ),
    (
        r"sudo: .*password is required|sudo: a terminal is required|sudo: no tty",
        _sudo_rule,
    ),
    (
        r"is not in the sudoers file|not allowed to (?:execute|run)",
        lambda c: NotAllowed(f"{c.user} may not use sudo there", fix="Add the user to group sudo, or log in as root."),
    ),
    (
        r"sudo: (?:command )?not found|sudo: No such file",
        lambda c: NotAllowed(
            f"there is no sudo, and {c.user} isn't root", fix="Install it there: apt install sudo; or use root@."
        ),
    ),
    (
        TOO_OLD + r" (\S+)",
        lambda c: MusterError(
            f"its python3 is {c.match[1]}, 3.11 is needed", fix="Install one and name it: python=/usr/bin/python3.11"
        ),
    ),
    (
        r"python\S*: (?:command )?not found|python\S*: No such file|unknown command:? .*python",
        lambda c: MusterError(
            "there is no python3", fix="Install it there: apt install python3 (dnf, apk, …); 3.11 or later."
        ),
    ),
    (
        r"No space left on device",
        lambda c: MusterError("no space left on the disk", fix="`df -h` there shows where."),
    ),
    (
        r"Connection (?:closed|reset) by|kex_exchange_identification",
        lambda c: Unreachable(
            "sshd closed the connection", fix=f"Its log says why: journalctl -u ssh there. By hand: ssh {c.hand}"
        ),
    ),
    (
        r"Bad owner or permissions on (\S+)",
        lambda c: NotAllowed(
            f"ssh won't use {c.match[1]}: others may write or read it", fix="Close it to them: `chmod 600`."
        ),
    ),
)
"""The first that fits is told, so what is certain stands before what may follow from it."""
