"""Whole conversations, message by message: see `transcript.py` for the language."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.raft.transcript import paths, play


@pytest.mark.parametrize("path", paths(), ids=lambda path: path.stem)
def test_what_happens_is_what_the_transcript_says(path: Path, rewrite: bool) -> None:
    written = path.read_text(encoding="utf-8")
    happened = play(written)
    if rewrite:
        path.write_text(happened, encoding="utf-8")
    else:
        assert happened == written


def test_there_are_transcripts() -> None:
    assert paths()
