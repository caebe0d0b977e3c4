"""A reason and a program's last words travel as one line of text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.model.reason import split_reason, with_note, with_output

text = st.text(st.characters(codec="ascii", exclude_characters="|\n"), min_size=1).map(str.strip).filter(bool)


@given(text, st.lists(text, max_size=5), text)
def test_what_is_joined_comes_apart_and_notes_go_to_the_sentence(sentence: str, lines: list[str], note: str) -> None:
    reason = with_output(sentence, lines)
    assert split_reason(reason) == (sentence, tuple(lines))
    assert split_reason(with_note(reason, note)) == (sentence + note, tuple(lines))


def test_output_without_a_sentence_is_no_reason() -> None:
    assert with_output("", ["line"]) == ""
