"""The lab itself: what it promises to the tests that stand on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab import Host, Lab, LabError, leftovers, network, state, sweep
from tests.lab.process import spawn, wait_until

pytestmark = pytest.mark.lab

PORT = 9999

LISTEN = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)  # SO_RCVBUFFORCE, asm-generic/socket.h
sock.bind(("", int(sys.argv[1])))
print("listening", flush=True)
sock.settimeout(10)
heard = 0
while (data := sock.recv(100)) != b"end":
    heard += 1
print(heard, data.decode())
"""

SEND = """
import socket, sys, time
address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
for _ in range(count):
    sock.sendto(b"x", (address, port))
for _ in range(50):
    sock.sendto(b"end", (address, port))
"""


def listen(host: Host) -> subprocess.Popen[bytes]:
    process = host.popen(["python3", "-c", LISTEN, str(PORT)])
    assert process.stdout is not None
    assert process.stdout.readline() == b"listening\n"
    return process


def heard(process: subprocess.Popen[bytes]) -> int:
    out, err = process.communicate(timeout=15)
    assert process.returncode == 0, err
    return int(out.split()[0])


def ssh(lab: Lab, target: str, *argv: str, timeout_s: int = 2) -> bool:
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={timeout_s}"]
    return lab.operator.run(["ssh", *options, "--", target, *argv], check=False).ok


def reaches(source: Host, target: Host) -> bool:
    probe = "import socket, sys; socket.create_connection((sys.argv[1], 22), 1)"
    return source.run(["python3", "-c", probe, target.address], check=False).ok


def test_the_operator_reaches_every_host_by_name_as_root_and_as_a_sudo_user(lab: Lab) -> None:
    for name in lab.hosts:
        assert lab.operator.run(["ssh", name, "hostname"]).stdout == f"{name}\n"
        assert lab.operator.run(["ssh", f"ops@{name}", "sudo", "-n", "id", "-u"]).stdout == "0\n"


def test_every_host_has_systemd_up_a_machine_id_and_ssh_keys_of_its_own(lab: Lab) -> None:
    hosts = list(lab.hosts.values())
    states = [host.run(["systemctl", "is-system-running", "--wait"], check=False).stdout.strip() for host in hosts]
    assert states == ["running"] * 3
    for file in ("/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub"):
        assert len({host.run(["cat", file]).stdout for host in hosts}) == 3


def test_a_host_sees_its_own_network_only_in_sys_too(lab: Lab) -> None:
    assert lab.hosts["n2"].run(["ls", "/sys/class/net"]).stdout.split() == ["docker0", "eth0", "lo"]


def test_the_operators_tools_use_its_own_home_not_the_machines(lab: Lab) -> None:
    python = "import os, pwd; print(os.environ['HOME'], pwd.getpwuid(0).pw_dir, os.getcwd())"
    home = str(lab.operator.home)
    assert lab.operator.run([sys.executable, "-c", python]).stdout.split() == [home, home, home]


def test_a_failed_command_says_where_what_and_why(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"exit 3: n1: sh -c echo oh >&2; exit 3: oh"):
        lab.hosts["n1"].run(["sh", "-c", "echo oh >&2; exit 3"])
    assert lab.hosts["n1"].run(["false"], check=False).returncode == 1


def test_a_command_out_of_time_is_ended_with_its_children(lab: Lab) -> None:
    with pytest.raises(LabError, match="no end after"):
        lab.hosts["n1"].run(["sh", "-c", "sleep 98765; true"], timeout_s=0.3)
    wait_until(lambda: not lab.hosts["n1"].run(["pgrep", "-f", "sleep 9876[5]"], check=False).ok, "sleep gone", 5)


def test_input_reaches_the_command(lab: Lab) -> None:
    assert lab.hosts["n2"].run(["cat"], input="grüße").stdout == "grüße"
    assert lab.operator.run(["cat"], input=b"bytes").stdout == "bytes"


def test_docker_runs_the_demo_image_within_limits_and_the_operator_reads_its_page(lab: Lab) -> None:
    n1 = lab.hosts["n1"]
    limits = ["--memory=64m", "--cpus=0.5"]
    health = ["--health-cmd=wget -qO- http://127.0.0.1:$PORT/health", "--health-interval=1s"]
    container = n1.run(
        ["docker", "run", "--detach", "--env=PORT=8081", *limits, *health, "--publish=8080:8081", "muster-web:demo"]
    ).stdout.strip()
    page = ["curl", "--silent", "--fail", "http://n1:8080/"]
    expected = f"muster-web demo on {container[:12]}\n"
    wait_until(lambda: lab.operator.run(page, check=False).stdout == expected, "its page", 10)
    status = ["docker", "inspect", "--format={{.State.Health.Status}}", container]
    wait_until(lambda: n1.run(status).stdout == "healthy\n", "healthy", 10)
    stopped = n1.run(["docker", "stop", container])
    assert stopped.seconds < 5, "the image ends on SIGTERM"
    n1.run(["docker", "rm", container])


def test_an_image_has_the_same_id_on_every_host_and_each_tag_another(lab: Lab) -> None:
    ids = {host.load_image("muster-web:v2") for host in lab.hosts.values()}
    assert len(ids) == 1
    assert ids != {lab.hosts["n1"].load_image("muster-web:demo")}


@pytest.mark.parametrize("address", ["10.77.0.255", "255.255.255.255", "224.0.0.1"])
def test_a_broadcast_and_a_multicast_are_heard_by_all_others(lab: Lab, address: str) -> None:
    listeners = [listen(lab.hosts[name]) for name in ("n2", "n3")]
    lab.hosts["n1"].run(["python3", "-c", SEND, address, str(PORT), "1"])
    assert [heard(listener) for listener in listeners] == [1, 1]


def test_nothing_in_the_lab_waits_for_the_internet(lab: Lab) -> None:
    for side in (lab.operator, lab.hosts["n1"]):
        result = side.run(["curl", "--silent", "http://192.0.2.1/"], check=False)
        assert not result.ok
        assert result.seconds < 1
    assert lab.hosts["n1"].run(["getent", "hosts", "deb.debian.org"], check=False).seconds < 1


def test_a_power_cut_is_silence_and_the_disk_stays(whole: Lab) -> None:
    n1, n2 = whole.hosts["n1"], whole.hosts["n2"]
    n2.run(["sh", "-c", "echo kept > /root/file; echo gone > /run/file"])
    talk = "import socket; s = socket.create_connection(('n2', 22)); s.recv(99); print('up', flush=True); s.recv(99)"
    with n1.popen(["timeout", "2", "python3", "-c", talk]) as connection:
        assert connection.stdout is not None
        assert connection.stdout.readline() == b"up\n"
        n2.power_cut()
        assert not n2.running
        assert connection.wait(10) == 124, "the peer of a dead host hears no goodbye: it waits until its own timeout"
    assert not ssh(whole, "n2", "true", timeout_s=1)
    with pytest.raises(LabError, match="n2 is off"):
        n2.run(["true"])
    n2.start()
    assert ssh(whole, "n2", "test", "-f", "/root/file")
    assert not ssh(whole, "n2", "test", "-f", "/run/file")


def test_docker_restarts_containers_after_a_power_cut(whole: Lab) -> None:
    n1 = whole.hosts["n1"]
    n1.run(["docker", "run", "--detach", "--name=web", "--restart=always", "--publish=80:8080", "muster-web:demo"])
    n1.power_cut()
    n1.start()
    page = ["curl", "--silent", "--fail", "http://n1/"]
    wait_until(lambda: whole.operator.run(page, check=False).ok, "its page again", 10)
    n1.run(["docker", "rm", "--force", "web"])


def test_a_shut_down_stops_services_in_order(whole: Lab) -> None:
    n3 = whole.hosts["n3"]
    n3.run(["systemd-run", "--unit=last-words", "--property=ExecStop=touch /root/stopped", "sleep", "infinity"])
    n3.shut_down()
    assert not n3.running
    n3.start()
    assert n3.run(["test", "-e", "/root/stopped"], check=False).ok


def test_a_host_can_reboot_itself(whole: Lab) -> None:
    n3 = whole.hosts["n3"]
    boot = n3.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout
    n3.run(["systemctl", "reboot"], check=False)

    def booted_again() -> bool:
        try:
            return n3.run(["cat", "/proc/sys/kernel/random/boot_id"], check=False).stdout not in ("", boot)
        except LabError:  # it is off between the two
            return False

    wait_until(booted_again, "another boot", 20)
    wait_until(lambda: ssh(whole, "n3", "true"), "ssh again", 20)


def test_without_its_cable_a_host_runs_on_alone_and_sees_that_the_carrier_is_gone(whole: Lab) -> None:
    n2 = whole.hosts["n2"]
    n2.cable_out()
    assert n2.run(["cat", "/sys/class/net/eth0/carrier"]).stdout == "0\n"
    assert not ssh(whole, "n2", "true", timeout_s=1)
    n2.cable_in()
    assert n2.run(["cat", "/sys/class/net/eth0/carrier"]).stdout == "1\n"
    assert ssh(whole, "n2", "true", timeout_s=5)


def test_a_cable_that_is_out_stays_out_over_a_power_cut(whole: Lab) -> None:
    n2 = whole.hosts["n2"]
    n2.cable_out()
    n2.power_cut()
    n2.start()
    assert not ssh(whole, "n2", "true", timeout_s=1)
    whole.heal()
    assert ssh(whole, "n2", "true", timeout_s=5)


def test_a_partition_cuts_between_its_sides_only_until_it_is_healed(whole: Lab) -> None:
    n1, n2, n3 = whole.hosts.values()
    whole.partition({"n1"}, {"n2", "n3"})
    assert not reaches(n1, n2)
    assert not reaches(n3, n1)
    assert reaches(n2, n3)
    assert ssh(whole, "n1", "true"), "the operator stands on no side"
    whole.partition({"n1", "n2"}, {"n3"})
    wait_until(lambda: reaches(n1, n2), "n1 and n2 together again", 5)
    assert not reaches(n2, n3)
    whole.heal()
    wait_until(lambda: reaches(n1, n3) and reaches(n3, n2), "all together again", 5)


def test_a_block_cuts_one_direction_only(whole: Lab) -> None:
    listener = listen(whole.hosts["n2"])
    deaf = listen(whole.hosts["n1"])
    whole.block("n2", "n1")
    whole.hosts["n1"].run(["python3", "-c", SEND, "10.77.0.12", str(PORT), "7"])
    assert heard(listener) == 7
    whole.hosts["n2"].run(["python3", "-c", SEND, "10.77.0.11", str(PORT), "7"])
    whole.heal()
    whole.hosts["n2"].run(["python3", "-c", SEND, "10.77.0.11", str(PORT), "1"])
    assert heard(deaf) == 1


def test_loss_takes_its_share_of_a_hosts_frames_and_nobody_elses(whole: Lab) -> None:
    # 400 datagrams at 50 %: mean 200, standard deviation 10; the bounds are eight of those away.
    n1, n2, n3 = whole.hosts.values()
    n1.run(["python3", "-c", SEND, n2.address, str(PORT), "0"])  # neighbours know each other before frames get lost
    whole.loss("n1", 50)
    listener = listen(n2)
    n1.run(["python3", "-c", SEND, n2.address, str(PORT), "400"])
    assert 120 < heard(listener) < 280
    listener = listen(n2)
    n3.run(["python3", "-c", SEND, n2.address, str(PORT), "400"])
    assert heard(listener) == 400
    whole.loss("n1", 0)
    assert whole.faults.loss == {}


def test_faults_name_hosts_that_exist(lab: Lab) -> None:
    with pytest.raises(LabError, match="no host 'n9' in this lab: there are operator, n1, n2, n3"):
        lab.partition({"n1"}, {"n9"})
    assert lab.faults.groups == ()


def test_another_process_can_go_on_with_the_lab(lab: Lab) -> None:
    again = Lab.attach(lab.name)
    assert again.hosts["n1"].run(["hostname"]).stdout == "n1\n"
    script = [sys.executable, "-m", "tests.lab", "--name", lab.name]
    root = Path(__file__).parents[2]
    status = subprocess.run([*script, "status"], check=True, capture_output=True, text=True, cwd=root).stdout
    assert status.splitlines()[0] == "n1       10.77.0.11  on"
    hostname = [*script, "run", "n2", "sh", "-c", "hostname; exit 7"]
    run = subprocess.run(hostname, check=False, capture_output=True, text=True, cwd=root)
    assert (run.stdout, run.returncode) == ("n2\n", 7)


def test_a_name_is_taken_once(lab: Lab) -> None:
    with pytest.raises(LabError, match=f"lab '{lab.name}' is up already"):
        Lab.up(1, name=lab.name)
    assert lab.hosts["n1"].running


def test_other_hosts_kinds(lab_name: str) -> None:
    """Another ssh port, cgroup v2, a bastion, and a host on which Docker is installed from the offline packages."""
    with Lab.up(
        3,
        name=f"{lab_name}-kinds",
        ssh_port={"n2": 2222},
        cgroup_v2={"n1"},
        behind_bastion={"n3"},
        without_docker={"n2", "n3"},
    ) as lab:
        n1, n2, n3 = lab.hosts.values()
        assert lab.operator.run(["ssh", "n2", "hostname"]).stdout == "n2\n"
        assert not lab.operator.run(["ssh", "-p", "22", "n2", "true"], check=False).ok
        assert lab.operator.run(["ssh", "n3", "hostname"]).stdout == "n3\n"
        assert not lab.operator.run(["ssh", "-o", "ProxyJump=none", "n3", "true"], check=False).ok
        assert not reaches(n1, n3)
        assert lab.bastion is not None
        assert reaches(lab.bastion, n3)
        assert "Cgroup Version: 2" in n1.run(["docker", "info"]).stdout
        assert (n1.has_docker, n2.has_docker) == (True, False)
        n2.run(["apt-get", "update"])
        n2.run(["apt-get", "install", "--yes", "docker.io"])
        assert "Server Version: 20" in n2.run(["docker", "info"]).stdout
        assert n2.load_image() == n1.load_image()


def test_hosts_behind_a_routing_bastion_are_reached_by_hosts_but_not_by_the_operator(lab_name: str) -> None:
    with Lab.up(
        2, name=f"{lab_name}-routes", behind_bastion={"n2"}, bastion_routes=True, without_docker={"n1", "n2"}
    ) as lab:
        n1, n2 = lab.hosts.values()
        assert reaches(n1, n2)
        assert reaches(n2, n1)
        assert not lab.operator.run(["ssh", "-o", "ProxyJump=none", "n2", "true"], check=False).ok


def test_down_leaves_nothing_and_can_be_done_twice(lab_name: str) -> None:
    name = f"{lab_name}-leak"
    with Lab.up(1, name=name, without_docker={"n1"}) as lab:
        sleep = ["sh", "-c", "echo started; exec sleep infinity"]
        strays = [
            lab.operator.popen(
                ["nsenter", f"--net=/proc/{os.getpid()}/ns/net", "--", *sleep]
            ),  # left the lab's network
            spawn([*network.enter(name, "n1"), *sleep]),  # never was in the lab's cgroups
        ]
        for stray in strays:
            assert stray.stdout is not None
            assert stray.stdout.readline() == b"started\n"
        assert {line.split()[0] for line in lab.leftovers()} >= {"process", "namespace", "cgroup", "files"}
    for stray in strays:
        stray.communicate()
        assert stray.returncode == -signal.SIGKILL
    assert lab.leftovers() == []
    assert name not in Path("/proc/self/mounts").read_text()
    assert not any(name in path for path in os.listdir("/run/netns"))
    lab.down()
    with pytest.raises(LabError, match="no lab"):
        Lab.attach(name)


def test_the_lab_of_a_killed_process_is_swept(lab_name: str) -> None:
    name = f"{lab_name}-crash"
    script = (
        "import os, signal, sys\nfrom tests.lab import Lab\n"
        "Lab.up(1, name=sys.argv[1], without_docker={'n1'})\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", script, name], check=False, cwd=root)
    assert killed.returncode == -signal.SIGKILL
    assert Lab.attach(name).hosts["n1"].running
    assert name in sweep()
    assert leftovers(name) == []


def test_what_is_left_without_a_state_is_removed_as_well(lab_name: str) -> None:
    name = f"{lab_name}-half"
    lab = Lab.up(1, name=name, without_docker={"n1"})
    (state.directory(name) / "state.json").write_text("{")
    with pytest.raises(LabError, match="not readable"):
        Lab.attach(name)
    lab.down()
    assert lab.leftovers() == []
