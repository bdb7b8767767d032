from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.agent.clauses import ClauseCutter


def cut(*deltas: str) -> list[str]:
    cutter = ClauseCutter()
    clauses = [clause for delta in deltas for clause in cutter.push(delta)]
    return clauses + cutter.flush()


def test_sentences_are_cut_as_soon_as_they_are_complete() -> None:
    cutter = ClauseCutter()
    assert cutter.push("We are open") == []
    assert cutter.push(" today. Any") == ["We are open today."]
    assert cutter.push("thing else?") == []
    assert cutter.flush() == ["Anything else?"]


def test_an_abbreviation_does_not_end_a_sentence() -> None:
    assert cut("Dr. Jones is in. ", "Good.") == ["Dr. Jones is in.", "Good."]


def test_a_long_clause_is_cut_at_its_comma_and_a_short_one_is_not() -> None:
    text = "You can ask for the opening hours of the clinic, or book a visit. Yes, really."
    assert cut(text) == [
        "You can ask for the opening hours of the clinic,",
        "or book a visit.",
        "Yes, really.",
    ]


def test_a_decimal_is_not_a_sentence() -> None:
    assert cut("It costs 3.50 today.") == ["It costs 3.50 today."]


@given(st.lists(st.text(alphabet="ab .,!?:", max_size=12), max_size=12))
def test_no_word_is_lost_or_changed(deltas: list[str]) -> None:
    assert " ".join(cut(*deltas)).split() == "".join(deltas).split()
