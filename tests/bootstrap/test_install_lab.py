"""`bootstrap install` and `uninstall` on real hosts: booted systemd, sshd and dockerd on one LAN.

The tests are one story and run in order: each begins with what the one before left.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.bootstrap.desk import Desk, desk_of
from tests.lab import Lab
from tests.support.waiting import wait_for_sync

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]

THREE = ("root@n1 region=eu", "root@n2", "ops@n3 zone=b")
FOUR = (*THREE, "root@n4:2222")
PHOTOS = "/var/lib/muster/photos"
FIVE = (*FOUR, "n5 ansible_user=root")
UNIT = "/etc/systemd/system/muster-agent.service"
AGENTS_END = {"n2"}  # by its watchdog


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    if reason := Lab.unavailable():
        pytest.skip(reason)
    with (
        Lab.up(
            5,
            name=f"i{os.getpid()}",
            without_docker={"n4"},
            ssh_port={"n4": 2222},
            behind_bastion={"n5"},
            bastion_routes=True,
        ) as lab,
        desk_of(lab, tmp_path_factory.mktemp("desk")) as made,
    ):
        yield made


def on(desk: Desk, host: str, *argv: str, check: bool = True) -> str:
    """What a command on the host says."""
    return desk.lab.host(host).run(argv, check=check).stdout


def active(desk: Desk, host: str) -> str:
    return on(desk, host, "systemctl", "is-active", "muster-agent", check=False).strip()


def states(document: dict[str, Any]) -> dict[str, str]:
    return {alias: host["state"] for alias, host in document["hosts"].items()}


def host_states(desk: Desk) -> list[str]:
    """As the cluster tells them."""
    return [host["state"] for host in desk.status()["hosts"]]


# Before there is a cluster


def test_a_mistake_in_the_list_is_named_by_line_and_column(desk: Desk) -> None:
    hosts = desk.write_hosts("root@n1", "root@n2 port=70000", name="bad.txt")
    result = desk.run("bootstrap", "install", hosts, check=False)
    assert result.returncode == 2
    assert "bad.txt:2:14: expected a port 1..65535" in result.stderr


def test_a_dry_run_before_there_is_anything_leaves_nothing(desk: Desk) -> None:
    hosts = desk.write_hosts("root@n1", name="one.txt")
    planned = desk.install("--dry-run", hosts=hosts)
    assert {UNIT, "/etc/muster/agent.toml", "group muster"} <= set(planned["hosts"]["n1"]["changed"])
    assert not (desk.lab.operator.home / ".config/muster").exists()
    assert not desk.lab.host("n1").run(["test", "-e", "/opt/muster"], check=False).ok


def test_a_host_key_that_is_not_known_is_refused_and_believed_when_told(desk: Desk) -> None:
    known = desk.lab.operator.home / ".ssh" / "known_hosts"
    before = known.read_text()
    hosts = desk.write_hosts("root@n1", name="one.txt")
    known.write_text("")
    try:
        failed = desk.install("--home", "trial", hosts=hosts, check=False)["hosts"]["n1"]
        assert failed["what"] == "its host key isn't known"
        assert "--accept-new" in failed["fix"]
        assert active(desk, "n1") == "inactive"
        other_key = next(line.split()[1:3] for line in before.splitlines() if line.startswith("n2"))
        known.write_text(f"n1 {' '.join(other_key)}\n")
        failed = desk.install("--home", "trial", "--accept-new", hosts=hosts, check=False)["hosts"]["n1"]
        assert failed["what"] == "its host key isn't the one that is known"
        known.write_text("")
        document = desk.install("--home", "trial", "--accept-new", "--dry-run", hosts=hosts)
        assert "identity" not in document["hosts"]["n1"]["changed"]
        assert active(desk, "n1") == "inactive"
    finally:
        known.write_text(before)


def test_a_locked_key_says_ssh_add(desk: Desk) -> None:
    key = str(desk.lab.operator.home / "locked")
    desk.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "a secret", "-f", key)
    hosts = desk.write_hosts("root@n1", name="one.txt")
    failed = desk.install("--home", "trial", "--identity-file", key, hosts=hosts, check=False)["hosts"]["n1"]
    assert failed["what"] == f"the key {key} is locked"
    assert failed["fix"] == f"Unlock it: ssh-add {key}"


def test_nothing_is_left_on_a_host_whose_disk_is_read_only(desk: Desk) -> None:
    on(desk, "n2", "mount", "-t", "tmpfs", "-o", "ro", "none", "/opt")
    try:
        hosts = desk.write_hosts("root@n2", name="one.txt")
        failed = desk.install("--home", "trial", hosts=hosts, check=False)["hosts"]["n2"]
        assert (failed["what"], failed["where"]) == ("the disk is read-only", "/opt")
    finally:
        on(desk, "n2", "umount", "/opt")


def test_a_disk_that_is_too_full_is_named_also_where_the_agents_data_has_its_own(desk: Desk) -> None:
    for place in ("/opt", "/var/lib/muster"):
        on(desk, "n2", "mkdir", "-p", place)
        on(desk, "n2", "mount", "-t", "tmpfs", "-o", "size=8m", "none", place)
        try:
            hosts = desk.write_hosts("root@n2", name="one.txt")
            failed = desk.install("--home", "trial", hosts=hosts, check=False)["hosts"]["n2"]
            assert "8 MiB free" in failed["what"]
            assert failed["where"] == place
        finally:
            on(desk, "n2", "umount", place)
    on(desk, "n2", "rmdir", "/var/lib/muster")


def test_a_port_that_is_taken_is_named_with_its_holder(desk: Desk) -> None:
    argv = ["systemd-run", "--unit=squatter", "python3", "-m", "http.server", "9999"]
    on(desk, "n2", *argv)
    try:
        wait_for_sync(lambda: "9999" in on(desk, "n2", "ss", "-ltn"), 10, what="the squatter listening")
        hosts = desk.write_hosts("root@n2", name="one.txt")
        failed = desk.install("--home", "trial", hosts=hosts, check=False)["hosts"]["n2"]
        assert "9999/tcp" in failed["what"]
        assert "http.server" in failed["what"]
    finally:
        on(desk, "n2", "systemctl", "stop", "squatter")


# A cluster is made


def test_three_hosts_become_a_cluster_though_a_fourth_is_not_there(desk: Desk) -> None:
    desk.write_hosts(*THREE, "root@10.77.0.99 name=ghost")
    result = desk.run("bootstrap", "install", "hosts.txt", "--name", "shop", check=False)
    assert result.returncode == 3, result.stdout + result.stderr
    assert "10.77.0.99: failed: no answer on the network" in result.stdout
    assert "cluster shop: 3 installed, 1 failed" in result.stdout
    assert "bootstrap install hosts.txt --name shop --limit 10.77.0.99" in result.stdout
    assert "put it away offline" in result.stdout
    found = desk.wait_all_alive(["n1", "n2", "n3"])
    assert found["quorum"] == {"voters": 3, "reachable": 3, "tolerates": 1}
    labels = {host["name"]: host["labels"] for host in found["hosts"]}
    assert (labels["n1"], labels["n3"]) == ({"region": "eu"}, {"zone": "b"})
    asked = ("systemctl", "show", "-p", "UnitFileState", "-p", "NeedDaemonReload", "muster-agent")
    assert set(on(desk, "n1", *asked).split()) == {"UnitFileState=enabled", "NeedDaemonReload=no"}


def test_again_changes_nothing(desk: Desk) -> None:
    desk.write_hosts(*THREE)
    before = [on(desk, name, "systemctl", "show", "-p", "MainPID", "muster-agent") for name in ("n1", "n2", "n3")]
    document = desk.install()
    assert states(document) == {"n1": "unchanged", "n2": "unchanged", "n3": "unchanged"}
    assert all(host["changed"] == [] for host in document["hosts"].values())
    after = [on(desk, name, "systemctl", "show", "-p", "MainPID", "muster-agent") for name in ("n1", "n2", "n3")]
    assert before == after


def test_the_agent_is_a_command_on_the_host_and_its_log_is_the_journal(desk: Desk) -> None:
    assert "coordinates" in on(desk, "n3", "agent", "status")
    assert "of cluster shop" in on(desk, "n3", "journalctl", "-u", "muster-agent", "-o", "cat", "--no-pager")
    assert on(desk, "n3", "stat", "-c", "%a %U", "/var/lib/muster", "/var/lib/muster/identity").split() == [
        *("700", "root"),
        *("700", "root"),
    ]


def test_the_unit_makes_its_directories_and_takes_rights_away(desk: Desk) -> None:
    places = ("/var/lib/muster", "/var/log/muster", "/run/muster", "/run/muster/agent.sock")
    told = on(desk, "n2", "stat", "-c", "%a %U %G", *places).splitlines()
    assert told == ["700 root root", "750 root root", "755 root root", "660 root muster"]
    rights = on(desk, "n2", "systemctl", "show", "-p", "ProtectSystem", "-p", "NoNewPrivileges", "muster-agent")
    assert set(rights.split()) == {"ProtectSystem=full", "NoNewPrivileges=yes"}
    pid = on(desk, "n2", "systemctl", "show", "-p", "MainPID", "--value", "muster-agent").strip()
    assert not desk.lab.host("n2").run(["nsenter", "-t", pid, "-m", "touch", "/usr/x"], check=False).ok


def test_an_agent_that_hangs_is_started_again_by_its_watchdog(desk: Desk) -> None:
    """With a shorter time than the unit's, in the file that `systemctl edit` would write."""
    edited = "/etc/systemd/system/muster-agent.service.d"
    on(desk, "n2", "mkdir", edited)
    quick = "[Service]\nWatchdogSec=10\nTimeoutAbortSec=1\n"
    desk.lab.host("n2").run(["tee", f"{edited}/quick.conf"], input=quick)
    on(desk, "n2", "systemctl", "daemon-reload")
    on(desk, "n2", "systemctl", "restart", "muster-agent")

    def pid() -> str:
        return on(desk, "n2", "systemctl", "show", "-p", "MainPID", "--value", "muster-agent").strip()

    stop = "pid=$(systemctl show -p MainPID --value muster-agent); kill -STOP $pid; echo $pid"
    hanging = on(desk, "n2", "sh", "-c", stop).strip()
    wait_for_sync(lambda: pid() not in (hanging, "0"), 60, what="another agent in its place")
    on(desk, "n2", "rm", "-r", edited)
    on(desk, "n2", "systemctl", "daemon-reload")
    on(desk, "n2", "systemctl", "restart", "muster-agent")
    desk.wait_all_alive(["n1", "n2", "n3"])


def test_an_inventory_of_ansible_names_the_same_hosts(desk: Desk) -> None:
    hosts = desk.write_hosts(
        "[web]", "n[1:2]", "[db]", "n3 ansible_host=n3", "[db:vars]", "ansible_user=ops", "zone=c",
        "[web:vars]", "ansible_user = root", "ansible_port=22", "[all_of_it:children]", "web", "db",
        name="inventory.ini",
    )  # fmt: skip  # as such files look
    document = desk.install(hosts=hosts)
    assert {alias: host["name"] for alias, host in document["hosts"].items()} == {"n1": "n1", "n2": "n2", "n3": "n3"}
    assert len(desk.wait_all_alive(["n1", "n2", "n3"])["hosts"]) == 3, "all three are members already"
    assert '"zone" = "c"' in on(desk, "n3", "cat", "/etc/muster/agent.toml")
    desk.install()


def test_sudo_may_want_a_password(desk: Desk) -> None:
    add = "useradd -m -s /bin/bash pat && echo pat:let-me-in | chpasswd && cp -r /home/ops/.ssh /home/pat/"
    grant = "echo 'pat ALL=(ALL) ALL' > /etc/sudoers.d/pat"
    on(desk, "n3", "sh", "-c", f"{add} && chown -R pat /home/pat/.ssh && {grant}")
    hosts = desk.write_hosts("pat@n3 zone=b", name="pat.txt")

    def planned(*arguments: str, typed: str | None = None) -> Any:
        command = ("bootstrap", "install", hosts, "--json", "--dry-run", *arguments)
        return json.loads(desk.run(*command, input=typed, check=False).stdout)["hosts"][0]

    assert "--ask-sudo-password" in planned()["fix"]
    assert planned("--ask-sudo-password", typed="wrong\n")["what"] == "sudo doesn't take that password"
    right = planned("--ask-sudo-password", typed="let-me-in\n")
    assert (right["state"], right["changed"]) == ("planned", [])
    on(desk, "n3", "sh", "-c", "userdel -r pat; rm /etc/sudoers.d/pat")


def test_what_is_broken_is_repaired(desk: Desk) -> None:
    on(desk, "n1", "rm", UNIT)
    on(desk, "n2", "systemctl", "disable", "--now", "muster-agent")
    on(desk, "n3", "sh", "-c", "echo '# changed' >> /opt/muster/current/lib/agent/errors.py")
    planned = desk.install("--dry-run")
    assert planned["hosts"]["n1"]["changed"] == [UNIT, "restarted"]
    assert planned["hosts"]["n2"]["changed"] == ["started"]
    assert planned["hosts"]["n3"]["changed"] == ["damaged files", "restarted"]
    assert active(desk, "n2") == "inactive"
    document = desk.install()
    assert states(document) == {"n1": "changed", "n2": "changed", "n3": "changed"}
    assert "started" in document["hosts"]["n2"]["changed"]
    assert "# changed" not in on(desk, "n3", "tail", "-1", "/opt/muster/current/lib/agent/errors.py")
    assert on(desk, "n1", "systemctl", "is-enabled", "muster-agent").strip() == "enabled"
    desk.wait_all_alive(["n1", "n2", "n3"])
    assert set(states(desk.install()).values()) == {"unchanged"}


def test_a_configuration_that_somebody_edited_stays(desk: Desk) -> None:
    on(
        desk,
        "n1",
        "sh",
        "-c",
        "cp -p /etc/muster/agent.toml /root/kept && echo 'timing = \"lan\"' >> /etc/muster/agent.toml",
    )
    document = desk.install()
    assert any("was edited" in note for note in document["hosts"]["n1"]["notes"])
    assert "timing" in on(desk, "n1", "cat", "/etc/muster/agent.toml")
    on(desk, "n1", "mv", "/root/kept", "/etc/muster/agent.toml")


def test_a_firewall_is_named_with_the_rule_that_opens_it(desk: Desk) -> None:
    rules = """
    table inet filter {
        chain input {
            type filter hook input priority 0; policy drop;
            ct state established,related accept
            iif lo accept
            tcp dport 22 accept
        }
    }
    """
    desk.lab.host("n2").run(["nft", "-f", "-"], input=rules)
    notes = desk.install("--dry-run", "--limit", "n2")["hosts"]["n2"]["notes"]
    wanted = "nft insert rule inet filter input tcp dport { 9999, 9998 } accept"
    assert any(wanted in note for note in notes)
    document = desk.install("--open-firewall", "--limit", "n2")
    assert f"`{wanted}`" in document["hosts"]["n2"]["changed"]
    assert not any("nft" in note for note in desk.install("--dry-run", "--limit", "n2")["hosts"]["n2"]["notes"])
    on(desk, "n2", "nft", "delete", "table", "inet", "filter")


# It grows


def test_a_new_line_is_enrolled_on_another_ssh_port_and_without_docker(desk: Desk) -> None:
    desk.write_hosts(*FOUR)
    desk.lab.block("n4", "n1")
    try:
        document = desk.install("--no-docker")
    finally:
        desk.lab.heal()
    assert (
        "it can't connect to n1 on 9998/tcp: only others carry what they say to each other"
        in (document["hosts"]["n4"]["notes"])
    )
    assert states(document) == {"n1": "changed", "n2": "changed", "n3": "changed", "n4": "installed"}
    assert document["hosts"]["n1"]["changed"] == ["/etc/muster/agent.toml"], "seeds are told, nothing is restarted"
    assert any("no Docker" in note for note in document["hosts"]["n4"]["notes"])
    found = desk.wait_all_alive(["n1", "n2", "n3", "n4"])
    assert {host["name"]: host["role"] for host in found["hosts"]}["n4"] == "observer"


def test_docker_is_installed_from_the_distribution(desk: Desk) -> None:
    document = desk.install("--limit", "n4")
    assert "Docker" in document["hosts"]["n4"]["changed"]
    assert on(desk, "n4", "docker", "version", "--format", "{{.Server.Version}}")
    assert desk.install("--limit", "n4")["hosts"]["n4"]["state"] == "unchanged"


def test_a_host_behind_a_bastion_is_enrolled_through_it(desk: Desk) -> None:
    desk.write_hosts(*FIVE)
    document = desk.install()
    assert document["hosts"]["n5"]["state"] == "installed"
    assert document["hosts"]["n5"]["address"] == desk.lab.host("n5").address
    desk.wait_all_alive(["n1", "n2", "n3", "n4", "n5"])


def test_commands_reach_a_host_that_only_ssh_reaches(desk: Desk) -> None:
    """The desk has no way to n5's port 9999; the home knows how ssh gets there, through the bastion."""
    known = desk.lab.operator.home / ".config/muster/shop/cluster.json"
    whole = known.read_text()
    only = json.loads(whole)
    only["members"] = [member for member in only["members"] if member["name"] == "n5"]
    known.write_text(json.dumps(only))
    try:
        result = desk.run("agent", "members", "--json")
        assert json.loads(result.stdout)["answered_by"] == "n5"
        assert "goes through ssh" in result.stderr
    finally:
        known.write_text(whole)


def test_a_deploy_from_the_desk_runs_containers_on_the_hosts(desk: Desk) -> None:
    desk.lab.host("n1").load_image("muster-web:demo")
    plan = {
        "stack": "web",
        "services": {
            "web": {
                "docker_image": "muster-web:demo",
                "host": "n1",
                "ports": [{"host_port": 8080, "container_port": 8080}],
                "volumes": [{"host_path": "pages", "container_path": "/data"}],
                "health": {"http": {"port": 8080, "path": "/health"}, "interval": "1s"},
            }
        },
    }
    (desk.lab.operator.home / "web.json").write_text(json.dumps(plan))
    desk.run("agent", "deploy", "web.json")
    assert "muster-web demo" in desk.run("curl", "-s", "http://n1:8080/").stdout


def test_after_a_power_cut_the_host_comes_back_by_itself(desk: Desk) -> None:
    host = desk.lab.host("n1")
    host.power_cut()
    host.start()
    desk.wait_all_alive(["n1", "n2", "n3", "n4", "n5"])
    wait_for_sync(
        lambda: "muster-web" in desk.run("curl", "-s", "-m", "2", "http://n1:8080/", check=False).stdout,
        60,
        what="the container that ran before",
    )


def test_a_link_that_is_closed_is_named(desk: Desk) -> None:
    desk.lab.partition(["n4"], ["n1", "n2", "n3", "bastion"])
    try:
        wait_for_sync(lambda: "dead" in host_states(desk), 60, what="n4 given up by the others")
        document = desk.install(check=False)
        assert document["exit"] == 3
        failed = document["hosts"]["n4"]
        assert failed["state"] == "failed"
        assert "n1" in failed["what"]
        assert "9998/tcp" in failed["what"] + failed["fix"]
    finally:
        desk.lab.heal()
    desk.wait_all_alive(["n1", "n2", "n3", "n4", "n5"])


@contextmanager
def answers(desk: Desk, port: int) -> Iterator[Callable[[], tuple[int, int]]]:
    """Somebody on n4 asks a port of all hosts, round after round: rounds so far, and those in which nobody answered."""
    hosts = " ".join(desk.lab.host(name).address for name in ("n1", "n2", "n3", "n5"))
    script = (
        f"rm -f /tmp/rounds; touch /run/asking; while [ -e /run/asking ]; do answered=0; for host in {hosts}; do "
        f"curl -sf -o /dev/null -m 1 http://$host:{port}/ && answered=1 && break; done; "
        "echo $answered >> /tmp/rounds; sleep 0.1; done"
    )
    asking = desk.lab.host("n4").popen(["sh", "-c", script])

    def counted() -> tuple[int, int]:
        rounds = on(desk, "n4", "cat", "/tmp/rounds", check=False).split()
        return len(rounds), rounds.count("0")

    try:
        wait_for_sync(lambda: counted()[0], 30, what="a first round")
        yield counted
    finally:
        on(desk, "n4", "rm", "-f", "/run/asking")
        asking.wait(30)
        for pipe in (asking.stdin, asking.stdout, asking.stderr):
            if pipe is not None:
                pipe.close()


# It goes away


def test_uninstalling_needs_a_yes(desk: Desk) -> None:
    result = desk.run("bootstrap", "uninstall", "hosts.txt", check=False)
    assert result.returncode == 2
    assert "--yes" in result.stderr


def test_uninstalling_some_refuses_to_break_the_majority(desk: Desk) -> None:
    found = desk.status()
    voters = [host["name"] for host in found["hosts"] if host["role"] in ("voter", "coordinator")]
    leaving = ",".join(voters[: len(voters) // 2 + 1])
    result = desk.run("bootstrap", "uninstall", "hosts.txt", "--yes", "--limit", leaving, check=False)
    assert result.returncode == 5
    assert "must agree for the ledger to go on" in result.stderr
    assert {active(desk, name) for name in voters} == {"active"}


def test_a_dry_run_says_what_would_move_and_what_would_end(desk: Desk) -> None:
    for name in ("n2", "n3", "n4", "n5"):
        desk.lab.host(name).load_image("muster-web:demo")
    service = {
        "docker_image": "muster-web:demo",
        "replicas": 1,
        "ports": [{"host_port": 8090, "container_port": 8080}],
        "health": {"http": {"port": 8080, "path": "/health"}, "interval": "1s"},
    }
    kept = {"docker_image": "muster-web:demo", "host": "n5"}
    (desk.lab.operator.home / "pair.json").write_text(
        json.dumps({"stack": "pair", "services": {"web": service, "kept": kept}})
    )
    desk.run("agent", "drain", "n1", "n2", "n3", "n4", "--detach")  # so that it goes to n5
    desk.run("agent", "deploy", "pair.json")
    desk.run("agent", "undrain", "n1", "n2", "n3", "n4")
    desk.run("agent", "drain", "n1", "--detach")  # it has no image
    assert "pair/web" in desk.run("agent", "ps").stdout
    planned = desk.run("bootstrap", "uninstall", "hosts.txt", "--dry-run", "--limit", "n5")
    assert "would move: n5: pair/web.1" in planned.stdout
    assert "would end: n5: pair/kept.1 (pinned to n5)" in planned.stdout
    assert active(desk, "n5") == "active"


def test_uninstalling_one_drains_and_expels_it_while_its_service_of_one_goes_on_answering(desk: Desk) -> None:
    with answers(desk, 8090) as counted:
        result = desk.run("bootstrap", "uninstall", "hosts.txt", "--yes", "--limit", "n5")
        found = desk.wait_all_alive(["n1", "n2", "n3", "n4"])
    assert counted() >= (10, 0)
    assert counted()[1] == 0, "rounds in which nobody answered"
    assert "n5: draining" in result.stdout
    assert "moved: n5: pair/web.1" in result.stdout
    assert "ended: n5: pair/kept.1 (pinned to n5)" in result.stdout
    (pair,) = (stack for stack in found["stacks"] if stack["name"] == "pair")
    (web,) = (service for service in pair["services"] if service["name"] == "web")
    assert web["healthy"] == 1
    assert active(desk, "n5") == "inactive"
    desk.wait_all_alive(["n1", "n2", "n3", "n4"])
    for path in ("/opt/muster", "/etc/muster", "/var/lib/muster", "/usr/local/bin/agent", UNIT):
        assert not desk.lab.host("n5").run(["test", "-e", path], check=False).ok, path


def test_uninstalling_all_keeps_named_volumes_and_says_so(desk: Desk) -> None:
    desk.write_hosts(*FOUR)
    volumes = on(desk, "n1", "docker", "volume", "ls", "-q").split()
    assert len(volumes) == 1
    on(desk, "n2", "sh", "-c", "mkdir $0 && mount -t tmpfs tmpfs $0 && touch $0/photo", PHOTOS)
    result = desk.run("bootstrap", "uninstall", "hosts.txt", "--yes")
    assert f"kept: n1: volume {volumes[0]}" in result.stdout
    assert on(desk, "n1", "docker", "volume", "ls", "-q").split() == volumes
    assert on(desk, "n1", "docker", "ps", "-aq").split() == []
    assert {active(desk, name) for name in ("n1", "n2", "n3", "n4")} == {"inactive"}
    assert desk.lab.host("n1").run(["docker", "info"]).ok
    assert f"left: n2: {PHOTOS}: a disk is mounted there, and what is on it stays" in result.stdout
    assert on(desk, "n2", "ls", "/var/lib/muster", PHOTOS).split() == [
        "/var/lib/muster:",
        "photos",
        f"{PHOTOS}:",
        "photo",
    ]
    assert not desk.lab.host("n2").run(["test", "-e", "/opt/muster"], check=False).ok


def test_the_same_hosts_make_another_cluster(desk: Desk) -> None:
    desk.write_hosts(*THREE)
    desk.install("--name", "other")
    found = desk.run("agent", "--home", ".config/muster/other", "status", "--json", check=False)
    assert json.loads(found.stdout)["cluster"]["name"] == "other"


def test_a_host_of_another_cluster_is_refused(desk: Desk) -> None:
    failed = desk.install("--name", "third", "--limit", "n1", check=False)["hosts"]["n1"]
    assert "belongs to another cluster" in failed["what"]
