from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.phrases import (
    Choice,
    Optional,
    PhraseError,
    Reference,
    Sequence,
    Word,
    expand,
    parse,
    references,
    words,
)


@pytest.mark.parametrize(
    ("phrase", "tree"),
    [
        ("Hello", Word("hello")),
        ("  good \t day ", Sequence((Word("good"), Word("day")))),
        ("[please]", Optional(Word("please"))),
        ("(yes|no)", Choice((Word("yes"), Word("no")))),
        ("yes | no", Choice((Word("yes"), Word("no")))),
        ("on <day>", Sequence((Word("on"), Reference("day")))),
        ("o'clock e-mail dr. 10", Sequence(tuple(map(Word, ("o'clock", "e-mail", "dr.", "10"))))),
        ("((a))", Word("a")),
        ("[a|b c]", Optional(Choice((Word("a"), Sequence((Word("b"), Word("c"))))))),
    ],
)
def test_reads_phrases(phrase: str, tree: object) -> None:
    assert parse(phrase) == tree


@pytest.mark.parametrize(
    ("phrase", "message"),
    [
        ("", "something is missing"),
        ("()", "something is missing"),
        ("a|", "something is missing"),
        ("|a", "something is missing"),
        ("(a", r"'\(' is never closed"),
        ("[a)", r"'\[' is never closed"),
        ("a)", r"unexpected '\)'"),
        ("a ]", r"unexpected '\]'"),
        ("say {tag}", "cannot read '{tag}'"),
        ("<Not A Name>", "cannot read"),
        ("café", "cannot read 'é'"),
        ("a* b+", "cannot read"),
    ],
)
def test_says_what_is_wrong(phrase: str, message: str) -> None:
    with pytest.raises(PhraseError, match=message):
        parse(phrase)


def test_expands_every_way_to_say_it() -> None:
    ways = [" ".join(way) for way in expand(parse("[i want] (tea|green coffee) <milk>"))]
    assert ways == [
        "tea <milk>",
        "green coffee <milk>",
        "i want tea <milk>",
        "i want green coffee <milk>",
    ]


def test_names_words_and_references() -> None:
    tree = parse("[no] (move|cancel <what>) [to <day>|on <day>]")
    assert words(tree) == {"no", "move", "cancel", "to", "on"}
    assert references(tree) == {"what", "day"}


@given(st.text(alphabet="ab'.-<>[]()| 1\t", max_size=40))
def test_any_text_is_read_or_refused_with_its_own_words(text: str) -> None:
    tree = refused = None
    try:
        tree = parse(text)
    except PhraseError as error:
        refused = str(error)
    if tree is None:
        assert repr(text) in str(refused)
        return
    said = {word for way in expand(tree) for word in way}
    assert said <= words(tree) | {f"<{name}>" for name in references(tree)}


@given(st.lists(st.from_regex(r"[a-z0-9][a-z0-9'.-]{0,6}", fullmatch=True), min_size=1, max_size=6))
def test_plain_words_come_back_as_they_are(items: list[str]) -> None:
    assert list(expand(parse(" ".join(items)))) == [tuple(items)]
