"""What is wrong with a cluster's hosts: pure, from what each of them sees to findings, each with its fix.

    findings = diagnose(answers)      # every host's answer; those that gave none count too

The hosts look at themselves in `agent.runtime.look`, the agents gather it in `agent.node.driver.checkup`, and the
command judges, so that it judges what it sees itself on a host without an agent by the same rules.
"""

from __future__ import annotations

from agent.doctor.diagnose import diagnose
from agent.doctor.redact import redact

__all__ = ["diagnose", "redact"]
