"""What is wrong on one host by its own word alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from agent.model.addresses import is_ip
from agent.model.doctor import Check, DiskUse, Examination, Finding, FindingSeverity, Unit
from agent.model.expulsion import back_or_away

AGENT_UNIT = "muster-agent"
CONFIGURATION = "configuration"
"""In `unchecked`: the agent's own, which can't be read, or isn't sound."""

DISK_ERROR_MIB = 256  # the ledger and one image more, and it is full
DISK_WARNING_MIB = 2_048  # an image of an ordinary size
DISK_WARNING_PERCENT = 5  # ext4 keeps as much for root; below it everything gets slow
INODES_ERROR_PERCENT = 1
INODES_WARNING_PERCENT = 5
SYNC_WARNING_MS = 100.0  # every change waits for it on a majority; a worn SSD needs 10
SYNC_ERROR_MS = 500.0  # the shortest election timeout: a voter that writes so slowly loses its office
MEMORY_WARNING_MIB = 128  # an agent has 75
MEMORY_WARNING_PERCENT = 5
RESTARTS_WARNING = 3  # of the unit since it was loaded: more than an upgrade or two
HEARD_AFTER_S = 45.0  # a round of beacons comes every 30 s
OTHERS_MAY_WRITE = 0o022


def host_findings(exam: Examination) -> Iterator[Finding]:
    """In no order."""
    yield from _agent(exam)
    yield from _expelled(exam)
    yield from _ports(exam)
    yield from _docker(exam)
    for disk in exam.disks:
        yield from _disk(exam, disk)
    yield from _syncs(exam)
    yield from _memory(exam)
    yield from _firewalls(exam)
    yield from _discovery(exam)
    yield from _config(exam)
    for check, reason in sorted(exam.unchecked.items()):
        if check == CONFIGURATION:
            fix = f"Correct it there, then `sudo systemctl restart {AGENT_UNIT}`."
            yield _found(exam, "error", "config", f"no agent starts with this configuration: {reason}", fix)
            continue
        fix = f"Ask again, or look there: `sudo agent doctor` on {exam.name}."
        yield _found(exam, "note", "agent", f"{check} couldn't be looked at: {reason}", fix)


def _found(exam: Examination, severity: FindingSeverity, check: Check, what: str, fix: str) -> Finding:
    return Finding(severity=severity, check=check, where=exam.name, what=what, fix=fix)


def _agent(exam: Examination) -> Iterator[Finding]:
    unit = _unit(exam, AGENT_UNIT)
    for path in exam.missing:
        fix = "`bootstrap install hosts.txt` from the operator's machine repairs it, or enrols the host anew."
        yield _found(exam, "error", "agent", f"{path} isn't there: no agent starts without it", fix)
    if not exam.running:
        if unit is not None and unit.active == "active":
            yield _silent(exam, unit)
        elif CONFIGURATION not in exam.unchecked:  # else that is why
            yield _stopped(exam, unit)
    if unit is None:
        return
    if unit.active == "active" and unit.enabled not in ("", "enabled", "enabled-runtime"):
        fix = f"`sudo systemctl enable {AGENT_UNIT}`"
        yield _found(exam, "warning", "agent", f"the agent won't start at boot (its unit is {unit.enabled})", fix)
    if unit.restarts >= RESTARTS_WARNING:
        fix = f"`journalctl -u {AGENT_UNIT} -n 200` says why it ended."
        yield _found(exam, "warning", "agent", f"systemd has restarted the agent {unit.restarts} times", fix)


def _expelled(exam: Examination) -> Iterator[Finding]:
    if exam.expelled is not None:
        yield _found(exam, "error", "ledger", exam.expelled.what, back_or_away(exam.name))


def _silent(exam: Examination, unit: Unit) -> Finding:
    """Of an agent that runs and wasn't heard."""
    last = f"; its last words: {exam.log[-1]}" if exam.log else ""
    if unit.said:
        fix = f"Do what its last words say (`journalctl -u {AGENT_UNIT} -n 5`); then it goes on by itself."
        return _found(exam, "error", "agent", f"the agent doesn't serve now: {unit.said}{last}", fix)
    fix = f"`sudo agent doctor` asks it; if it doesn't answer that either, `sudo systemctl restart {AGENT_UNIT}`."
    return _found(exam, "error", "agent", f"the agent runs (its unit is active), but wasn't heard{last}", fix)


def _stopped(exam: Examination, unit: Unit | None) -> Finding:
    """One that somebody stopped has no last words: those in its journal are of an earlier end."""
    was_stopped = unit is not None and (unit.active, unit.result) == ("inactive", "success")
    state = f"the unit is {unit.active}" if unit is not None and unit.active else f"there is no unit {AGENT_UNIT}"
    if unit is not None and unit.result not in ("", "success"):
        state += f" ({unit.result})"
    last = f"; its last words: {exam.log[-1]}" if exam.log and not was_stopped else ""
    fix = f"`sudo systemctl start {AGENT_UNIT}`, then `journalctl -u {AGENT_UNIT} -n 50` if it ends again."
    if unit is not None and unit.active == "failed" and exam.log:  # systemd gave up, as it was told to
        fix = f"Do what its last words say; then {fix}"
    return _found(exam, "error", "agent", f"the agent isn't running: {state}{last}", fix)


def _unit(exam: Examination, name: str) -> Unit | None:
    return next((unit for unit in exam.units if unit.name == name), None)


def _ports(exam: Examination) -> Iterator[Finding]:
    for use in exam.ports:
        port = f"{use.port}/{use.protocol}"
        look = f"`sudo ss -{'lnpt' if use.protocol == 'tcp' else 'lnpu'} 'sport = :{use.port}'`"
        if use.held_by == "other":
            fix = f"{look} shows it; stop it, or give the agent another port in /etc/muster/agent.toml on all hosts."
            yield _found(exam, "error", "ports", f"{port} is held by {use.holder or 'another program'}", fix)
        elif use.held_by == "nobody" and exam.running:
            fix = f"`sudo systemctl restart {AGENT_UNIT}`; {look} shows who listens."
            yield _found(exam, "error", "ports", f"the agent doesn't listen on {port}", fix)
    for wanted in exam.wanted_ports:
        held = f"held by {wanted.holder}" if wanted.holder else "taken"
        has = f"it has {wanted.given or 'another'} instead"
        what = f"{wanted.replica} can't have port {wanted.port}, which is {held}: {has}"
        fix = f"`sudo ss -lnp 'sport = :{wanted.port}'` shows it; stop it, or change the plan's `host_port`."
        yield _found(exam, "warning", "ports", what, fix)


def _docker(exam: Examination) -> Iterator[Finding]:
    wanted = "docker" in exam.config.get("runtimes", ("docker",))
    docker = exam.docker
    if docker is not None and wanted and not docker.answers:
        unit = _unit(exam, "docker")
        if unit is not None and unit.active in ("inactive", "failed"):
            fix = "`sudo systemctl start docker`; `journalctl -u docker -n 50` says why it ended."
            yield _found(exam, "error", "docker", f"Docker isn't running (its unit is {unit.active})", fix)
        else:
            fix = "`sudo systemctl status docker`; a host without Docker says so in its agent.toml: `runtimes`."
            yield _found(exam, "error", "docker", f"Docker doesn't answer: {docker.reason}", fix)
    elif docker is not None and docker.answers and docker.driver == "vfs":
        what = "Docker's storage driver is vfs, which copies every layer whole: slow, and large"
        fix = "Give /var/lib/docker a file system that overlay2 works on (ext4, xfs with ftype=1); `docker info`."
        yield _found(exam, "warning", "docker", what, fix)
    for runtime in exam.runtimes:
        if runtime.name != "docker" and not runtime.available:
            fix = f"`journalctl -u {AGENT_UNIT} -n 50` may say more."
            yield _found(exam, "error", "agent", f"runtime {runtime.name} doesn't work: {runtime.reason}", fix)


def _disk(exam: Examination, disk: DiskUse) -> Iterator[Finding]:
    if disk.read_only:
        fix = "`dmesg | tail` may say why; `mount -o remount,rw` if it shouldn't be, else replace the disk."
        yield _found(exam, "error", "disk", f"{disk.path} is on a read-only file system", fix)
    percent = 100 * disk.free_mib / disk.size_mib if disk.size_mib else 100.0
    fix = (
        f"`du -xhd1 {disk.path} | sort -h` shows what uses it; `docker system prune` frees unused images, "
        "`journalctl --vacuum-size=200M` logs."
    )
    if disk.free_mib < DISK_ERROR_MIB:
        yield _found(exam, "error", "disk", f"{disk.path} has {disk.free_mib} MiB left", fix)
    elif disk.free_mib < DISK_WARNING_MIB and percent < DISK_WARNING_PERCENT:
        yield _found(exam, "warning", "disk", f"{disk.path} has {disk.free_mib} MiB left, {percent:.0f} %", fix)
    if disk.inodes:
        left = 100 * disk.inodes_free / disk.inodes
        if left < INODES_WARNING_PERCENT:
            severity: FindingSeverity = "error" if left < INODES_ERROR_PERCENT else "warning"
            fix = (
                f"`df -i {disk.path}`; many small files use up inodes: `du --inodes -xd2 {disk.path} | sort -n | tail`."
            )
            yield _found(exam, severity, "disk", f"{disk.path} has {left:.1f} % of its inodes left", fix)


def _syncs(exam: Examination) -> Iterator[Finding]:
    if not exam.syncs_ms:
        return
    middle = statistics.median(exam.syncs_ms)
    if middle >= SYNC_WARNING_MS:
        path = exam.config.get("data_dir", "/var/lib/muster")
        what = f"a small write takes {middle:.0f} ms to reach the disk of {path}; every change waits for that"
        fix = (
            f"`iostat -x 1 5` shows which disk is busy; put {path} on a faster disk, or let another host be the voter."
        )
        yield _found(exam, "error" if middle >= SYNC_ERROR_MS else "warning", "disk", what, fix)


def _memory(exam: Examination) -> Iterator[Finding]:
    if not exam.memory_mib:
        return
    percent = 100 * exam.memory_free_mib / exam.memory_mib
    if exam.memory_free_mib < MEMORY_WARNING_MIB or percent < MEMORY_WARNING_PERCENT:
        what = f"{exam.memory_free_mib} of {exam.memory_mib} MiB memory are available"
        fix = "`ps -eo rss,comm --sort=-rss | head` shows which programs use it; limits in a plan: `resources.memory`."
        yield _found(exam, "warning", "memory", what, fix)


def _firewalls(exam: Examination) -> Iterator[Finding]:
    for firewall in exam.firewalls:
        lasting = "" if firewall.lasting else " (until the next boot; write it into the firewall's own file too)"
        commands = "; ".join(f"`{command}`" for command in firewall.commands)
        what = f"{firewall.name} doesn't let through all that agents say to each other"
        yield _found(exam, "warning", "firewall", what, f"On {exam.name}, as root: {commands}{lasting}.")


def _discovery(exam: Examination) -> Iterator[Finding]:
    """Of members on a network of ours, and only once both have had time for a round; across routers none comes."""
    if exam.uptime_s < HEARD_AFTER_S:
        return
    near = [peer for peer in exam.peers if peer.same_network and (peer.linked or peer.connects == "yes")]
    port = exam.config.get("discovery_port", 9999)
    deaf = sorted(peer.name for peer in near if not peer.heard_beacon)
    if exam.config.get("discovery_beacon", True) and deaf:
        what = f"hears no beacons of {', '.join(deaf)} on {port}/udp"
        fix = (
            f"`tcpdump -ni any udp port {port}` on {exam.name} shows what arrives, every 30 s from each host. Without "
            "beacons `seeds` and the ledger's addresses do."
        )
        yield _found(exam, "warning", "discovery", what, fix)
    deaf = sorted(peer.name for peer in near if not peer.heard_mdns)
    if exam.config.get("discovery_mdns", True) and deaf:
        what = f"has heard nothing by mDNS of {', '.join(deaf)}"
        fix = "`avahi-browse -rt _muster._tcp` shows what is heard; 5353/udp multicast has to pass. Beacons suffice."
        yield _found(exam, "note", "discovery", what, fix)


def _config(exam: Examination) -> Iterator[Finding]:
    config, enrolled = exam.config, exam.enrolled
    if exam.policy_mode & OTHERS_MAY_WRITE:
        path = config.get("policy_file", "/etc/muster/policy.toml")
        what = f"users other than root may change {path} (mode {exam.policy_mode:04o}), and so what this host allows"
        yield _found(exam, "error", "config", what, f"`sudo chmod go-w {path}`")
    if not config or not exam.running:
        return
    if not (config.get("discovery_beacon") or config.get("discovery_mdns") or config.get("seeds")):
        what = "beacons, mDNS and seeds are all off: after a move it finds the others only by the ledger's addresses"
        yield _found(exam, "warning", "config", what, "Write `seeds` into /etc/muster/agent.toml: peers' `host:9998`.")
    if enrolled is None:
        return
    for key, of_ledger in (("api_port", enrolled.api_port), ("peer_port", enrolled.peer_port)):
        if config.get(key, of_ledger) != of_ledger:
            what = f"{key} is {config[key]}, but the ledger tells the others {of_ledger}"
            fix = f"Set `{key} = {of_ledger}` in /etc/muster/agent.toml, or enrol the host anew with the other port."
            yield _found(exam, "error", "config", what, fix)
    known = {*exam.addresses, config.get("advertise"), config.get("listen")}
    if exam.addresses and is_ip(enrolled.address) and enrolled.address not in known:
        what = f"the ledger has it at {enrolled.address}, which isn't an address of this host"
        fix = (
            "Behind NAT say so: `advertise` in /etc/muster/agent.toml. If it moved for good, enrol it anew: `bootstrap "
            f"uninstall hosts.txt --limit {exam.name}`, then `bootstrap install hosts.txt`."
        )
        yield _found(exam, "warning", "config", what, fix)
    if config.get("labels") and config["labels"] != enrolled.labels:
        what = "its own labels differ from the enrolled ones, which placement goes by"
        fix = "Make agent.toml say what hosts.txt says, or change hosts.txt, then `bootstrap install hosts.txt`."
        yield _found(exam, "note", "config", what, fix)
