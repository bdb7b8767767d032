"""Agreement between guesses, numbers as wanted, and the best of several guesses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.phrases import PhraseSet
from services.stt.engines.whisper.agreement import Agreement
from services.stt.engines.whisper.choice import ClosedSet, Guess, closed_set
from services.stt.engines.whisper.numbers import to_digits, to_spoken


def begins_word(token: int) -> bool:
    """In these tests every ten begins a word."""
    return token % 10 == 0


def agreed(*guesses: tuple[int, ...]) -> tuple[int, ...]:
    state = Agreement()
    for guess in guesses:
        state = state.after(guess, begins_word)
    return state.agreed


def test_one_guess_agrees_on_nothing() -> None:
    assert agreed((10, 20, 30)) == ()


def test_two_guesses_agree_on_whole_words_only() -> None:
    assert agreed((10, 11, 20, 21), (10, 11, 20, 22)) == (10, 11)
    assert agreed((10, 20), (10, 20, 21)) == (10,)
    assert agreed((10, 20), (10, 20, 30)) == (10, 20)


def test_the_last_word_of_a_guess_may_still_grow() -> None:
    assert agreed((10, 20), (10, 20)) == (10,)


def test_what_was_agreed_stays_agreed() -> None:
    assert agreed((10, 20, 30), (10, 20, 30), (10, 40, 50), (10, 20, 30)) == (10, 20)


TOKENS = st.lists(st.sampled_from([10, 11, 20, 21, 30]), max_size=8).map(tuple)


@given(st.lists(TOKENS, max_size=8))
def test_agreement_only_grows_and_is_part_of_two_guesses(guesses: list[tuple[int, ...]]) -> None:
    state = Agreement()
    for guess in guesses:
        after = state.after(guess, begins_word)
        assert after.agreed[: len(state.agreed)] == state.agreed
        if after.agreed != state.agreed:
            assert guess[: len(after.agreed)] == after.agreed
            assert state.guess[: len(after.agreed)] == after.agreed
        state = after


@pytest.mark.parametrize(
    ("spoken", "digits"),
    [
        ("four two seven one", "4271"),
        ("it is twenty five", "it is 25"),
        ("one hundred and five", "105"),
        ("two thousand and twenty four", "2024"),
        ("nineteen eighty four", "1984"),
        ("double five oh three", "5503"),
        ("triple zero", "000"),
        ("five hundred thousand", "500000"),
        ("twenty-five, please", "25, please"),
        ("my number is oh seven seven nine", "my number is 0779"),
        ("seventy one sixty", "7160"),
        ("1 2 3 four", "1234"),
        ("I want one", "I want one"),
        ("oh no", "oh no"),
        ("one hundred", "100"),
        ("the second of may", "the second of may"),
        ("", ""),
    ],
)
def test_numbers_as_digits(spoken: str, digits: str) -> None:
    assert to_digits(spoken) == digits


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("4271", "four two seven one"),
        ("code 42-71, and 9", "code four two seven one, and nine"),
        ("no digits", "no digits"),
    ],
)
def test_numbers_as_spoken(written: str, spoken: str) -> None:
    assert to_spoken(written) == spoken


@given(st.text(alphabet="0123456789", min_size=2, max_size=12))
def test_digits_read_out_come_back(digits: str) -> None:
    assert to_digits(to_spoken(digits)) == digits


@given(st.text(max_size=60))
def test_any_text_is_taken(text: str) -> None:
    to_digits(to_spoken(text))


NAMES = ClosedSet(["emily carter", "emma charter", "john smith", "yes", "no"])


@pytest.mark.parametrize(
    ("heard", "expected"),
    [
        ("Emily Carter.", "emily carter"),
        ("Emily Karter", "emily carter"),
        ("John Smyth", "john smith"),
        ("Yes!", "yes"),
        ("the weather is fine", None),
        ("", None),
    ],
)
def test_a_guess_is_held_against_what_may_be_said(heard: str, expected: str | None) -> None:
    chosen = NAMES.choose([Guess(heard, -0.2)])
    assert (chosen.phrase if chosen else None) == expected


def test_a_likely_guess_outside_yields_to_a_less_likely_one_inside() -> None:
    chosen = NAMES.choose([Guess("hem a chart her", -0.2), Guess("Emma Charter", -0.5)])
    assert chosen is not None
    assert chosen.phrase == "emma charter"


def test_several_guesses_vote() -> None:
    names = ClosedSet(["emily carter", "emily carver"])
    guesses = [
        Guess("emily carper", -0.3),
        Guess("emily carver", -0.35),
        Guess("emily carven", -0.4),
    ]
    chosen = names.choose(guesses)
    assert chosen is not None
    assert chosen.phrase == "emily carver"
    assert 0.5 < chosen.share < 1.0


DIGITS = PhraseSet(
    name="digit", phrases=tuple("zero one two three four five six seven eight nine".split())
)


def test_ids_are_chosen_among_their_digits() -> None:
    pin = PhraseSet(name="pin", phrases=("[it is] <four>",))
    four = PhraseSet(name="four", phrases=DIGITS.phrases, min_repeats=4, max_repeats=4)
    found = closed_set({"pin": pin, "four": four}, ["pin"])
    assert found.complete is True
    assert len(found.phrases) == 20_000
    chosen = found.choose([Guess("4 2 7 1", -0.2)])
    assert chosen is not None
    assert chosen.phrase == "four two seven one"


def test_a_set_too_large_to_list_says_so() -> None:
    many = PhraseSet(name="many", phrases=DIGITS.phrases, min_repeats=1, max_repeats=9)
    found = closed_set({"many": many}, ["many"])
    assert not found.complete
    assert len(found.phrases) == 20_000
