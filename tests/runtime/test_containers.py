"""Whose a container is, by its labels alone."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from agent.runtime.containers import container_labels, is_own, owner_labels
from tests.support.replicas import AGENT, CLUSTER, OTHER_AGENT, spec

STACKS = PurePosixPath("/var/lib/muster/stacks")
ANOTHER_CLUSTER = "ponmlkjihgfedcba"
ELSEWHERE = "/srv/demo/n2/data/stacks/shop"


def made_by(*, agent: str = AGENT, cluster: str = CLUSTER, directory: str = f"{STACKS}/shop") -> dict[str, str]:
    return container_labels(spec(agent=agent, cluster=cluster), PurePosixPath(directory))


def own(labels: dict[str, str]) -> bool:
    return is_own(labels, owner_labels(CLUSTER, AGENT), STACKS)


@pytest.mark.parametrize("identity", [{"agent": OTHER_AGENT}, {"agent": OTHER_AGENT, "cluster": ANOTHER_CLUSTER}])
def test_what_the_host_made_under_an_earlier_identity_is_its_own(identity: dict[str, str]) -> None:
    assert own(made_by(**identity))


def test_what_the_agent_made_before_its_data_directory_was_moved_is_its_own() -> None:
    assert own(made_by(directory=ELSEWHERE))


@pytest.mark.parametrize("directory", [ELSEWHERE, str(STACKS), f"{STACKS}/shop/data", f"{STACKS}/other"])
def test_what_another_agent_made_elsewhere_is_not(directory: str) -> None:
    assert not own(made_by(agent=OTHER_AGENT, directory=directory))


@pytest.mark.parametrize("without", ["muster.stack", "muster.service", "muster.slot"])
def test_what_names_no_replica_is_nobodys(without: str) -> None:
    """Such as what `docker-compose` makes by the file in the stack's directory."""
    labels = made_by()
    assert own(labels)
    del labels[without]
    assert not own(labels)
