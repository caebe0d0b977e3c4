"""`agent doctor` on booted hosts that are broken one way at a time, discovery as other programs see it, and a user that
may do nothing but install agents.

The tests are one story and run in order: each leaves the cluster as it found it.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bootstrap.sudoers import sudoers_rule
from tests.bootstrap.desk import Desk, desk_of
from tests.lab import Lab
from tests.support.waiting import wait_for_sync

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

HOSTS = ("deploy@n1 python=/usr/bin/python3", "root@n2", "root@n3")
NAMES = ("n1", "n2", "n3")
BEACON_KEYS = ["service_id", "type", "host", "port", "protocol", "capabilities", "timestamp"]
MOST_S = 10.0  # the doctor's own promise; a busy machine starts the command slowly, which is within it

# avahi-browse asks a daemon over D-Bus: both of the desk's own, out of the machine's way, and gone with the script.
AVAHI = """\
mount -t tmpfs none /run
mkdir /run/dbus /run/avahi-daemon
printf '[server]\\nuse-ipv6=no\\n' > /run/avahi.conf
cat > /run/bus.conf <<END
<busconfig><type>system</type><listen>unix:path=/run/dbus/bus</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
<allow own="*"/><allow user="*"/></policy></busconfig>
END
export DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/dbus/bus
dbus-daemon --config-file=/run/bus.conf --nofork --nosyslog &
bus=$!
until [ -S /run/dbus/bus ]; do sleep 0.05; done
avahi-daemon --file=/run/avahi.conf --no-drop-root --no-chroot --no-rlimits --no-proc-title 2>/run/avahi.log &
daemon=$!
trap 'kill -9 $daemon $bus' EXIT
for try in $(seq 10); do
    timeout 5 avahi-browse --resolve --terminate --parsable _muster._tcp > /run/found 2>/run/complaint || :
    [ "$(grep -c '^=' /run/found)" -ge 3 ] && break
    sleep 0.25
done
cat /run/found /run/complaint /run/avahi.log
"""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    if reason := Lab.unavailable():
        pytest.skip(reason)
    with (
        Lab.up(3, name=f"d{os.getpid()}") as lab,
        desk_of(lab, tmp_path_factory.mktemp("desk")) as made,
    ):
        host = lab.host("n1")
        host.run(["useradd", "--create-home", "--shell", "/bin/sh", "deploy"])
        host.run(["install", "-d", "-m", "700", "-o", "deploy", "-g", "deploy", "/home/deploy/.ssh"])
        key = lab.operator.public_key_path.read_text()
        restricted = f'restrict,port-forwarding,permitopen="{host.address}:9999" {key}'
        host.run(["sh", "-c", "cat > /home/deploy/.ssh/authorized_keys"], input=restricted)
        host.run(["chown", "deploy:deploy", "/home/deploy/.ssh/authorized_keys"])
        made.write_hosts(*HOSTS)
        yield made


def on(desk: Desk, host: str, *argv: str, check: bool = True) -> str:
    """What a command on the host says."""
    return desk.lab.host(host).run(argv, check=check).stdout


def examine(desk: Desk, *arguments: str) -> dict[str, Any]:
    """`agent doctor --json` from the desk."""
    began = time.monotonic()
    result = desk.run("agent", "doctor", "--json", *arguments, check=False)
    assert time.monotonic() - began < MOST_S
    assert result.returncode in (0, 3), result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    errors = [finding for finding in document["findings"] if finding["severity"] == "error"]
    assert (result.returncode == 3) == bool(errors)
    return document


def findings(document: dict[str, Any], severity: str = "error") -> list[tuple[str, str]]:
    return [(f["check"], f["where"]) for f in document["findings"] if f["severity"] == severity]


def wait_for_finding(desk: Desk, check: str, where: str, *arguments: str) -> dict[str, Any]:
    """The finding, as soon as it is there; a fault takes a moment to be seen."""

    def look() -> dict[str, Any] | None:
        found = examine(desk, *arguments)["findings"]
        return next((each for each in found if (each["check"], each["where"]) == (check, where)), None)

    finding = wait_for_sync(look, 40, what=f"a finding on {where} by {check}", interval_s=0.5)
    assert finding is not None
    return finding


def wait_well(desk: Desk) -> None:
    wait_for_sync(lambda: findings(examine(desk)) == [], 60, what="no error any more", interval_s=0.5)


# A user that may do nothing but install agents


def test_a_user_without_the_rule_is_told_what_is_missing(desk: Desk) -> None:
    failed = desk.install("--dry-run", "--limit", "n1", check=False)["hosts"]["n1"]
    assert failed["state"] == "failed"
    assert "sudo" in failed["what"]


def test_with_the_rule_bootstrap_installs_and_nothing_else_may_run_as_root(desk: Desk) -> None:
    rule = sudoers_rule("deploy", "/usr/bin/python3")
    host = desk.lab.host("n1")
    host.run(["sh", "-c", "umask 0337; cat > /etc/sudoers.d/muster"], input=rule)
    on(desk, "n1", "visudo", "-c")
    document = desk.install()
    assert {name: each["state"] for name, each in document["hosts"].items()} == dict.fromkeys(NAMES, "installed")
    desk.wait_all_alive(NAMES)
    for command in (
        "true",
        "sh",
        "/usr/bin/python3 -I -c pass",
        "/usr/bin/python3 -c 'import sys' x",
        "cat /etc/shadow",
    ):
        refused = desk.run("ssh", "deploy@n1", f"sudo -n {command}", check=False)
        assert refused.returncode != 0, command
        assert "password is required" in refused.stderr, command
    assert desk.install()["hosts"]["n1"]["state"] == "unchanged"


# Findings


def test_a_cluster_that_is_well_has_no_errors(desk: Desk) -> None:
    wait_well(desk)
    document = examine(desk)
    assert findings(document, "warning") == [], document["findings"]
    for host in document["hosts"]:
        exam = host["examination"]
        assert exam["docker"]["answers"]
        assert exam["docker"]["driver"]
        assert [unit["active"] for unit in exam["units"]] == ["active", "active"]
        assert all(peer["connects"] == "yes" and peer["heard_udp"] for peer in exam["peers"])
    assert "on this host" not in on(desk, "n2", "agent", "doctor")


@pytest.mark.parametrize("through", ["n1", "n2"])
def test_a_pair_that_is_partitioned_is_named_whoever_is_asked(desk: Desk, through: str) -> None:
    desk.lab.partition(["n1"], ["n3"])
    try:
        finding = wait_for_finding(desk, "network", "n1 and n3", "--via", through)
        assert finding["what"] == "can't reach each other on 9998/tcp: n1 to n3: no answer, n3 to n1: no answer"
        document = examine(desk, "--via", through)
        assert all("examination" in host for host in document["hosts"]), (
            "another member asked for the one that can't be"
        )
        assert {where for check, where in findings(document) if check == "network"} == {"n1 and n3"}
    finally:
        desk.lab.heal()
    wait_well(desk)


def test_udp_alone_that_is_dropped_is_named_with_its_direction_and_the_command(desk: Desk) -> None:
    hook = "type filter hook input priority 0; policy accept;"
    rules = f"table inet shut {{\n chain input {{\n {hook}\n udp dport 9998 drop\n }}\n}}\n"
    before = desk.status()["term"]
    desk.lab.host("n2").run(["nft", "-f", "-"], input=rules)
    try:
        finding = wait_for_finding(desk, "network", "n1 to n2")
        assert "n2 hears nothing of n1 on 9998/udp" in finding["what"]
        command = re.findall(r"`(nft insert [^`]*)`", finding["fix"])[0]
        assert command == "nft insert rule inet shut input udp dport 9998 accept"
        document = examine(desk)
        assert {where for check, where in findings(document) if check == "network"} == {"n1 to n2", "n3 to n2"}
        assert ("firewall", "n2") in findings(document, "warning")
        on(desk, "n2", "sh", "-c", command)
        wait_well(desk)
    finally:
        on(desk, "n2", "nft", "delete", "table", "inet", "shut")
    wait_well(desk)
    assert desk.status()["term"] == before, "heartbeats went over the links meanwhile"


def test_a_docker_that_was_stopped_is_named_with_the_command_that_starts_it(desk: Desk) -> None:
    on(desk, "n2", "systemctl", "stop", "docker.socket", "docker.service")
    try:
        finding = wait_for_finding(desk, "docker", "n2")
        assert "its unit is inactive" in finding["what"]
        assert "systemctl start docker" in finding["fix"]
    finally:
        on(desk, "n2", "systemctl", "start", "docker.socket", "docker.service")
    wait_well(desk)


def test_a_replicas_port_that_another_program_holds_is_named_with_its_holder(desk: Desk) -> None:
    on(desk, "n3", "systemd-run", "--unit=squatter", "python3", "-m", "http.server", "8080")
    try:
        wait_for_sync(lambda: "8080" in on(desk, "n3", "ss", "-ltn"), 10, what="the squatter listening")
        service = {"runtime": "process", "command": ["sleep", "1000"], "host": "n3"}
        plan = {"services": {"web": service | {"ports": [{"host_port": 8080, "container_port": 8080}]}}}
        (desk.lab.operator.home / "web.json").write_text(json.dumps(plan))
        desk.run("agent", "deploy", "web.json", "--stack", "web", "--detach")

        def told() -> dict[str, Any] | None:
            found = examine(desk)["findings"]
            return next((each for each in found if each["check"] == "ports"), None)

        finding = wait_for_sync(told, 40, what="the port that is taken", interval_s=0.5)
        assert finding is not None
        assert (finding["severity"], finding["where"]) == ("warning", "n3")
        assert re.search(r"web/web\.1 can't have port 8080, .* pid \d+ \(python3, squatter\.service\)", finding["what"])
        desk.run("agent", "remove", "web", "--yes")
    finally:
        on(desk, "n3", "systemctl", "stop", "squatter")


def test_without_an_agent_the_host_tells_its_unit_its_last_words_and_who_has_its_port(desk: Desk) -> None:
    on(desk, "n3", "systemctl", "stop", "muster-agent")
    on(desk, "n3", "systemd-run", "--unit=squatter", "python3", "-m", "http.server", "9998")
    try:
        wait_for_sync(lambda: "9998" in on(desk, "n3", "ss", "-ltn"), 10, what="the squatter listening")
        result = desk.lab.host("n3").run(["agent", "doctor", "--json"], check=False)
        assert result.returncode == 3
        document = json.loads(result.stdout)
        whats = {f["check"]: f for f in document["findings"]}
        assert "9998/tcp is held by pid" in whats["ports"]["what"]
        assert "squatter.service" in whats["ports"]["what"]
        assert any("the agent isn't running: the unit is inactive" in f["what"] for f in document["findings"])
        assert document["hosts"][0]["examination"]["log"], "the journal's last lines"
        finding = wait_for_finding(desk, "agent", "n3")  # the squatter takes connections, so the network is well
        assert "didn't answer" in finding["what"]
        refused = desk.run("agent", "doctor", "n3", "--json", check=False)
        assert refused.returncode == 3
    finally:
        on(desk, "n3", "systemctl", "stop", "squatter")
        on(desk, "n3", "systemctl", "start", "muster-agent")
    wait_well(desk)


def test_the_bundle_from_the_desk_has_every_hosts_log_and_no_planted_secret(desk: Desk) -> None:
    planted = "pl4nted-in-the-environment"
    on(desk, "n1", "sh", "-c", f"echo JWT_SECRET={planted} >> /etc/muster/agent.env; systemctl restart muster-agent")
    service = {"runtime": "process", "host": "n2", "environment": {"JWT_SECRET": planted}}
    service["command"] = ["sh", "-c", "echo $JWT_SECRET; exit 1"]
    (desk.lab.operator.home / "leak.json").write_text(json.dumps({"services": {"leak": service}}))
    desk.wait_all_alive(NAMES)
    desk.run("agent", "deploy", "leak.json", "--stack", "leak", check=False)
    desk.run("agent", "doctor", "--bundle", "report.tar.gz", check=False)
    file = desk.lab.operator.home / "report.tar.gz"
    assert file.stat().st_mode & 0o777 == 0o600
    texts: dict[str, str] = {}
    with tarfile.open(file) as archive:
        for entry in archive.getmembers():
            if (reader := archive.extractfile(entry)) is not None:
                texts[entry.name] = reader.read().decode()
    assert {f"muster-doctor/logs/{name}.log" for name in NAMES} <= set(texts)
    assert "leak" in texts["muster-doctor/status.json"]
    assert not any(planted in text for text in texts.values())
    desk.run("agent", "remove", "leak", "--yes")


# Discovery, as other programs see it


def test_tcpdump_shows_beacons_that_anybody_can_read(desk: Desk) -> None:
    """From the wire: broadcast, from every host within a round, SEED's seven keys as readable JSON."""
    argv = ["timeout", "45", "tcpdump", "-ni", "any", "-A", "-s0", "-l", "-c", "6", "udp", "dst", "port", "9999"]
    said = desk.run(*argv, check=False).stdout
    begins = '{"service_id"'  # behind the packet's header, of which any byte may read as a brace
    beacons = [json.loads(line[line.index(begins) :]) for line in said.splitlines() if begins in line]
    assert {beacon["service_id"] for beacon in beacons} >= set(NAMES), said
    for beacon in beacons:
        assert list(beacon) == BEACON_KEYS
        assert beacon["host"] == desk.lab.host(beacon["service_id"]).address
        assert (beacon["type"], beacon["port"], beacon["protocol"]) == ("unknown", 9999, "https")
        assert {"status", "version"} <= beacon["capabilities"].keys()
    assert ".255.9999" in said, "broadcast"


def test_avahi_browses_every_host_with_its_address_port_and_text(desk: Desk) -> None:
    said = desk.run("sh", "-ec", AVAHI).stdout
    resolved = [line.split(";") for line in said.splitlines() if line.startswith("=")]
    found = {re.search(r'"name=([^"]+)"', fields[9])[1]: fields for fields in resolved}  # type: ignore[index]  # or it fails
    assert found.keys() >= set(NAMES), said
    for name in NAMES:
        fields = found[name]
        assert (fields[4], fields[7], fields[8]) == ("_muster._tcp", desk.lab.host(name).address, "9999")
        assert '"peer=9998"' in fields[9]
