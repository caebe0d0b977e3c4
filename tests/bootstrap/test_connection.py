"""This machine as a host: the helper is started here, and no ssh has a part in it."""

from __future__ import annotations

import os
import platform

from bootstrap.connection import Connection
from bootstrap.inventory import parse_inventory
from bootstrap.site import Site
from bootstrap.ssh import SshSettings


async def test_localhost_is_looked_at_without_ssh() -> None:
    (host,) = parse_inventory("localhost ansible_become=false name=here")
    told: list[str] = []
    site = Site(host=host, tell=told.append)
    site.connection = await Connection.open(host, SshSettings())
    try:
        facts = await site.probe(None)
    finally:
        await site.close()
    assert facts.hostname == platform.node()
    assert facts.root is (os.geteuid() == 0)
    assert facts.ssh_address == ""
