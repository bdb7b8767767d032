"""Canonical JSON (RFC 8785), quickly: msgspec writes it, rfc8785 where the two could differ."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import rfc8785

_SAFE_INTEGER = 2**53
_WIDE = bytes(range(0xF0, 0x100))
_LITERALS = frozenset({str, bool, type(None)})
# A value's canonical bytes if `is_plain` and nothing is wide; names are sorted.
encode_plain = msgspec.json.Encoder(order="sorted").encode


class CanonicalError(ValueError):
    """A value that canonical JSON cannot hold."""


def dumps(value: Any) -> bytes:
    """Canonical JSON of an object or array; CanonicalError for NaN, big integers and the like."""
    try:
        if is_plain(value):
            data = encode_plain(value)
            if data.isascii() or not has_wide(data):
                return data
    except (TypeError, ValueError, RecursionError):
        pass  # the slower one knows better, or says what is wrong
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError) as error:
        raise CanonicalError(str(error)) from error


def is_plain(value: Any) -> bool:
    """Whether msgspec writes the numbers of this value as RFC 8785 does.

    It does not for those with an exponent, whole floating point numbers and very large ones.
    """
    kind = value.__class__
    if kind in _LITERALS:
        return True
    if kind is int:
        return bool(-_SAFE_INTEGER < value < _SAFE_INTEGER)
    if kind is float:
        return bool(1e-3 < value < 1e12 or -1e12 < value < -1e-3) and value % 1 != 0
    if kind is dict:
        for name, item in value.items():
            if name.__class__ is not str:
                return False
            if item.__class__ not in _LITERALS and not is_plain(item):
                return False
        return True
    return kind is list and all(map(is_plain, value))


def has_wide(data: bytes) -> bool:
    """Whether text in UTF-8 has characters beyond the basic plane, which sort differently."""
    return len(data.translate(None, _WIDE)) != len(data)


def text(value: str) -> bytes:
    """A text in canonical JSON; CanonicalError when UTF-8 cannot hold it."""
    try:
        return encode_plain(value)
    except (TypeError, ValueError) as error:
        raise CanonicalError(str(error)) from error


def loads(data: bytes) -> Any:
    """JSON as RFC 8785 means it: integers that a double cannot hold are floating point numbers."""
    return json.loads(data, parse_int=_number)


def is_canonical(data: bytes) -> bool:
    """Whether these bytes are exactly what `dumps` makes of the value they hold."""
    try:
        return dumps(loads(data)) == data
    except (ValueError, RecursionError):
        return False


def _number(digits: str) -> int | float:
    value = int(digits)
    try:
        return value if abs(value) < _SAFE_INTEGER else float(value)
    except OverflowError as error:
        raise ValueError("a number is beyond what a double can hold") from error
