"""`pytest tests/raft --rewrite` writes transcripts anew. Only commit the changes if you understand what caused them."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="write tests/raft/transcripts anew from what happens now")


@pytest.fixture
def rewrite(request: pytest.FixtureRequest) -> bool:
    # The option isn't there when this file was found too late, i.e. pytest wasn't given this folder.
    return bool(request.config.getoption("--rewrite", default=False))
