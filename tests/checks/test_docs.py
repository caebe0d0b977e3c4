from __future__ import annotations

from pathlib import Path

import pytest

from tests.checks.docs import anchors, documents, headings, links, make_targets, paths, targets_of, wrong_in

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md"])
def test_a_document_a_reader_starts_from_names_only_what_exists(name: str) -> None:
    if not (ROOT / name).exists():
        pytest.skip(f"{name} is not written yet")
    assert list(wrong_in(ROOT / name, ROOT)) == []


def test_the_documents_under_docs_name_only_what_exists() -> None:
    wrong = {path.relative_to(ROOT).as_posix(): list(wrong_in(path, ROOT)) for path in documents(ROOT)}
    assert {name: found for name, found in wrong.items() if found and name.startswith("docs/")} == {}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "Makefile").write_text("NAME := x\nvenv: lock\ntest-lab: ## help\n\ttrue\n")
    (tmp_path / "agent" / "raft").mkdir(parents=True)
    (tmp_path / "agent" / "raft" / "core.py").touch()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "use.md").write_text("# Use `it`, well\n\n```sh\n# No heading\n```\n")
    return tmp_path


def wrong(tree: Path, text: str) -> list[str]:
    (tree / "README.md").write_text(text)
    return list(wrong_in(tree / "README.md", tree))


@pytest.mark.parametrize(
    "text",
    [
        "[how](docs/use.md), [here](docs/use.md#use-it-well), [web](https://example.org/agent/none.py)",
        "# A top\n[up](#a-top) ![picture](</docs/use.md>)",
        "`agent/raft/core.py`, `agent/raft/`, `agent/*/core.py`, `./agent/raft`.",
        "`/var/lib/agent/none`, `https://host/docs/none`, `/opt/muster/bootstrap/none`, `docs`",
        "```sh\nmake venv && sudo make test-lab SEED=3  # then make coffee\n```",
        "Do make sure. `cmake nothing`, `automake nothing`, `make`",
    ],
)
def test_what_exists_is_accepted(tree: Path, text: str) -> None:
    assert wrong(tree, text) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[how](docs/none.md)", "link to docs/none.md: no such file"),
        ("[how](docs/use.md#none)", "link to docs/use.md#none: no such heading"),
        ("[how](docs/use.md#no-heading)", "link to docs/use.md#no-heading: no such heading"),
        ("[how]: docs/none.md", "link to docs/none.md: no such file"),
        ("`agent/raft/none.py`", "agent/raft/none.py: no such file"),
        ("`agent/*/none.py`", "agent/*/none.py: no such file"),
        ("`ARCHITECTURE.md`", "ARCHITECTURE.md: no such file"),
        ("```sh\npython examples/none.py\n```", "examples/none.py: no such file"),
        ("```sh\nmake venv none\n```", "make none: no such target"),
        ("```sh\n$ make none\n```", "make none: no such target"),
        ("`CI=true make none`", "make none: no such target"),
    ],
)
def test_what_is_missing_is_named(tree: Path, text: str, found: str) -> None:
    assert wrong(tree, text) == [found]


def test_the_makefile_of_the_project_is_understood() -> None:
    known = targets_of((ROOT / "Makefile").read_text())
    assert {"help", "venv", "lock", "fmt", "check", "test", "test-lab", "sim", "bench", "demo", "lab-down"} <= known


def test_a_place_is_found_by_headings_and_by_the_first_cells_of_tables() -> None:
    text = "# Ports\n\n| heading | promise |\n|---|---|\n| Log format | those keys |\n\n```\n# no heading\n```\n"
    assert headings(text) >= {"Ports", "Log format"}
    assert "no heading" not in headings(text)


def test_repeated_headings_get_numbered_anchors() -> None:
    assert anchors("# Ports\n## Ports\n") == {"ports", "ports-1"}


def test_code_is_neither_link_nor_prose() -> None:
    text = "`[no](link)` and\n```\n[none](either)\n```\nmake nothing agent/none"
    assert (list(links(text)), list(paths(text)), list(make_targets(text))) == ([], [], [])
