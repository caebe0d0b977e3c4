"""Active firewalls that would block the agents' traffic, and the commands that open them.

Pure except for `ask(argv)`, which runs a command and returns its exit code and output, or None where there is no such
command. Uses the standard library only: bootstrap sends this module to hosts that have nothing else, with any Python.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Optional

Open = list[list[Any]]
"""[[port, protocol], …]"""

Ask = Callable[[list[str]], Optional[tuple[int, str]]]  # noqa: UP045 older Pythons than ours read this

PLAIN = {"accept", "drop", "reject", "counter", "log"}
"""Parts of an nftables rule (libnftables-json(5)) that don't narrow what it is for."""


def firewalls(wanted: Open, ask: Ask) -> list[dict[str, Any]]:
    """Each active firewall that blocks some of it: its name, and the commands that open it.

    `lasting`: whether these survive a reboot.
    """
    for look in (_ufw, _firewalld, _nftables, _iptables):
        found = look(wanted, ask)
        if found is not None:  # ufw and firewalld make the very rules that the others would find
            return [found] if found["commands"] else []
    return []


def _ufw(wanted: Open, ask: Ask) -> dict[str, Any] | None:
    _, status = ask(["ufw", "status"]) or (1, "")
    if "Status: active" not in status:
        return None
    missing = [(port, kind) for port, kind in wanted if not _ufw_allows(status, port, kind)]
    return _found("ufw", [["ufw", "allow", f"{pair[0]}/{pair[1]}"] for pair in missing], True)


def _ufw_allows(status: str, port: int, kind: str) -> bool:
    """A line like `9998:9999/tcp  ALLOW  Anywhere`."""
    for match in re.finditer(r"^([\d:,]+)(?:/(tcp|udp))?\s+ALLOW\s+(?:IN\s+)?Anywhere", status, re.MULTILINE):
        if match[2] not in (None, kind):
            continue
        for part in match[1].split(","):
            first, _, last = part.partition(":")
            if int(first) <= port <= int(last or first):
                return True
    return False


def _firewalld(wanted: Open, ask: Ask) -> dict[str, Any] | None:
    if not _succeeds(ask, ["firewall-cmd", "--state"]):
        return None
    missing = [pair for pair in wanted if not _succeeds(ask, ["firewall-cmd", f"--query-port={pair[0]}/{pair[1]}"])]
    commands = [["firewall-cmd", "--permanent"] + [f"--add-port={pair[0]}/{pair[1]}" for pair in missing]]
    return _found("firewalld", [*commands, ["firewall-cmd", "--reload"]] if missing else [], True)


def _nftables(wanted: Open, ask: Ask) -> dict[str, Any] | None:
    answer = ask(["nft", "-j", "list", "ruleset"])
    if answer is None:
        return None
    try:
        ruleset = json.loads(answer[1] or "{}").get("nftables", [])
    except ValueError:
        return None
    commands = []
    for chain in (entry["chain"] for entry in ruleset if "chain" in entry):
        if chain.get("hook") != "input" or chain.get("type") != "filter":
            continue
        place = [chain["family"], chain["table"], chain["name"]]
        rules = [e["rule"] for e in ruleset if "rule" in e and _place(e["rule"]) == tuple(place)]
        for kind in ("tcp", "udp"):
            ports = [port for port, each in wanted if each == kind and _is_shut(chain, rules, kind, port)]
            if ports:
                listed = ["{", ", ".join(map(str, ports)), "}"] if len(ports) > 1 else [str(ports[0])]
                commands.append(["nft", "insert", "rule", *place, kind, "dport", *listed, "accept"])
    return _found("nftables", commands, False)


def _is_shut(chain: dict[str, Any], rules: list[dict[str, Any]], kind: str, port: int) -> bool:
    """Whether the first rule that certainly applies to the port drops it; after the last rule the policy decides."""
    for rule in rules:
        if _decides(rule, "accept", kind, port):
            return False
        if _decides(rule, "drop", kind, port) or _decides(rule, "reject", kind, port):
            # What a rule before it let through under conditions that we can't read, nobody knows.
            return True
    return bool(chain.get("policy", "accept") != "accept")


def _place(rule: dict[str, Any]) -> tuple[str, str, str]:
    return rule["family"], rule["table"], rule["chain"]


def _conditions(rule: dict[str, Any]) -> list[dict[str, Any]]:
    """The conditions of a rule; extensions of iptables (`xt`) are conditions that we can't read."""
    return [part for part in rule["expr"] if not PLAIN & part.keys()]


def _decides(rule: dict[str, Any], verdict: str, kind: str, port: int) -> bool:
    """Whether the rule certainly applies: `tcp dport 9999 accept`, also with a set or range, and without another
    condition; or a bare `accept`. Likewise for other verdicts.
    """
    if not any(verdict in part for part in rule["expr"]):
        return False
    conditions = _conditions(rule)
    if not conditions:
        return True
    match = conditions[0].get("match", {})
    if len(conditions) != 1 or match.get("left") != {"payload": {"protocol": kind, "field": "dport"}}:
        return False
    right = match["right"]
    options = right["set"] if isinstance(right, dict) and "set" in right else [right]
    return match["op"] in ("==", "in") and any(_within(port, option) for option in options)


def _within(port: int, option: Any) -> bool:
    if isinstance(option, dict) and "range" in option:
        first, last = option["range"]
        return bool(first <= port <= last)
    return bool(option == port)


def _iptables(wanted: Open, ask: Ask) -> dict[str, Any] | None:
    if ask(["nft", "--version"]) is not None:
        return None  # iptables' rules are seen in nftables as well
    _, rules = ask(["iptables", "-S", "INPUT"]) or (1, "")
    closed = "-P INPUT DROP" in rules or re.search(r"^-A INPUT -j (DROP|REJECT)", rules, re.MULTILINE)
    if not closed:
        return None
    commands = []
    for kind in ("tcp", "udp"):
        missing = [p for p, each in wanted if each == kind and not re.search(rf"dports? \S*\b{p}\b.*ACCEPT", rules)]
        if missing:
            listed = ",".join(map(str, missing))
            match = ["-m", "multiport", "--dports", listed]
            commands.append(["iptables", "-I", "INPUT", "-p", kind, *match, "-j", "ACCEPT"])
    return _found("iptables", commands, False)


def _found(name: str, commands: list[list[str]], lasting: bool) -> dict[str, Any]:
    return {"name": name, "commands": commands, "lasting": lasting}


def _succeeds(ask: Ask, argv: list[str]) -> bool:
    answer = ask(argv)
    return answer is not None and answer[0] == 0
