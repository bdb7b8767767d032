"""Text as the words that a grammar is written in. Pure."""

from __future__ import annotations

import re

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_CLOCK = re.compile(r"\b(\d{1,2})[:.](\d{2})\b")
_TOKEN = re.compile(r"[a-z][a-z'.-]*|\d+")
_MAX_WORDS = 60


def normalise(text: str) -> tuple[str, ...]:
    """Lower-case words; "10:30" becomes "ten thirty", "4271" becomes four digits.

    At most 60 words are kept: nobody says more in one turn, and the rest could only cost time.
    """
    text = text.lower().replace("\u2019", "'")
    text = _CLOCK.sub(lambda match: f"{match[1]} {match[2].lstrip('0')}", text)
    words: list[str] = []
    for token in _TOKEN.findall(text):
        words += _number(token) if token.isdigit() else [token.rstrip(".'-")]
        if len(words) >= _MAX_WORDS:
            break
    return tuple(words[:_MAX_WORDS])


def _number(digits: str) -> list[str]:
    """One or two digits as the number, more of them one by one."""
    if len(digits) > 2:
        return [_SMALL[int(digit)] for digit in digits]
    value = int(digits)
    if value < len(_SMALL):
        return [_SMALL[value]]
    tens, ones = divmod(value, 10)
    return [_TENS[tens], *([_SMALL[ones]] if ones else [])]
