from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.tts.pieces import pieces, speakable


@given(st.text(max_size=400), st.integers(1, 60))
def test_pieces_lie_where_they_say_and_lose_no_letter(text: str, longest: int) -> None:
    found = list(pieces(text, longest))
    assert all(text[offset : offset + len(piece)] == piece for offset, piece in found)
    assert all(len(piece) <= longest for _, piece in found)
    letters = [character for character in text if character.isalnum()]
    assert [c for _, piece in found for c in piece if c.isalnum()] == letters


@given(st.text(max_size=200))
def test_what_is_speakable_keeps_every_position(text: str) -> None:
    spoken = speakable(text)
    assert len(spoken) == len(text)
    assert all(new in (old, " ") for new, old in zip(spoken, text, strict=True))
    assert speakable(spoken) == spoken


def test_cuts_at_sentences_then_commas_then_spaces_then_anywhere() -> None:
    assert [p.text for p in pieces("One two. Three four. Five", 21)] == [
        "One two. Three four. ",
        "Five",
    ]
    assert [p.text for p in pieces("One two, three four five", 18)] == [
        "One two, ",
        "three four five",
    ]
    assert [p.text for p in pieces("One two three", 9)] == ["One two ", "three"]
    assert [p.text for p in pieces("Onetwothree", 4)] == ["Onet", "woth", "ree"]


def test_a_text_that_fits_is_one_piece() -> None:
    assert [p.text for p in pieces("Dr. Smith is in. He waits.", 100)] == [
        "Dr. Smith is in. He waits."
    ]


def test_pictographs_and_commands_are_silent_but_signs_are_spoken() -> None:
    assert speakable("a\x01b\u200dc😀d👍🏽\ufe0f") == "a b c d   "
    assert speakable("20 °C, 5 €, é, 日本") == "20 °C, 5 €, é, 日本"
