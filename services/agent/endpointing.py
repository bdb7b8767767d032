"""How long a silence must last before the caller's turn is taken as over."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointPolicy:
    """Milliseconds of silence since the last voiced sound."""

    short_answer_ms: float = 350.0
    finished_ms: float = 450.0
    unknown_ms: float = 700.0
    unfinished_ms: float = 1_200.0
    digits_ms: float = 1_000.0


# Nobody ends a thought on one of these.
_OPEN_ENDINGS = frozenset(
    "a an the and or but so because if with for from to at on in of by about my your is are i we "
    "um uh er please can could would want need like".split()
)
_SHORT_ANSWERS = frozenset({"yes", "no", "yeah", "nope", "yes please", "no thanks", "correct"})


def silence_needed_ms(
    partial: str, *, expects_yes_no: bool, expects_digits: bool, policy: EndpointPolicy
) -> float:
    """The delay that suits what has been recognised so far and what was asked."""
    words = partial.lower().split()
    if expects_digits and not words:
        return policy.digits_ms
    if not words:
        return policy.unknown_ms
    if expects_yes_no and " ".join(words) in _SHORT_ANSWERS:
        return policy.short_answer_ms
    if words[-1] in _OPEN_ENDINGS:
        return policy.unfinished_ms
    return policy.digits_ms if expects_digits else policy.finished_ms
