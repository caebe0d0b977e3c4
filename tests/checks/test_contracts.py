from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import grimp
import pytest
from importlinter.configuration import configure
from importlinter.domain.contract import Contract

from tests.checks.contracts import HouseForbiddenContract, HouseLayersContract, select

ROOT = Path(__file__).resolve().parents[2]
CONTRACTS: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]
SESSION = {"root_packages": ["agent", "bootstrap"], "include_external_packages": "True"}

configure()


def graph_of(*imports: str) -> grimp.ImportGraph:
    """Build a graph from lines ``importer -> imported``; names outside agent and bootstrap are external packages."""
    graph = grimp.ImportGraph()
    for line in imports:
        importer, _, imported = line.partition(" -> ")
        for module in filter(None, (importer, imported)):
            parts = module.split(".")
            own = parts[0] in SESSION["root_packages"]
            for depth in range(1, len(parts) + 1):
                name = ".".join(parts[:depth])
                if name not in graph.modules:
                    graph.add_module(name, is_squashed=not own)
        if imported:
            graph.add_import(importer=importer, imported=imported, line_number=1, line_contents=line)
    return graph


def broken(*imports: str) -> set[str]:
    """Return the ids of the project's own contracts that the imports break."""
    kinds: dict[str, type[Contract]] = {"house_layers": HouseLayersContract, "house_forbidden": HouseForbiddenContract}
    result = set()
    for options in CONTRACTS:
        given = {key: value for key, value in options.items() if key not in {"id", "name", "type"}}
        contract = kinds[options["type"]](options["name"], SESSION, given)
        if not contract.check(graph_of(*imports), verbose=False).kept:
            result.add(options["id"])
    return result


def test_an_empty_project_keeps_every_contract() -> None:
    assert broken("agent", "bootstrap") == set()


@pytest.mark.parametrize(
    "line",
    [
        "agent.cli.main -> agent.api.routes",
        "agent.api.routes -> agent.node.driver",
        "agent.node.app -> agent.node.driver",
        "agent.node.driver_tasks -> agent.net.link",
        "agent.net.link -> agent.node.effects",
        "agent.node.core -> agent.node.effects",
        "agent.node.core -> agent.control.scheduler",
        "agent.control.scheduler -> agent.state.cluster",
        "agent.state.apply -> agent.instruction",
        "agent.instruction -> agent.model.stack",
        "agent.config -> agent.errors",
        "agent.config -> os",
        "agent.raft.core -> random",
        "agent.node.driver -> asyncio",
        "agent.instruction.operator -> secrets",
        "agent.cli.main -> agent.client",
        "agent.client -> agent.instruction",
        "agent.client -> h11",
        "bootstrap.cli -> agent.client",
        "bootstrap.genesis -> agent.formats.plan",
        "bootstrap.ssh -> asyncio",
    ],
)
def test_downward_imports_are_allowed(line: str) -> None:
    assert broken(line) == set()


@pytest.mark.parametrize(
    ("line", "contract"),
    [
        ("agent.api.routes -> agent.cli.main", "layers"),
        ("agent.node.driver -> agent.api.routes", "layers"),
        ("agent.node.core -> agent.node.driver", "layers"),
        ("agent.node.core -> agent.node.app_start", "layers"),
        ("agent.node.core -> agent.node.shell.tasks", "layers"),
        ("agent.node.core -> agent.net.link", "layers"),
        ("agent.net.link -> agent.node.app", "layers"),
        ("agent.net.link -> agent.storage.ledger", "layers"),
        ("agent.control.scheduler -> agent.node.core", "layers"),
        ("agent.control.scheduler -> agent.host.ports", "layers"),
        ("agent.state.apply -> agent.control.rollout", "layers"),
        ("agent.raft.core -> agent.swim.core", "layers"),
        ("agent.raft.core -> agent.state.apply", "layers"),
        ("agent.formats.plan -> agent.config", "layers"),
        ("agent.model.stack -> agent.formats.plan", "layers"),
        ("agent.errors -> agent.model.stack", "layers"),
        ("agent.client -> agent.api.routes", "client"),
        ("agent.client -> agent.storage.keys", "client"),
        ("bootstrap.genesis -> agent.node.core", "bootstrap"),
        ("bootstrap.genesis -> agent.state.cluster", "bootstrap"),
        ("agent.cli.main -> bootstrap.cli", "daemon"),
        ("agent.raft.core -> asyncio", "pure"),
        ("agent.node.core -> time", "pure"),
        ("agent.node.effects -> logging", "pure"),
        ("agent.state.apply -> sqlite3", "pure"),
        ("agent.formats.plan -> socket", "pure"),
        ("agent.formats.plan -> pathlib", "pure"),
        ("agent.instruction.operator -> time", "pure"),
    ],
)
def test_each_contract_can_break(line: str, contract: str) -> None:
    assert contract in broken(line)


def test_an_import_through_a_third_module_is_found() -> None:
    assert "pure" in broken("agent.raft.core -> agent.model.helper", "agent.model.helper -> os")


def test_a_module_that_no_layer_names_breaks_the_contract() -> None:
    assert broken("agent.unheard_of") == {"layers"}


def test_patterns_never_cross_a_dot_and_an_exclamation_mark_takes_out() -> None:
    modules = {"a", "a.b", "a.bc", "a.b.c"}
    assert select(["a.*"], modules) == {"a.b", "a.bc"}
    assert select(["a.*", "!a.bc"], modules) == {"a.b"}
    assert select(["a.d"], modules) == set()
