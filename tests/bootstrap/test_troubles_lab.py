"""`bootstrap install` as somebody meets it: hosts with something wrong each, lists that change, a cluster that is over.

The tests are one story and run in order, as those of `test_install_lab`.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest

from tests.bootstrap.desk import Desk, desk_of
from tests.lab import Lab
from tests.lab.host import Host
from tests.support.waiting import wait_for_sync

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]

AGENTS_END = {"n2", "n3"}  # its ledger was damaged; its configuration had a slip
WELL = ("root@n1 zone=a", "root@n2", "root@n3", "root@n4:2222")
SERVICE = {"runtime": "process", "command": ["sleep", "1000"], "labels": {"disk": "ssd"}}
IMAGE = "muster-web:demo"
BEFORE: dict[str, str] = {}
"""The container of each stack on n2 while its ledger was whole."""
RECOVERY = "muster-muster-recovery.key: put it away offline"
OLD_PYTHON = """\
#!/bin/sh
exec /usr/bin/python3 -I -c "import sys; sys.version_info = (3, 7, 3, 'final', 0); $3"
"""
"""What it is given runs as under an older Python, as far as the program looks at its version."""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    if reason := Lab.unavailable():
        pytest.skip(reason)
    with (
        Lab.up(4, name=f"t{os.getpid()}", ssh_port={"n4": 2222}, behind_bastion={"n4"}, bastion_routes=True) as lab,
        desk_of(lab, tmp_path_factory.mktemp("desk")) as made,
    ):
        yield made


def labels(desk: Desk) -> dict[str, dict[str, str]]:
    return {host["name"]: host["labels"] for host in desk.status()["hosts"]}


def failures(said: str) -> dict[str, tuple[str, str]]:
    """What is told of each host that failed, and the fix below it."""
    lines = said.splitlines()
    marked = [(number, line.split(": failed: ", 1)) for number, line in enumerate(lines) if ": failed: " in line]
    return {host: (what, lines[number + 1].strip()) for number, (host, what) in marked}


def test_stopped_in_the_middle_it_leaves_nothing_half_done_and_says_how_it_goes_on(desk: Desk) -> None:
    with desk.popen("bootstrap", "install", desk.write_hosts(*WELL)) as command:
        assert command.stdout is not None
        while b"sending the agent" not in (line := command.stdout.readline()):
            assert line, command.communicate()
        os.killpg(command.pid, signal.SIGINT)  # as a terminal does for Ctrl-C
        told = command.communicate(timeout=30)[1].decode()
    assert command.returncode == 130
    assert "this goes on with it: bootstrap install hosts.txt\n" in told
    assert RECOVERY in told
    files = ["find", "/opt/muster", "/etc/muster", "/var/lib/muster", "-type", "f"]

    def none_left() -> bool:
        return not any(host.run(files, check=False).stdout for host in desk.lab.hosts.values())

    wait_for_sync(none_left, 10, what="no file left")


def test_each_host_tells_what_is_wrong_with_it_and_the_others_become_a_cluster(desk: Desk) -> None:
    desk.lab.host("n2").run(["mv", "/usr/bin/python3", "/usr/bin/python3.away"])
    write = "cat > /usr/local/bin/python3 && chmod 755 /usr/local/bin/python3"
    desk.lab.host("n3").run(["sh", "-c", write], input=OLD_PYTHON)
    lists = (*WELL, "root@n9 name=slip", "root@10.77.0.99 name=ghost")
    try:
        result = desk.run("bootstrap", "install", desk.write_hosts(*lists), check=False)
    finally:
        desk.lab.host("n2").run(["mv", "/usr/bin/python3.away", "/usr/bin/python3"])
        desk.lab.host("n3").run(["rm", "/usr/local/bin/python3"])
    assert result.returncode == 3, result.stdout
    told = failures(result.stdout)
    assert told == {
        "n2": ("there is no python3", "Install it there: apt install python3 (dnf, apk, …); 3.11 or later."),
        "n3": ("its python3 is 3.7, 3.11 is needed", "Install one and name it: python=/usr/bin/python3.11"),
        "n9": ("there is no host n9", "Look for a slip in hosts.txt:5, or at DNS."),
        "10.77.0.99": ("no answer on the network", "Is it on, and its address right? Does a firewall drop?"),
    }
    assert {host["name"] for host in desk.status()["hosts"]} == {"n1", "n4"}
    assert "2 installed, 4 failed" in result.stdout
    assert RECOVERY in result.stdout, "the home is an earlier run's, but nobody read its end"
    desk.install(hosts=desk.write_hosts(*WELL))
    desk.wait_all_alive(["n1", "n2", "n3", "n4"])


def test_two_lines_that_lead_to_one_host_are_both_refused(desk: Desk) -> None:
    hosts = desk.write_hosts("root@n3", "root@10.77.0.13 name=twin", name="twins.txt")
    result = desk.run("bootstrap", "install", hosts, "--accept-new", check=False)
    told = failures(result.stdout)
    assert told["n3"][0] == "10.77.0.13 has its address too, 10.77.0.13"
    assert told["10.77.0.13"][0] == "n3 has its address too, 10.77.0.13"
    assert "See twins.txt:" in told["n3"][1]
    assert len(desk.status()["hosts"]) == 4


def test_labels_that_change_in_the_list_change_in_the_ledger_too(desk: Desk) -> None:
    hosts = desk.write_hosts("root@n1 zone=b disk=ssd", *WELL[1:])
    told = "labels (disk=ssd zone=b; were zone=a)"
    planned = desk.install("--dry-run")
    assert told in planned["hosts"]["n1"]["changed"]
    assert all(planned["hosts"][name]["changed"] == [] for name in ("n2", "n3", "n4"))
    assert labels(desk)["n1"] == {"zone": "a"}

    said = desk.run("bootstrap", "install", hosts).stdout
    line = next(line for line in said.splitlines() if line.startswith("n1: changed: "))
    assert told in line
    assert "n2: unchanged" in said.splitlines()
    assert labels(desk) == {"n1": {"zone": "b", "disk": "ssd"}, "n2": {}, "n3": {}, "n4": {}}
    assert " relabel host:" in desk.run("agent", "audit", "log").stdout
    assert desk.install()["hosts"]["n1"]["changed"] == []

    bare = desk.install(hosts=desk.write_hosts("root@n1", *WELL[1:], name="bare.txt"))["hosts"]["n1"]
    assert "it keeps its labels (disk=ssd zone=b), as bare.txt:1 has none" in bare["notes"]
    assert labels(desk)["n1"] == {"zone": "b", "disk": "ssd"}

    (desk.lab.operator.home / "plan.json").write_text(json.dumps({"stack": "web", "services": {"web": SERVICE}}))
    desk.run("agent", "deploy", "plan.json")
    (replica,) = json.loads(desk.run("agent", "ps", "--json").stdout.splitlines()[0])["replicas"]
    assert replica["host"] == "n1", "the scheduler goes by them"
    desk.run("agent", "remove", "web", "--yes")


def test_an_agent_whose_configuration_has_a_slip_is_started_again_by_who_corrects_it(desk: Desk) -> None:
    host, slip = desk.lab.host("n3"), "sed -i 's/^name = /nmae = /' /etc/muster/agent.toml"
    host.run(["sh", "-c", f"{slip}; systemctl restart muster-agent"], check=False)
    assert unit_of(host) == ("failed", "0")
    (told,) = agent_findings(host)
    assert told["what"].startswith("no agent starts with this configuration: ")
    planned = desk.install("--dry-run", "--limit", "n3")["hosts"]["n3"]
    assert any(note.startswith("its agent didn't run, failed (exit-code): ") for note in planned["notes"])
    host.run(["sh", "-c", "sed -i 's/^nmae = /name = /' /etc/muster/agent.toml; systemctl start muster-agent"])
    desk.wait_all_alive(["n1", "n2", "n3", "n4"])


def test_an_agent_that_waits_for_room_on_its_disk_says_so_on_its_host(desk: Desk) -> None:
    host, data = desk.lab.host("n3"), "/var/lib/muster"
    small = f"cp -a {data} /root/copy && mount -t tmpfs -o size=2m,mode=700 none {data} && mv /root/copy/* {data}"
    host.run(["sh", "-c", f"systemctl stop muster-agent; {small}; head -c 9m /dev/zero > {data}/filling"], check=False)
    host.run(["systemctl", "start", "muster-agent"])
    asked = host.run(["agent", "status"], check=False)
    assert "the agent of this host doesn't serve now: Waiting for room on the disk" in asked.stderr
    (told,) = agent_findings(host)
    assert told["what"].startswith("the agent doesn't serve now: Waiting for room on the disk; its last words: ")
    assert unit_of(host) == ("active", "0")
    host.run(["sh", "-c", f"systemctl stop muster-agent; umount {data}; systemctl start muster-agent"])
    desk.wait_all_alive(["n1", "n2", "n3", "n4"])


def deploy(desk: Desk, stack: str, port: int) -> str:
    """A service in a container on n2 alone, with a volume; its container's id, as the port tells it."""
    service = {
        "docker_image": IMAGE,
        "host": "n2",
        "ports": [{"host_port": port, "container_port": 8080}],
        "volumes": [{"host_path": "data", "container_path": "/data"}],
        "networks": ["inner"],
        "health": {"http": {"port": 8080, "path": "/health"}, "interval": "1s"},
    }
    (desk.lab.operator.home / f"{stack}.json").write_text(json.dumps({"stack": stack, "services": {"web": service}}))
    desk.run("agent", "deploy", f"{stack}.json")
    return served(desk, port)


def served(desk: Desk, port: int) -> str:
    """Who answers on that port of n2: the container's id, shortened."""
    return desk.run("curl", "-sf", "-m", "5", f"http://n2:{port}/").stdout.split()[-1]


def docker(desk: Desk, *argv: str) -> list[str]:
    return desk.lab.host("n2").run(["docker", *argv]).stdout.split()


def test_containers_run_on_a_host(desk: Desk) -> None:
    desk.lab.host("n2").load_image(IMAGE)
    for stack, port in (("ends", 8080), ("stays", 8081)):
        BEFORE[stack] = deploy(desk, stack, port)
        (path,) = docker(desk, "volume", "inspect", "--format={{.Mountpoint}}", f"{stack}_data")
        desk.lab.host("n2").run(["sh", "-c", 'echo "$1" > "$0/file"', path, stack])
    assert sorted(docker(desk, "ps", "-aq")) == sorted(BEFORE.values())


def test_a_host_whose_ledger_is_damaged_says_what_to_do_once_and_waits_for_somebody(desk: Desk) -> None:
    host, damaged, told = desk.lab.host("n2"), "the ledger is damaged", "move `identity` and `ledger.db*` out of the"
    host.run(["sh", "-c", "systemctl stop muster-agent && truncate -s 5000 /var/lib/muster/ledger.db"])
    failed = desk.install("--limit", "n2", check=False)["hosts"]["n2"]
    assert damaged in failed["what"]
    assert told in failed["what"]
    assert unit_of(host) == ("failed", "0"), "nothing starts it again"
    journal = host.run(["journalctl", "-u", "muster-agent", "-o", "cat", "--no-pager"]).stdout
    assert journal.count(damaged) == 1

    for command in ("status", "ps", "doctor"):
        asked = host.run(["agent", command], check=False)
        assert asked.returncode != 0
        assert damaged in asked.stdout + asked.stderr, f"agent {command} on the host"
        assert told in asked.stdout + asked.stderr
    shown = host.run(["systemctl", "status", "muster-agent"], check=False).stdout
    assert told in next(line for line in shown.splitlines() if "Status: " in line)


def agent_findings(host: Host) -> list[dict[str, str]]:
    """The errors that `agent doctor` there finds of its agent: that it doesn't serve, and why."""
    document = json.loads(host.run(["agent", "doctor", "--json"], check=False).stdout)
    errors = (finding for finding in document["findings"] if finding["severity"] == "error")
    return [finding for finding in errors if finding["check"] in ("agent", "config")]


def unit_of(host: Host) -> tuple[str, str]:
    """How the agent's is, and how often systemd started it by itself."""
    asked = host.run(["systemctl", "show", "-p", "ActiveState", "-p", "NRestarts", "muster-agent"]).stdout
    values = dict(line.split("=", 1) for line in asked.splitlines())
    return values["ActiveState"], values["NRestarts"]


def test_by_that_it_comes_back_as_a_new_member(desk: Desk) -> None:
    host = desk.lab.host("n2")
    before = {each["name"]: each["id"] for each in desk.status()["hosts"]}
    again = desk.install("--limit", "n2", check=False)["hosts"]["n2"]
    assert "the ledger is damaged" in again["what"]
    host.run(["systemctl", "stop", "muster-agent"])
    host.run(["sh", "-c", "mkdir /root/old && cd /var/lib/muster && mv identity ledger.db* /root/old"])
    refused = desk.install("--limit", "n2", check=False)["hosts"]["n2"]
    assert "`agent expel` that one first" in refused["fix"]
    assert served(desk, 8080) == BEFORE["ends"], "it runs on, whatever becomes of the agent"
    desk.run("agent", "expel", "n2", "--yes")
    desk.run("agent", "remove", "ends", "--yes")
    desk.install("--limit", "n2")
    found = desk.wait_all_alive(["n1", "n2", "n3", "n4"])
    after = {each["name"]: each["id"] for each in found["hosts"]}
    assert [name for name in before if before[name] != after[name]] == ["n2"]


def test_what_ran_there_before_is_its_own_still(desk: Desk) -> None:
    """One stack was removed while the host was no member, the other is wanted there still."""

    def there(*stacks: str) -> bool:
        found = docker(desk, "ps", "-a", "--format={{.Names}}={{.State}}")
        return sorted(found) == [f"{stack}-web-1=running" for stack in stacks]

    wait_for_sync(lambda: there("stays"), 30, what="what is wanted, and nothing else")
    successor = deploy(desk, "next", 8080)
    assert there("next", "stays")
    assert successor != BEFORE["ends"]
    assert successor in docker(desk, "ps", "-q", "--filter=name=next-web-1")
    assert served(desk, 8081) in docker(desk, "ps", "-q", "--filter=name=stays-web-1")
    assert sorted(docker(desk, "volume", "ls", "-q")) == ["ends_data", "next_data", "stays_data"]
    assert docker(desk, "exec", "stays-web-1", "cat", "/data/file") == ["stays"]
    desk.run("agent", "remove", "stays", "--volumes", "--yes")
    networks = ("network", "ls", "--format={{.Name}}", "--filter=label=muster.cluster")
    wait_for_sync(lambda: docker(desk, *networks) == ["next_inner"], 30, what="no network of a stack that is gone")
    volumes = ["ends_data", "next_data"]
    wait_for_sync(lambda: sorted(docker(desk, "volume", "ls", "-q")) == volumes, 30, what="no volume of it either")


def test_a_cluster_that_is_over_makes_way_for_another_when_told(desk: Desk) -> None:
    lives = desk.run("bootstrap", "install", "hosts.txt", "--new-cluster", check=False)
    assert lives.returncode == 1
    assert "cluster muster isn't over: n" in lives.stderr
    at = "com.docker.compose.project.working_dir=/var/lib/muster/stacks/web"
    docker(desk, "create", f"--label={at}", "--label=muster.cluster=anotherclusterof", IMAGE)
    said = desk.run("bootstrap", "uninstall", "hosts.txt", "--yes").stdout
    assert docker(desk, "ps", "-aq") == [], "of whatever cluster and identity of the host"
    assert "`bootstrap install HOSTS --new-cluster` makes the next one" in said

    refused = desk.install(check=False)["hosts"]["n1"]
    assert refused["what"] == "no member of cluster muster answers that could take it in"
    assert "--new-cluster makes another in its place" in refused["fix"]
    homes = desk.lab.operator.home / ".config" / "muster"
    before = json.loads((homes / "muster" / "cluster.json").read_text())["id"]
    desk.install("--new-cluster")
    found = desk.wait_all_alive(["n1", "n2", "n3", "n4"])
    assert found["cluster"]["id"] != before
    assert (homes / "ended" / f"muster-{before}" / "operator.key").exists()
