"""The groups of hosts.txt: which hosts are in them, and what that gives a host. Pure."""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter
from typing import Final

from agent.model.explain import shown
from bootstrap.inventory_lines import Line, Pair, Token, fail

ALL: Final = "all"
UNGROUPED: Final = "ungrouped"
MAX_SHOWN_GROUPS: Final = 8  # of a cycle: enough to find the others
KINDS: Final = ("hosts", "vars", "children")

_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


class Groups:
    """Fed line by line; `check` when all are read."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._hosts: dict[str, dict[str, None]] = {}
        self._children: dict[str, dict[str, Token]] = {}
        self._variables: dict[str, dict[str, Pair]] = {}
        self._named: dict[str, Token] = {}

    def open(self, section: Token) -> tuple[str, str]:
        """The group and kind of `[group]` or `[group:kind]`. Raises InputError."""
        name, colon, kind = section.text.partition(":")
        kind = kind if colon else "hosts"
        if kind not in KINDS:
            at = section.at(len(name) + 1, kind)
            fail(self._file, at, f"expected [group], [group:vars] or [group:children], got [{section.text}]")
        self._check_name(section.at(0, name))
        if kind == "vars":
            self._named.setdefault(name, section)
        else:
            self._hosts.setdefault(name, {})
        return name, kind

    def add(self, group: str, host: str) -> None:
        """The host is in the group."""
        self._hosts.setdefault(group, {})[host] = None

    def hosts(self, group: str) -> dict[str, None]:
        """Those named under the group itself."""
        return self._hosts.get(group, {})

    def child(self, group: str, line: Line) -> None:
        """A line under `[group:children]`. Raises InputError."""
        if len(line.tokens) != 1:
            fail(self._file, line.tokens[1], "one group a line is expected here")
        token = line.tokens[0]
        self._check_name(token)
        self._children.setdefault(group, {})[token.text] = token
        self._named.setdefault(token.text, token)

    def variable(self, group: str, line: Line) -> None:
        """A line under `[group:vars]`: `key=value` or `key = value`. Raises InputError."""
        tokens = line.tokens
        if len(tokens) == 3 and tokens[1].text == "=":
            tokens = (tokens[0].at(0, f"{tokens[0].text}={tokens[2].text}"),)
        if len(tokens) != 1:
            fail(self._file, tokens[1], "one key=value a line is expected here", fix="Quote a value with blanks.")
        pair = tokens[0].pair(self._file)
        known = self._variables.setdefault(group, {})
        if pair.key.text in known:
            what = f"{shown(pair.key.text)} stands twice (first in line {known[pair.key.text].key.line})"
            fail(self._file, pair.key, what)
        known[pair.key.text] = pair

    def check(self) -> None:
        """Checks that groups that are named exist, and that none contains itself. Raises InputError."""
        for name, token in self._named.items():
            if name not in self._hosts and name not in (ALL, UNGROUPED):
                fail(self._file, token, f"there is no group {shown(name)}")
        try:
            TopologicalSorter(self._children).prepare()
        except CycleError as error:
            path: list[str] = error.args[1][::-1]  # from a group to one that it names, and so on, back to the first
            around = path if len(path) <= MAX_SHOWN_GROUPS else [*path[: MAX_SHOWN_GROUPS - 2], "…", path[-1]]
            what = f"the group {shown(path[-1])} is in itself: {' → '.join(around)}"
            fail(self._file, self._children[path[-2]][path[-1]], what)

    def of(self, host: str) -> list[str]:
        """The groups that the host is in, also by other groups; not `all` and `ungrouped`."""
        return sorted(name for name in self._depths(host) if name not in (ALL, UNGROUPED))

    def variables(self, host: str) -> dict[str, Pair]:
        """What its groups give a host: nearer groups win, of equally near ones the later name (as in Ansible)."""
        found = dict(self._variables.get(ALL, {}))
        depths = self._depths(host)
        for name in sorted((name for name in depths if name != ALL), key=lambda name: (-depths[name], name)):
            found |= self._variables.get(name, {})
        return found

    def _depths(self, host: str) -> dict[str, int]:
        """Group → how many groups are between it and the host."""
        depths = {name: 0 for name, hosts in self._hosts.items() if host in hosts}
        rounds = list(depths)
        while rounds:
            inner = rounds.pop(0)
            for name, children in self._children.items():
                if inner in children and name not in depths:
                    depths[name] = depths[inner] + 1
                    rounds.append(name)
        return depths

    def _check_name(self, token: Token) -> None:
        if not _NAME.fullmatch(token.text):
            fail(self._file, token, f"{shown(token.text)} is no group's name: letters, digits and . _ - in it")
