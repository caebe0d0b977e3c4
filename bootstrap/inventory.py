"""hosts.txt: which hosts, and how ssh reaches them. Pure: text in, frozen hosts out.

    # a comment
    deploy@web1.example.com:2222 region=eu          user@host:port, then key=value …
    web[01:10].example.com                          a range, both ends in it; [a:f] and [1:9:2] too
    db1 ansible_host=10.0.0.7 ansible_user=root     an alias, and Ansible's usual keys
    localhost                                       this machine, without ssh

    [database]                                      a group: its hosts get the label database=true
    db1 disk=ssd                                    any other key=value is a label
    [database:vars]                                 for every host of the group
    zone=b
    [storage:children]                              groups in a group
    database

Keys: KEYS and their Ansible names ALIASES. What stands on the host's line wins over the group's vars, a group's over
its parent's, all over `[all:vars]`. Every error names file:line:column.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from agent.errors import InputError
from agent.model.cluster import MAX_MEMBERS
from agent.model.decode import convert
from agent.model.explain import shown
from agent.model.types import HostAddress, Label, LabelKey, Labels, LabelValue, Port, is_label
from bootstrap.inventory_groups import Groups
from bootstrap.inventory_lines import Line, Pair, Token, expand, fail, read_line, split_lines

MAX_INVENTORY_BYTES: Final = 1_048_576  # 1000 hosts with a long line each
MAX_TOLD_MISTAKES: Final = 10  # behind the first; a file of another kind has one in each line

ALIASES: Final[Mapping[str, str]] = {
    "ansible_host": "host",
    "ansible_ssh_host": "host",
    "ansible_user": "user",
    "ansible_ssh_user": "user",
    "ansible_port": "port",
    "ansible_ssh_port": "port",
    "ansible_ssh_private_key_file": "key",
    "ansible_private_key_file": "key",
    "ansible_become": "sudo",
    "ansible_connection": "connection",
    "ansible_python_interpreter": "python",
}
"""Ansible's connection variables that mean one of KEYS."""

KEYS: Final = ("host", "user", "port", "key", "sudo", "connection", "python", "name", "advertise")
"""host: where ssh goes. key: a private key's file. sudo: whether it is needed to be root. connection: ssh or local.
python: the interpreter there. name: the host's name in the cluster. advertise: the address that others use."""

_BECOME: Final = {"ansible_become_user": "root", "ansible_become_method": "sudo", "ansible_shell_type": "sh"}
"""Harmless where they say what we do anyway."""

_PASSWORDS: Final = re.compile(r"ansible_(?:ssh_pass|password|ssh_password|become_pass|become_password|sudo_pass)")
_ARGUMENTS: Final = re.compile(r"ansible_s(?:sh|ftp|cp)_(?:common|extra)_args|ansible_ssh_(?:args|executable)")

_PYTHON: Final = re.compile(r"[A-Za-z0-9/][A-Za-z0-9/._+-]{0,255}")
"""It stands in a command line that the host's shell reads."""
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@$\\-]{0,63}")
_TRUE: Final = frozenset({"true", "yes", "on", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "0"})
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_NO_NAMES: Final = frozenset({"localhost"})


class InventoryHost(Struct, frozen=True, kw_only=True):
    """One host. `name` None: its own host name. `sudo` None: whenever the user there isn't root."""

    alias: str
    where: str
    host: HostAddress
    user: str | None = None
    port: Port | None = None
    key: str | None = None
    python: str | None = None
    sudo: bool | None = None
    local: bool = False
    name: Label | None = None
    advertise: HostAddress | None = None
    labels: Labels = {}


class _Entry(Struct, kw_only=True):
    """A host while the file is read: what its lines said, apart from groups."""

    token: Token
    own: dict[str, Pair]


def parse_inventory(text: str, file: str = "hosts.txt") -> tuple[InventoryHost, ...]:
    """The hosts, in the file's order. Raises InputError naming file:line:column, with the other mistakes below it."""
    reader = _Reader(file)
    mistakes: list[InputError] = []
    for number, raw in split_lines(text):
        try:
            if (line := read_line(raw, number, file)) is not None:
                reader.take(line)
        except InputError as error:
            mistakes.append(error)
            if raw.lstrip().startswith("["):  # what comes would be taken as another section's
                raise _together(mistakes) from None
    try:
        return reader.finish(mistakes)
    except InputError as error:
        raise _together([*mistakes, error]) from None


def _together(mistakes: Sequence[InputError]) -> InputError:
    """The first mistake in the file, with the others in its fix."""
    first, *others = sorted(mistakes, key=lambda error: [int(part) for part in error.where.rsplit(":", 2)[1:]])
    told = [f"{error.where}: {error.what}" for error in others[:MAX_TOLD_MISTAKES]]
    if len(others) > len(told):
        told.append(f"and {len(others) - len(told)} more")
    also = f"Wrong too: {'; '.join(told)}." if told else ""
    return InputError(first.what, where=first.where, fix=" ".join(filter(None, (first.fix, also))))


class _Reader:
    def __init__(self, file: str) -> None:
        self._file = file
        self._groups = Groups(file)
        self._entries: dict[str, _Entry] = {}
        self._kind, self._group = "hosts", "ungrouped"

    def take(self, line: Line) -> None:
        """One line of the file."""
        if line.section is not None:
            self._group, self._kind = self._groups.open(line.section)
        elif self._kind == "children":
            self._groups.child(self._group, line)
        elif self._kind == "vars":
            self._groups.variable(self._group, line)
        else:
            self._host(line)

    def finish(self, mistakes: list[InputError]) -> tuple[InventoryHost, ...]:
        """After the last line; `mistakes` are those of the lines, to which the hosts' are added. Raises InputError."""
        self._groups.check()
        hosts = []
        for entry in self._entries.values():
            try:
                hosts.append(self._resolve(entry))
            except InputError as error:
                mistakes.append(error)
        if mistakes:
            raise mistakes.pop()
        _check_unique(hosts, {entry.token.text: entry.token for entry in self._entries.values()}, self._file)
        return tuple(hosts)

    def _host(self, line: Line) -> None:
        first, *rest = line.tokens
        user, pattern, port = _split_destination(self._file, first)
        pairs = {pair.key.text: pair for pair in (token.pair(self._file) for token in rest)}
        if len(pairs) != len(rest):
            fail(self._file, first, "a key stands twice on this line")
        for name in expand(self._file, first, pattern):
            own = dict(pairs)
            if user is not None:
                own.setdefault("user", Pair(first.at(0, "user"), first.at(0, user)))
            if port is not None:
                own.setdefault("port", Pair(first.at(0, "port"), first.at(0, port)))
            self._enter(name, first.at(0, name), own)

    def _enter(self, name: str, token: Token, own: dict[str, Pair]) -> None:
        known = self._entries.get(name)
        if known is None:
            if len(self._entries) >= MAX_MEMBERS:
                fail(self._file, token, f"more than {MAX_MEMBERS} hosts")
            known = self._entries[name] = _Entry(token=token, own={})
        elif name in self._groups.hosts(self._group):
            fail(self._file, token, f"{shown(name)} stands twice (first in line {known.token.line})")
        for key, pair in own.items():
            other = known.own.setdefault(key, pair)
            if other.value.text != pair.value.text:
                what = f"{key} is {shown(pair.value.text)} here and {shown(other.value.text)} in line {other.key.line}"
                fail(self._file, pair.key, what)
        self._groups.add(self._group, name)

    def _resolve(self, entry: _Entry) -> InventoryHost:
        variables = self._groups.variables(entry.token.text)
        settings: dict[str, Pair] = {}
        labels = dict.fromkeys(self._groups.of(entry.token.text), "true")
        for key, pair in (*variables.items(), *entry.own.items()):
            if (known := ALIASES.get(key, key)) in KEYS:
                settings[known] = pair
            elif not self._set_aside(pair):
                labels[key] = pair.value.text
                self._convert({key: pair.value.text}, dict[LabelKey, LabelValue], pair)
        return self._build(entry, settings, labels)

    def _build(self, entry: _Entry, settings: Mapping[str, Pair], labels: dict[str, str]) -> InventoryHost:
        alias = entry.token.text
        said = {key: pair.value.text for key, pair in settings.items()}
        connection = said.get("connection", "local" if said.get("host", alias) in _LOCAL else "ssh")
        if connection not in ("ssh", "smart", "paramiko", "local"):
            fail(self._file, settings["connection"].value, f"expected ssh or local, got {shown(connection)}")
        if "user" in said and not _USER.fullmatch(said["user"]):
            fail(self._file, settings["user"].value, f"{shown(said['user'])} is no user's name")
        if "key" in said and (not said["key"] or said["key"].startswith("-")):
            fail(self._file, settings["key"].value, f"{shown(said['key'])} is no path")
        if "python" in said and not _PYTHON.fullmatch(said["python"]):
            fail(self._file, settings["python"].value, f"{shown(said['python'])} is no path of an interpreter")
        return InventoryHost(
            alias=alias,
            where=f"{self._file}:{entry.token.line}",
            host=self._of_type(HostAddress, said.get("host", alias), settings.get("host"), entry),
            user=said.get("user"),
            port=self._port(settings.get("port")),
            key=said.get("key"),
            python=said.get("python"),
            sudo=self._boolean(settings.get("sudo")),
            local=connection == "local",
            name=self._of_type(Label, said["name"], settings["name"], entry) if "name" in said else _name_of(alias),
            advertise=self._of_type(HostAddress, said["advertise"], settings["advertise"], entry)
            if "advertise" in said
            else None,
            labels=labels,
        )

    def _set_aside(self, pair: Pair) -> bool:
        """Whether it is a key of Ansible's that we ignore. Raises InputError for one that would change how the host is
        reached.
        """
        key, value = pair.key.text, pair.value.text
        if key in _BECOME:
            if value != _BECOME[key]:
                fail(self._file, pair.value, f"only {_BECOME[key]} is possible here")
            return True
        if _PASSWORDS.fullmatch(key):
            fix = "Use keys for ssh; for sudo's password there is --ask-sudo-password."
            fail(self._file, pair.key, "passwords don't belong in this file", fix=fix)
        if _ARGUMENTS.fullmatch(key):
            fix = "Put them in ~/.ssh/config."
            fail(self._file, pair.key, "ssh's options come from its own configuration", fix=fix)
        if key.startswith("ansible_"):
            known = ", ".join(sorted({*ALIASES, *_BECOME}))
            fail(self._file, pair.key, f"{shown(key)} isn't understood here", fix=f"These are: {known}.")
        return False

    def _port(self, pair: Pair | None) -> int | None:
        if pair is None:
            return None
        text = pair.value.text
        if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= 65535):
            fail(self._file, pair.value, f"expected a port 1..65535, got {shown(text)}")
        return int(text)

    def _boolean(self, pair: Pair | None) -> bool | None:
        if pair is None:
            return None
        text = pair.value.text.lower()
        if text not in _TRUE | _FALSE:
            fail(self._file, pair.value, f"expected true or false, got {shown(text)}")
        return text in _TRUE

    def _of_type(self, type_: object, text: str, pair: Pair | None, entry: _Entry) -> str:
        place = Pair(entry.token, entry.token) if pair is None else pair
        return str(self._convert(text, type_, place))

    def _convert(self, value: object, type_: object, pair: Pair) -> object:
        try:
            return convert(value, type_, "")
        except InputError as error:
            fail(self._file, pair.value if isinstance(value, str) else pair.key, error.what)


def _split_destination(file: str, token: Token) -> tuple[str | None, str, str | None]:
    """user, host (perhaps a range), port of `user@host:port`; IPv6 stands bare, or in brackets before a port."""
    text = token.text
    user, at, rest = text.rpartition("@")
    if at and not _USER.fullmatch(user):
        fail(file, token, f"{shown(user)} is no user's name")
    host, port = rest, None
    if not _is_ipv6(rest):
        if match := re.fullmatch(r"\[([^\]]*)\](?::(\d{1,5}))?", rest):
            host, port = match[1], match[2]
            if not _is_ipv6(host):
                fail(file, token, f"{shown(host)} is no IPv6 address, and a range needs a name around it")
        elif match := re.fullmatch(r"(.*[^:\]]|.*\])?:(\d{1,5})", rest):
            host, port = match[1] or "", match[2]
    if not _is_ipv6(host) and ":" in re.sub(r"\[[^\]]*\]", "", host):
        fix = "One host a line, as in Ansible's INI inventories; not YAML." if text.endswith(":") else ""
        fail(file, token, f"expected a port 1..65535 behind the colon of {shown(host)}", fix=fix)
    if host.startswith("-"):
        fail(file, token, f"a host's name can't begin with a hyphen: {shown(host)}")
    return (user if at else None), host, port


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _name_of(alias: str) -> str | None:
    """The host's name in the cluster: the first part of its alias; None if that isn't a name."""
    try:
        ipaddress.ip_address(alias)
    except ValueError:
        first = alias.partition(".")[0].lower().replace("_", "-")
        return first if is_label(first) and alias not in _NO_NAMES else None
    return None


def _check_unique(hosts: Sequence[InventoryHost], tokens: Mapping[str, Token], file: str) -> None:
    """No two lines may lead to one host, nor two hosts have one name."""
    names: dict[str, InventoryHost] = {}
    places: dict[object, InventoryHost] = {}
    for host in hosts:
        place = "this machine" if host.local else (host.host, host.port or 22)
        if (other := places.setdefault(place, host)) is not host:
            fail(file, tokens[host.alias], f"{host.alias} and {other.alias} ({other.where}) are the same host")
        if host.name is None:
            continue
        other = names.setdefault(host.name, host)
        if other is not host:
            fix = f"Give one of them another with name=, e.g. `{host.alias} name={host.name}-2`."
            what = f"{host.alias} and {other.alias} ({other.where}) would both be called {host.name}"
            fail(file, tokens[host.alias], what, fix=fix)
