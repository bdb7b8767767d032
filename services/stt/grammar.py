"""Writes phrase sets as one grammar in the Java Speech Grammar Format.

Source: JSpeech Grammar Format, W3C Note 05 June 2000.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.common import phrases
from services.common.phrases import Choice, Optional, PhraseError, Reference, Sequence, Word
from services.stt.engine import VocabularyError

if TYPE_CHECKING:
    from services.common.phrases import Expression, PhraseSet

# A grammar grows with the product of nested repeats; this many words are a second of compiling.
MAX_GRAMMAR_WORDS = 50_000


class Grammar:
    """Phrase sets, read and checked. VocabularyError names the set that is wrong."""

    def __init__(self, phrase_sets: tuple[PhraseSet, ...]) -> None:
        if not phrase_sets:
            raise VocabularyError("there are no phrase sets: nothing could ever be recognised")
        self._sets = {item.name: item for item in phrase_sets}
        if len(self._sets) != len(phrase_sets):
            raise VocabularyError("two phrase sets have the same name")
        self._phrases = {item.name: _parse(item) for item in phrase_sets}
        self._sizes: dict[str, int] = {}
        for name in self._sets:
            self._measure(name, ())

    @property
    def words(self) -> set[str]:
        """Every word that may be said."""
        return {
            word
            for expressions in self._phrases.values()
            for expression in expressions
            for word in phrases.words(expression)
        }

    def roots(self, expect: tuple[str, ...]) -> tuple[str, ...]:
        """The sets to listen for, in an order of their own: those expected, or all."""
        unknown = sorted(set(expect) - set(self._sets))
        if unknown:
            raise VocabularyError(f"there is no phrase set {unknown[0]!r} to expect")
        return tuple(sorted(set(expect) or self._sets))

    def jsgf(self, roots: tuple[str, ...]) -> str:
        """The grammar whose public rule is any one of `roots`; only the rules that it needs."""
        needed = self._closure(roots)
        rules = [f"<{name}> = {self._repeated(name)};" for name in sorted(needed)]
        root = " | ".join(f"<{name}>" for name in roots)
        return "\n".join(
            ["#JSGF V1.0;", "grammar landline;", f"public <root-of-all> = {root};", *rules, ""]
        )

    def _repeated(self, name: str) -> str:
        once = " | ".join(write(expression) for expression in self._phrases[name])
        minimum, maximum = _repeats(self._sets[name])
        if maximum == 1:
            return once
        optional = f"[({once}) " * (maximum - minimum) + "]" * (maximum - minimum)
        return f"({once}) " * minimum + optional

    def _closure(self, roots: tuple[str, ...]) -> set[str]:
        needed: set[str] = set()
        waiting = list(roots)
        while waiting:
            name = waiting.pop()
            if name not in needed:
                needed.add(name)
                waiting += [r for e in self._phrases[name] for r in phrases.references(e)]
        return needed

    def _measure(self, name: str, above: tuple[str, ...]) -> int:
        """Words of the compiled set; refuses circles, unknown sets and explosions."""
        if name in above:
            circle = " -> ".join((*above[above.index(name) :], name))
            raise VocabularyError(f"phrase sets refer to each other in a circle: {circle}")
        if name not in self._sizes:
            once = sum(self._size(e, name, (*above, name)) for e in self._phrases[name])
            self._sizes[name] = once * _repeats(self._sets[name])[1]
            if self._sizes[name] > MAX_GRAMMAR_WORDS:
                raise VocabularyError(
                    f"phrase set {name!r} grows to {self._sizes[name]} words, more than "
                    f"{MAX_GRAMMAR_WORDS}: write fewer phrases or repeat less"
                )
        return self._sizes[name]

    def _size(self, expression: Expression, name: str, above: tuple[str, ...]) -> int:
        match expression:
            case Word():
                return 1
            case Optional(part):
                return self._size(part, name, above)
            case Sequence(parts) | Choice(parts):
                return sum(self._size(part, name, above) for part in parts)
            case Reference(other):
                if other not in self._sets:
                    raise VocabularyError(f"phrase set {name!r} refers to unknown <{other}>")
                return self._measure(other, above)


def _parse(item: PhraseSet) -> tuple[Expression, ...]:
    if not item.phrases:
        raise VocabularyError(f"phrase set {item.name!r} is empty")
    minimum, maximum = _repeats(item)
    if minimum > maximum:
        raise VocabularyError(
            f"phrase set {item.name!r} repeats at least {minimum}, at most {maximum}"
        )
    try:
        return tuple(phrases.parse(phrase) for phrase in item.phrases)
    except (PhraseError, RecursionError) as error:
        raise VocabularyError(f"phrase set {item.name!r}: {error}") from error


def _repeats(item: PhraseSet) -> tuple[int, int]:
    """0 stands for once."""
    return item.min_repeats or 1, item.max_repeats or item.min_repeats or 1


def write(expression: Expression) -> str:
    """The expression in the syntax that phrases and JSGF share."""
    match expression:
        case Word(text):
            return text
        case Reference(name):
            return f"<{name}>"
        case Optional(part):
            return f"[{write(part)}]"
        case Choice(options):
            return f"({' | '.join(write(option) for option in options)})"
        case Sequence(parts):
            return " ".join(write(part) for part in parts)
