"""Active firewalls that would drop what agents say to each other: which, and the very commands that let it through."""

from __future__ import annotations

import json
import re
from typing import Any

from bootstrap.remote.system import run, shown, which
from bootstrap.remote.wire import Failure

Open = list[list[Any]]
"""[[port, protocol], …]"""

PLAIN = {"accept", "drop", "reject", "counter", "log"}
"""Parts of an nftables rule (libnftables-json(5)) that don't narrow what it is for."""


def firewalls(wanted: Open) -> list[dict[str, Any]]:
    """Each active firewall that doesn't let all of it through: its name and the commands that open it.

    `lasting`: whether these survive a reboot.
    """
    for look in (_ufw, _firewalld, _nftables, _iptables):
        found = look(wanted)
        if found is not None:  # ufw and firewalld make the very rules that the others would find
            return [found] if found["commands"] else []
    return []


def open_firewall(commands: list[list[str]]) -> None:
    """Run them. Raises Failure."""
    for command in commands:
        output = run(command)
        if output.code != 0:
            raise Failure(f"`{shown(command)}` failed: {output.said}")


def _ufw(wanted: Open) -> dict[str, Any] | None:
    if which("ufw") is None:
        return None
    status = run(["ufw", "status"]).out
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


def _firewalld(wanted: Open) -> dict[str, Any] | None:
    if which("firewall-cmd") is None or run(["firewall-cmd", "--state"]).code != 0:
        return None
    missing = [pair for pair in wanted if run(["firewall-cmd", f"--query-port={pair[0]}/{pair[1]}"]).code != 0]
    commands = [["firewall-cmd", "--permanent"] + [f"--add-port={pair[0]}/{pair[1]}" for pair in missing]]
    return _found("firewalld", [*commands, ["firewall-cmd", "--reload"]] if missing else [], True)


def _nftables(wanted: Open) -> dict[str, Any] | None:
    if which("nft") is None:
        return None
    try:
        ruleset = json.loads(run(["nft", "-j", "list", "ruleset"]).out or "{}").get("nftables", [])
    except ValueError:
        return None
    commands = []
    for chain in (entry["chain"] for entry in ruleset if "chain" in entry):
        if chain.get("hook") != "input" or chain.get("type") != "filter":
            continue
        place = [chain["family"], chain["table"], chain["name"]]
        rules = [e["rule"] for e in ruleset if "rule" in e and _place(e["rule"]) == tuple(place)]
        if chain.get("policy", "accept") == "accept" and not any(_drops_all(rule) for rule in rules):
            continue
        for kind in ("tcp", "udp"):
            ports = [port for port, each in wanted if each == kind and not any(_accepts(r, each, port) for r in rules)]
            if ports:
                listed = ["{", ", ".join(map(str, ports)), "}"] if len(ports) > 1 else [str(ports[0])]
                commands.append(["nft", "insert", "rule", *place, kind, "dport", *listed, "accept"])
    return _found("nftables", commands, False)


def _place(rule: dict[str, Any]) -> tuple[str, str, str]:
    return rule["family"], rule["table"], rule["chain"]


def _drops_all(rule: dict[str, Any]) -> bool:
    """`drop` or `reject` that nothing has to match before."""
    return not _conditions(rule) and any("drop" in part or "reject" in part for part in rule["expr"])


def _conditions(rule: dict[str, Any]) -> list[dict[str, Any]]:
    """What has to be true for the rule; extensions of iptables' (`xt`) are conditions that we can't read."""
    return [part for part in rule["expr"] if not PLAIN & part.keys()]


def _accepts(rule: dict[str, Any], kind: str, port: int) -> bool:
    """`tcp dport 9999 accept`, with a set or range too, and no other condition; or a bare `accept`."""
    if not any("accept" in part for part in rule["expr"]):
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


def _iptables(wanted: Open) -> dict[str, Any] | None:
    if which("nft") is not None or which("iptables") is None:
        return None  # iptables' rules are seen in nftables as well
    rules = run(["iptables", "-S", "INPUT"]).out
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
