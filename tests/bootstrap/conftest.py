"""Tests on booted hosts tell what agents said."""

from __future__ import annotations

from tests.lab.journals import _no_agent_ended_by_itself, pytest_runtest_makereport

__all__ = ["_no_agent_ended_by_itself", "pytest_runtest_makereport"]
