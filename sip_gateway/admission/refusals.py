"""Why calls were refused, in plain words: a line for each, and a sum for whoever floods us."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from services.common.clock import Clock

_LINES = 3  # of one source and reason in a window, before they are only counted
_WINDOW_MS = 60_000.0
_MOST_SOURCES = 256
_log = structlog.get_logger()

# What was missing, where the refusal itself does not say it better.
MISSING = {
    "unknown_source": "no trunk names the address that the call came from",
    "unknown_number": "the number that was dialled is none of the trunk's",
    "full": "every line of this process is in use",
    "too_fast": "calls come faster than lines can be made",
    "stopping": "this process takes no more calls, because it stops",
    "no_rtp_ports": "no pair of ports for audio is free",
    "srtp_required": "the trunk takes encrypted audio only, and plain audio was offered",
    "srtp_not_enabled": "the trunk takes plain audio only, and encrypted audio was offered",
    "srtp_without_key": "encrypted audio was offered without a key in its SDP (SDES)",
}

# What to do about it, by the word that is counted.
ADVICE = {
    "srtp_required": 'turn SRTP on at the other side, or set srtp = "optional" for this trunk',
    "srtp_not_enabled": 'set srtp = "optional" for this trunk, or turn SRTP off at the other side',
    "srtp_without_key": "choose SDES at the other side: DTLS-SRTP is not supported",
    "unknown_source": "if this address is yours, name it in allow of a [[sip.trunks]]",
    "unknown_number": "if this number is yours, name it in dids of its trunk, or give the trunk "
    "an agent",
    "full": "run more workers with `landline up --calls N`, or choose what happens with "
    "[sip.admission] when_full",
    "too_fast": "more than ten new calls a second reach this process: run more workers, or limit "
    "the trunk with per_minute",
    "stopping": "this process is being stopped; the caller's side tries again",
    "no_rtp_ports": "another program holds the ports of [sip] rtp_ports: stop it, or choose others",
    "agent_full": "raise max_calls or max_streams of the part that is named, or choose what "
    "happens with [sip.admission] when_full",
    "agent_unavailable": "see whether the part that is named runs: `landline up` logs to "
    "data_dir/logs",
    "emergency": "nothing: the caller was sent to [sip.dialling] emergency_route",
    "trunk_limit": "if that many calls are wanted, raise the trunk's limits",
    "ledger_lost": "see whether the supervisor runs; calls are counted there",
    "bad_sdp": "the caller's device sends a session description that cannot be read",
    "not_sdp": "the caller's device sends a body that is not SDP",
    "no_common_codec": "the caller's device offers none of [sip] codecs",
    "bad_extension": "the caller's device requires a SIP extension that is not supported",
    "method": "somebody takes this gateway for a registrar, or guesses passwords",
    "no_dialog": "somebody refers to a call that has ended, or guesses at calls",
    "no_slot": "every line of this process is in use, also the one for refusing",
}


@dataclass(slots=True)
class _Window:
    began_ms: float
    seen: int = 0


class RefusalLog:
    """Not for several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._windows: OrderedDict[tuple[str, str], _Window] = OrderedDict()

    def refused(self, *, reason: str, sip_status: int, source: str, missing: str) -> None:
        """Log it, unless this source was refused for this reason too often within a minute."""
        now_ms = self._clock.now_ms()
        self.sum_up()
        key = (source, reason)
        if key not in self._windows and len(self._windows) >= _MOST_SOURCES:
            key = ("many", reason)
        window = self._windows.setdefault(key, _Window(began_ms=now_ms))
        window.seen += 1
        if window.seen <= _LINES:
            _log.warning(
                "call_refused",
                sip_status=sip_status,
                reason=reason,
                missing=missing,
                source=source,
                what_to_do=ADVICE.get(reason, "see docs/telecom-admins.md"),
            )

    def sum_up(self, *, everything: bool = False) -> None:
        """Tell the sums of the windows that are over; of all at the end."""
        oldest_ms = self._clock.now_ms() - _WINDOW_MS
        while self._windows:
            (source, reason), window = next(iter(self._windows.items()))
            if window.began_ms > oldest_ms and not everything:
                return
            self._windows.popitem(last=False)
            if window.seen > _LINES:
                _log.warning(
                    "calls_refused_in_series",
                    reason=reason,
                    source=source,
                    calls=window.seen,
                    not_logged=window.seen - _LINES,
                    within_s=round(_WINDOW_MS / 1000),
                )
