from __future__ import annotations

import math

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from services.audit import canonical

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.dictionaries(st.text(max_size=3), values, max_size=4))
@example({"a": 1e16, "b": 1e21, "c": 1.0, "d": -0.0, "e": 1e-7, "f": 123456789012345680.0})
@example({"\U0001f600": 1, "\ufb33": 2, "\x7f": "\x00\x1f\x7f\u2028"})
@example({"a": 2**53, "b": 1})
@example({"a": math.nan})
@example({"a": "\ud800"})
@example({"a": [{"b": 0.001}, {"b": 999999999999.5}, {"b": 5e-324}]})
def test_the_quick_way_writes_what_the_reference_writes_or_refuses_as_it_does(
    value: dict[str, object],
) -> None:
    try:
        expected = rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        with pytest.raises(canonical.CanonicalError):
            canonical.dumps(value)
    else:
        assert canonical.dumps(value) == expected
        assert canonical.is_canonical(expected)


@pytest.mark.parametrize(
    "data",
    [b'{"b":1,"a":2}', b'{"a": 1}', b'{"a":1.0}', b'{"a":1,"a":1}', b'{"a":"\\u0041"}', b"{"],
)
def test_other_spellings_are_not_canonical(data: bytes) -> None:
    assert not canonical.is_canonical(data)
