"""The documentation's tables and examples against the code that they describe: each names all of it, and no more."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from agent import errors
from agent.api.problems import plain_problem
from agent.api.routes import ROUTES
from agent.cli.main import COMMANDS
from agent.config import ENVIRONMENT, KEYS, Config, parse_config
from agent.formats import generate, plan
from agent.formats.resolve import resolve
from agent.host import endpoints
from agent.host.policy import HostPolicy
from agent.instruction.scopes import needed_scope
from agent.model import api, events, instruction, stack, status
from agent.model.decode import convert, decode_json
from agent.model.instruction import BODIES, TARGET_KINDS, Claims
from agent.telemetry import api_log
from bootstrap.cli import bootstrap
from tests.checks.commands import wrong_commands
from tests.checks.docs import blocks, documents
from tests.checks.tables import Row, bare, table

ROOT = Path(__file__).resolve().parents[2]
MAX_EXAMPLE_BYTES = 65_536  # more is no example
DOCUMENTS = documents(ROOT)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def column(rows: list[Row], title: str) -> list[str]:
    return [bare(row[title]) for row in rows]


def written(value: object) -> str:
    """A default as the tables write it."""
    if value is None or value is msgspec.UNSET:
        return "–"
    if value is msgspec.NODEFAULT:
        return "required"
    return msgspec.json.encode(value).decode().replace(",", ", ")


def defaults(struct: type[msgspec.Struct]) -> dict[str, str]:
    return {
        field.encode_name: written(
            field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
        )
        for field in msgspec.structs.fields(struct)
    }


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_with_its_options_exists(path: Path) -> None:
    assert list(wrong_commands(path.read_text(encoding="utf-8"))) == []


def test_the_readme_lists_every_command() -> None:
    groups = [f"agent {name}" for name in COMMANDS]
    groups += [f"bootstrap {name}" for name in bootstrap.list_commands(click.Context(bootstrap))]
    assert column(table(read("README.md"), "Commands"), "command") == groups


def test_the_readme_lists_every_configuration_key_with_variable_and_default() -> None:
    rows = table(read("README.md"), "Configuration")
    assert column(rows, "key") == list(KEYS)
    assert dict(zip(column(rows, "key"), column(rows, "variable"), strict=True)) == ENVIRONMENT
    assert dict(zip(column(rows, "key"), column(rows, "default"), strict=True)) == defaults(Config)


@pytest.mark.parametrize(
    ("heading", "struct"),
    [
        ("The plan", plan.Plan),
        ("An instance", plan.Instance),
        ("Image", stack.Image),
        ("Port", stack.PortSpec),
        ("Volume", plan.PlanVolume),
        ("Health check", plan.PlanHealthCheck),
        ("Health", plan.PlanHealth),
        ("http", plan.PlanHttp),
        ("tcp", plan.PlanTcp),
        ("Resources", plan.PlanResources),
        ("config.distributed.json", generate.Distributed),
    ],
)
def test_the_plans_page_lists_every_key_with_its_default(heading: str, struct: type[msgspec.Struct]) -> None:
    rows = table(read("docs/plans.md"), heading)
    assert dict(zip(column(rows, "key"), column(rows, "default"), strict=True)) == defaults(struct)


def test_the_security_page_lists_every_policy_key_with_its_default() -> None:
    rows = table(read("docs/security.md"), "Host policy")
    assert dict(zip(column(rows, "key"), column(rows, "default"), strict=True)) == defaults(HostPolicy)


def test_the_api_page_lists_every_route() -> None:
    rows = table(read("docs/api.md"), "Routes")
    found = [(row["method"], bare(row["path"]), row["access"]) for row in rows]
    assert found == [(route.method, route.path, route.access) for route in ROUTES]


def test_the_api_page_lists_every_act_with_target_scope_and_body() -> None:
    text = read("docs/api.md")
    acts = text[text.index("| act |") :]
    rows = table(f"# acts\n{acts[: acts.index(chr(10) * 2)]}\n", "acts")
    assert column(rows, "act") == list(BODIES)
    assert [(row["act"], bare(row["body"])) for row in rows] == [(f"`{act}`", BODIES[act].__name__) for act in BODIES]
    for row in rows[:-1]:  # the last, cancel, has any target
        act, target = bare(row["act"]), bare(row["target"])
        kind = target.partition(":")[0]
        assert {kind} == TARGET_KINDS[act]  # type: ignore[index]  # a str that is checked above to be an Act
        assert row["scope"] == needed_scope(act, target)  # type: ignore[arg-type]  # likewise


def test_the_api_page_lists_every_claim() -> None:
    text = read("docs/api.md")
    claims = text[text.index("| claim |") : text.index("| act |")]
    rows = table(f"# claims\n{claims}", "claims")
    assert re.findall(r"`(\w+)`", " ".join(row["claim"] for row in rows)) == list(Claims.__struct_fields__)


def every(kind: type[errors.MusterError]) -> set[type[errors.MusterError]]:
    return {kind}.union(*(every(below) for below in kind.__subclasses__() if below.__module__ == errors.__name__))


def test_the_api_page_lists_every_kind_of_problem_with_its_status() -> None:
    rows = table(read("docs/api.md"), "Problems")
    found = {(bare(row["kind"]), int(row["status"])) for row in rows}
    assert found == {(kind.kind, kind.status) for kind in every(errors.MusterError)}
    assert plain_problem(500, "", "").type.endswith(":error")


def test_the_readme_lists_every_exit_code() -> None:
    codes = {int(code) for code in column(table(read("README.md"), "Exit codes"), "code")}
    assert codes == {value for name, value in vars(errors).items() if name.startswith("EXIT_")}


def test_the_operations_page_lists_every_metric() -> None:
    named = re.compile(r"metrics\.(?P<kind>counter|gauge)\(\s*\"(?P<name>\w+)\"")
    found = {
        f"muster_{match['name']}" + ("_total" if match["kind"] == "counter" else "")
        for path in [*(ROOT / "agent" / "node").rglob("*.py"), ROOT / "agent" / "cli" / "run.py"]
        for match in named.finditer(path.read_text(encoding="utf-8"))
    }
    assert len(found) > 5
    shown = set(column(table(read("docs/operations.md"), "Metrics"), "name"))
    assert shown - {"muster_api_request_seconds", "muster_ledger_write_seconds"} == found


def test_the_map_names_every_package() -> None:
    shown = set(column(table(read("ARCHITECTURE.md"), "The map"), "where"))
    packages = {f"agent/{path.parent.name}/" for path in (ROOT / "agent").glob("*/__init__.py")}
    modules = {f"agent/{path.name}" for path in (ROOT / "agent").glob("[a-z]*.py")}
    assert shown == packages | modules | {"agent/node/driver/", "bootstrap/", "tests/"}


def test_the_dependencies_are_the_ones_of_the_project_in_their_locked_versions() -> None:
    rows = table(read("ARCHITECTURE.md"), "Dependencies")
    shown = {bare(row["library"]): row["version"] for row in rows}
    wanted = {name.lower() for name in re.findall(r'^ {4}"([\w-]+)>=', _dependencies(), re.MULTILINE)}
    locked = dict(re.findall(r"^([\w-]+)==([^\s;\\]+)", read("requirements.lock"), re.MULTILINE))
    assert shown == {name: locked[name] for name in wanted}


def _dependencies() -> str:
    text = read("pyproject.toml")
    start = text.index("\ndependencies = [")
    return text[start : text.index("\n]", start)]


MODELS: dict[str, type[msgspec.Struct]] = {
    name: struct
    for module in (api, api_log, endpoints, events, generate, instruction, status)
    for name, struct in vars(module).items()
    if isinstance(struct, type) and issubclass(struct, msgspec.Struct)
}


def _is_a_plan(code: str) -> None:
    resolve(plan.decode_plan(code.encode()), stack_name="example", pin=lambda host: host)


def _is_a_policy(code: str) -> None:
    convert(_toml(code), HostPolicy, "policy.toml")


def _toml(code: str) -> dict[str, Any]:
    return msgspec.toml.decode(code)  # type: ignore[no-any-return]  # a TOML document is a table


READERS: dict[str, Callable[[str], object]] = {
    "json Plan": _is_a_plan,
    "toml config": parse_config,
    "toml policy": _is_a_policy,
}


@pytest.mark.parametrize(
    ("info", "code"),
    [
        pytest.param(info, code, id=f"{path.name}: {info}")
        for path in DOCUMENTS
        for info, code in blocks(path.read_text(encoding="utf-8"))
        if info.split(" ")[0] in ("json", "toml")
    ],
)
def test_every_example_is_what_it_says_it_is(info: str, code: str) -> None:
    if info in READERS:
        READERS[info](code)
        return
    decoded = decode_json(code.encode(), MODELS[info.removeprefix("json ")], max_bytes=MAX_EXAMPLE_BYTES)
    assert list(unknown_keys(msgspec.json.decode(code), msgspec.to_builtins(decoded))) == []


def unknown_keys(shown: object, known: object, where: str = "$") -> Iterator[str]:
    """What an example has and its decoded form hasn't: answers are models that let unknown keys be."""
    if isinstance(shown, dict) and isinstance(known, dict):
        for key, value in shown.items():
            if key in known:
                yield from unknown_keys(value, known[key], f"{where}.{key}")
            elif value:  # a model leaves out what is empty
                yield f"{where}.{key}"
    elif isinstance(shown, list) and isinstance(known, list):
        for index, (one, other) in enumerate(zip(shown, known, strict=True)):
            yield from unknown_keys(one, other, f"{where}[{index}]")
