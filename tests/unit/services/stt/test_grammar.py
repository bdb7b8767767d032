from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common import phrases
from services.common.phrases import (
    Choice,
    Expression,
    Optional,
    PhraseSet,
    Reference,
    Sequence,
    Word,
)
from services.stt.engine import VocabularyError
from services.stt.grammar import Grammar, write

DIGITS = PhraseSet(name="digit", phrases=("one", "two"))


def phrase_set(name: str, *items: str, repeats: tuple[int, int] = (1, 1)) -> PhraseSet:
    return PhraseSet(name=name, phrases=items, min_repeats=repeats[0], max_repeats=repeats[1])


def test_writes_only_the_rules_that_the_roots_need() -> None:
    grammar = Grammar(
        (phrase_set("yes", "yes", "sure"), phrase_set("number", "number <digit>"), DIGITS)
    )
    assert grammar.jsgf(grammar.roots(("number",))).splitlines() == [
        "#JSGF V1.0;",
        "grammar landline;",
        "public <root-of-all> = <number>;",
        "<digit> = one | two;",
        "<number> = number <digit>;",
    ]


def test_all_sets_are_roots_when_nothing_is_expected_and_order_does_not_matter() -> None:
    grammar = Grammar((phrase_set("b", "x"), phrase_set("a", "y")))
    assert grammar.roots(()) == ("a", "b") == grammar.roots(("b", "a", "b"))


@pytest.mark.parametrize(
    ("repeats", "written"),
    [
        ((0, 0), "one | two"),
        ((3, 3), "(one | two) (one | two) (one | two) "),
        ((1, 3), "(one | two) [(one | two) [(one | two) ]]"),
        ((2, 0), "(one | two) (one | two) "),
    ],
)
def test_repeats_are_written_out(repeats: tuple[int, int], written: str) -> None:
    grammar = Grammar((phrase_set("digit", "one", "two", repeats=repeats),))
    assert f"<digit> = {written};" in grammar.jsgf(("digit",)).splitlines()


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ((), "no phrase sets"),
        ((phrase_set("a"),), "'a' is empty"),
        ((phrase_set("a", "x"), phrase_set("a", "y")), "same name"),
        ((phrase_set("a", "<b>"),), "'a' refers to unknown <b>"),
        ((phrase_set("a", "<b>"), phrase_set("b", "x <a>")), "a -> b -> a"),
        ((phrase_set("a", "(x"),), "'a': '(x'"),
        ((phrase_set("a", "x", repeats=(3, 2)),), "at least 3, at most 2"),
        ((phrase_set("a", "x", repeats=(1, 4_000_000_000)),), "grows to 4000000000 words"),
        ((phrase_set("a", "(" * 5_000 + "x" + ")" * 5_000),), "'a'"),
    ],
)
def test_says_which_set_is_wrong(sets: tuple[PhraseSet, ...], message: str) -> None:
    with pytest.raises(VocabularyError, match=message.replace("(", r"\(")):
        Grammar(sets)


def test_nested_repeats_are_refused_before_they_are_written_out() -> None:
    names = [f"level{number}" for number in range(9)]
    sets = [phrase_set(names[0], "x", repeats=(30, 30))]
    sets += [
        phrase_set(above, f"<{below}>", repeats=(30, 30))
        for below, above in itertools.pairwise(names)
    ]
    with pytest.raises(VocabularyError, match="write fewer phrases or repeat less"):
        Grammar(tuple(sets))


WORDS = st.from_regex(r"[a-z][a-z']{0,5}", fullmatch=True).map(Word)
EXPRESSIONS: st.SearchStrategy[Expression] = st.recursive(
    WORDS | st.sampled_from(["day", "time"]).map(Reference),
    lambda inner: st.one_of(
        inner.map(Optional),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: Sequence(tuple(parts))),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: Choice(tuple(parts))),
    ),
    max_leaves=6,
)


@given(EXPRESSIONS)
def test_what_is_written_says_the_same_as_what_was_read(expression: Expression) -> None:
    again = phrases.parse(write(expression))
    assert set(phrases.expand(again)) == set(phrases.expand(expression))
    assert phrases.words(again) == phrases.words(expression)
    assert phrases.references(again) == phrases.references(expression)
