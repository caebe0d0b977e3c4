"""What ssh is told about a lab's hosts."""

from __future__ import annotations

from pathlib import Path

from tests.lab.layout import plan
from tests.lab.operators import known_hosts_line, passwd, ssh_config

LAYOUT = plan(3, ssh_port={"n2": 2222}, behind_bastion={"n3"})


def test_ssh_is_told_only_what_it_cannot_know() -> None:
    assert ssh_config(LAYOUT).splitlines() == [
        "StrictHostKeyChecking yes",
        "Host n2 10.77.0.12",
        "  Port 2222",
        "Host n3 10.77.1.13",
        "  ProxyJump bastion",
    ]


def test_a_host_key_is_known_by_name_and_address_with_another_port_in_brackets() -> None:
    lines = [known_hosts_line(node, "ssh-ed25519 AAAA comment") for node in LAYOUT.hosts[:2]]
    assert lines == ["n1,10.77.0.11 ssh-ed25519 AAAA\n", "[n2]:2222,[10.77.0.12]:2222 ssh-ed25519 AAAA\n"]


def test_only_roots_home_moves() -> None:
    text = "root:x:0:0:root:/root:/bin/bash\nops:x:1000:1000::/home/ops:/bin/sh\n"
    moved = "root:x:0:0:root:/desk/home:/bin/bash\nops:x:1000:1000::/home/ops:/bin/sh\n"
    assert passwd(text, Path("/desk/home")) == moved
