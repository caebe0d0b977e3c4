"""What one host has to do doesn't grow with the number of hosts: counted, not timed."""

from __future__ import annotations

import statistics

from tests.bench.scale import Fleet


def test_an_idle_host_says_and_hears_as_much_among_thirty_hosts_as_among_ten() -> None:
    few, many = Fleet(10).run(), Fleet(30).run()
    for fleet in (few, many):
        assert len(fleet.reached_at) == fleet.size, "an instruction is with all hosts"
        hosts = fleet.hosts(vote=False)
        assert {fleet.streams[host] for host in hosts} == {1}
        assert sum(fleet.streams[voter] - (len(fleet.voters) - 1) for voter in fleet.voters) == len(hosts)
    messages = [statistics.median(fleet.messages[host] for host in fleet.hosts(vote=False)) for fleet in (few, many)]
    sizes = [statistics.median(fleet.bytes[host] for host in fleet.hosts(vote=False)) for fleet in (few, many)]
    assert messages[1] <= 1.1 * messages[0]
    assert sizes[1] <= 1.1 * sizes[0]
