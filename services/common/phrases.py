"""What a caller may say, written as a small part of the Java Speech Grammar Format.

Words, `[optional]`, `(either|or)` and `<name>` for another phrase set. The recogniser compiles the
sets into its grammar, and the scripted engine matches text against the same sets, so that what is
accepted and what is understood cannot drift apart.

Source: JSpeech Grammar Format, W3C Note 05 June 2000.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOKEN = re.compile(r"\s*(?:(<[a-z][a-z0-9_]*>)|([\[\]()|])|([a-z0-9][a-z0-9'.-]*))")


class PhraseError(ValueError):
    """A phrase that cannot be read; the message shows where."""


@dataclass(frozen=True, slots=True)
class Word:
    text: str


@dataclass(frozen=True, slots=True)
class Reference:
    """`<name>`: any phrase of the set of that name."""

    name: str


@dataclass(frozen=True, slots=True)
class Sequence:
    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    options: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Optional:
    part: Expression


Expression: TypeAlias = Word | Reference | Sequence | Choice | Optional


@dataclass(frozen=True, slots=True, kw_only=True)
class PhraseSet:
    """A named set of phrases; one of them is said, or `min_repeats` to `max_repeats` of them."""

    name: str
    phrases: tuple[str, ...]
    min_repeats: int = 1
    max_repeats: int = 1


def parse(phrase: str) -> Expression:
    """The phrase as a tree; PhraseError where it is not well formed. Case does not matter."""
    tokens = _tokenise(phrase.lower())
    expression, rest = _choice(phrase, tokens, 0)
    if rest != len(tokens):
        raise PhraseError(f"{phrase!r}: unexpected {tokens[rest]!r}")
    return expression


def words(expression: Expression) -> set[str]:
    """Every word that stands in it."""
    return {node.text for node in _walk(expression) if isinstance(node, Word)}


def references(expression: Expression) -> set[str]:
    """The names of the sets that it refers to."""
    return {node.name for node in _walk(expression) if isinstance(node, Reference)}


def expand(expression: Expression) -> Iterator[tuple[str, ...]]:
    """Every way to say it, lazily, as tuples of words; a reference stays as `<name>`."""
    match expression:
        case Word(text):
            yield (text,)
        case Reference(name):
            yield (f"<{name}>",)
        case Optional(part):
            yield ()
            yield from expand(part)
        case Choice(options):
            for option in options:
                yield from expand(option)
        case Sequence(parts):
            for combination in itertools.product(*(tuple(expand(part)) for part in parts)):
                yield tuple(itertools.chain.from_iterable(combination))


def _walk(expression: Expression) -> Iterator[Expression]:
    yield expression
    match expression:
        case Sequence(parts) | Choice(parts):
            for part in parts:
                yield from _walk(part)
        case Optional(part):
            yield from _walk(part)


def _tokenise(phrase: str) -> list[str]:
    tokens: list[str] = []
    position = 0
    while phrase[position:].strip():
        match = _TOKEN.match(phrase, position)
        if match is None:
            raise PhraseError(
                f"{phrase!r}: cannot read {phrase[position:].strip()!r}; "
                "use words, [optional], (either|or) and <name>"
            )
        tokens.append(match.group().strip())
        position = match.end()
    return tokens


def _choice(phrase: str, tokens: list[str], at: int) -> tuple[Expression, int]:
    options: list[Expression] = []
    while True:
        option, at = _sequence(phrase, tokens, at)
        options.append(option)
        if at >= len(tokens) or tokens[at] != "|":
            return (options[0] if len(options) == 1 else Choice(tuple(options))), at
        at += 1


def _sequence(phrase: str, tokens: list[str], at: int) -> tuple[Expression, int]:
    parts: list[Expression] = []
    while at < len(tokens) and tokens[at] not in ("|", ")", "]"):
        part, at = _term(phrase, tokens, at)
        parts.append(part)
    if not parts:
        raise PhraseError(f"{phrase!r}: something is missing")
    return (parts[0] if len(parts) == 1 else Sequence(tuple(parts))), at


def _term(phrase: str, tokens: list[str], at: int) -> tuple[Expression, int]:
    token = tokens[at]
    if token in ("(", "["):
        inner, at = _choice(phrase, tokens, at + 1)
        closing = ")" if token == "(" else "]"
        if at >= len(tokens) or tokens[at] != closing:
            raise PhraseError(f"{phrase!r}: {token!r} is never closed")
        return (inner if token == "(" else Optional(inner)), at + 1
    if token.startswith("<"):
        return Reference(token[1:-1]), at + 1
    return Word(token), at + 1
