"""How a command gets into a scope of its own under systemd (systemd-run(1)); its limits go with it."""

from __future__ import annotations

from agent.model.stack import Resources
from agent.runtime.spawn import scope_command
from tests.support.replicas import process_spec


def test_the_command_is_behind_the_dashes_and_none_of_its_environment_is_among_the_arguments() -> None:
    spec = process_spec("web", "serve", environment={"TOKEN": "secret"})
    assert scope_command(["/bin/serve", "--x"], "muster-shop-web-1.scope", spec) == [
        "systemd-run",
        "--scope",
        "--quiet",
        "--collect",
        "--unit=muster-shop-web-1.scope",
        "--",
        "/bin/serve",
        "--x",
    ]


def test_limits_become_properties() -> None:
    spec = process_spec("web", "serve", resources=Resources(memory_mib=64, cpu_millis=1500))
    command = scope_command(["/bin/serve"], "u.scope", spec)
    assert {"--property=MemoryMax=64M", "--property=CPUQuota=150%"} <= set(command[: command.index("--")])
