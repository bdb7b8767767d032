"""Numbers as the agent wants them: digits ("4271") or as they are spoken ("four two seven one").

English only; text of other languages stays as it was heard.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_VALUES = {
    **{word: value for value, word in enumerate(_ONES)},
    **{word: 10 * value for value, word in enumerate(_TENS, 2)},
}
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000}
_REPEATS = {"double": 2, "triple": 3}
_OH = "oh"
_TOKEN = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)?|\d+|[^A-Za-z\d]+")


def to_digits(text: str) -> str:
    """Spoken numbers as digits: "four two seven one" is 4271, "twenty five" is 25.

    Digits said one after the other are one string; "oh" is a zero only among digits; a lone "one"
    stays a word, because it is seldom a number.
    """
    tokens = _TOKEN.findall(text.replace("-", " "))
    out: list[str] = []
    at = 0
    while at < len(tokens):
        number = _number_at(tokens, at)
        if number is None:
            out.append(tokens[at])
            at += 1
            continue
        out.append(number.digits)
        at = number.end
    return "".join(out)


def to_spoken(text: str) -> str:
    """Digits one by one, as people read out a number: "4271" is "four two seven one"."""

    def spell(match: re.Match[str]) -> str:
        return " ".join(_ONES[int(digit)] for digit in match.group() if digit.isdecimal())

    return re.sub(r"\d+(?:[-. ]\d+)*", spell, text)


@dataclass(frozen=True, slots=True)
class _Number:
    digits: str
    end: int


def _number_at(tokens: list[str], at: int) -> _Number | None:
    """The longest number that begins here."""
    words, ends = _run(tokens, at)
    if not any(word in _VALUES or word.isdigit() for word in words):
        return None
    if words in (["one"], ["oh"]):
        return None
    return _Number(_digits(words), ends)


def _run(tokens: list[str], at: int) -> tuple[list[str], int]:
    """Number words from here on with nothing but spaces between them, and where they end."""
    words: list[str] = []
    end = at
    while at < len(tokens):
        word = tokens[at].lower()
        if not tokens[at].isspace():
            follows = tokens[at + 2].lower() if at + 2 < len(tokens) else ""
            if not _belongs(word, words, follows):
                break
            words.append(word)
            end = at + 1
        elif not words:
            break
        at += 1
    return words, end


def _belongs(word: str, before: list[str], follows: str) -> bool:
    if word in _VALUES or word.isdigit():
        return True
    if word in _REPEATS or word == _OH:
        return bool(before) or follows in _VALUES or follows == _OH or follows in _REPEATS
    if word == "and":
        return bool(before) and before[-1] in _SCALES and follows in _VALUES
    return word in _SCALES and bool(before)


def _digits(words: list[str]) -> str:
    """The string of digits that these number words stand for."""
    out = ""
    total, group = 0, 0
    open_group = False
    repeat = 1

    def close() -> None:
        nonlocal out, total, group, open_group
        if open_group:
            out += str(total + group)
        total, group, open_group = 0, 0, False

    for word in words:
        if word in _REPEATS:
            close()
            repeat = _REPEATS[word]
        elif word in _SCALES:
            if word == "hundred":
                group = max(group, 1) * 100
            else:
                total, group = total + max(group, 1) * _SCALES[word], 0
            open_group = True
        elif word != "and":
            value = 0 if word == _OH else _VALUES.get(word)
            if value is None or repeat > 1:
                close()
                out += (word if value is None else str(value)) * repeat
                repeat = 1
            elif open_group and _continues(group, total, value):
                group += value
            else:
                close()
                group, open_group = value, True
    close()
    return out


def _continues(group: int, total: int, value: int) -> bool:
    """Whether the word goes on with the number: "twenty" "five" does, "four" "two" does not."""
    if value == 0:
        return False
    if group == 0:
        return total > 0
    if group % 100 == 0:
        return True
    return group % 100 >= 20 and group % 10 == 0 and value < 10
