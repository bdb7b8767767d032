from __future__ import annotations

from pathlib import Path

import pytest

from services.common.errors import ConfigError
from services.stt import letter_to_sound
from services.stt.engine import VocabularyError
from services.stt.engines.sphinx_library import model_folder
from services.stt.pronunciation import PHONES, Pronunciations

DICTIONARY = model_folder() / "cmudict-en-us.dict"


def test_the_dictionary_gives_every_way_to_say_a_word() -> None:
    assert Pronunciations(DICTIONARY, {}).of(["either"])["either"] == ("IY DH ER", "AY DH ER")


def test_a_configured_pronunciation_replaces_the_dictionary() -> None:
    pronunciations = Pronunciations(DICTIONARY, {"Either": "AY  DH ER"})
    assert pronunciations.of(["either"]) == {"either": ("AY DH ER",)}


@pytest.mark.parametrize(
    ("word", "phones"),
    [
        ("xylophonic", "Z AY L AH F AA N IH K"),
        ("10", "T EH N"),
        ("brzezinski", None),
        ("mccloskeys", None),
        ("q", "K Y UW"),
    ],
)
def test_a_word_that_is_in_no_dictionary_is_guessed(
    word: str, phones: str | None, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.dict"
    empty.write_text("hello HH AH L OW\n")
    (guess,) = Pronunciations(empty, {}).of([word])[word]
    assert set(guess.split()) <= PHONES
    assert phones is None or guess == phones


def test_without_a_guess_the_error_says_how_to_add_the_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(letter_to_sound, "guess", lambda word: None)
    with pytest.raises(VocabularyError, match=r"'xyzzyx' sounds.*\[stt.pronunciations\]"):
        Pronunciations(DICTIONARY, {}).of(["hello", "xyzzyx"])


@pytest.mark.parametrize("phones", ["", "L AE N D L AIN", "lænd"])
def test_a_pronunciation_that_is_not_arpabet_stops_the_start(phones: str) -> None:
    with pytest.raises(ConfigError, match=r"\[stt.pronunciations\] landline"):
        Pronunciations(DICTIONARY, {"landline": phones})


def test_ipa_without_a_counterpart_is_no_guess() -> None:
    assert letter_to_sound.to_arpabet("ˈɬɑː") is None
    assert letter_to_sound.to_arpabet("") is None
    assert letter_to_sound.to_arpabet("tʃˈɜːtʃ") == "CH ER CH"  # noqa: RUF001
