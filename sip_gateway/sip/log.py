"""PJSIP's own log: its complaints go to ours, and what it drops in silence is counted.

A datagram that PJSIP cannot parse is dropped without an answer or a callback; its log is the only
place that tells. It is also the only place that shows messages as they went over the wire.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pjsua2 as pj
import structlog

from sip_gateway.sip.redaction import without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable

_LEVEL = 2  # errors and warnings
_LEVEL_WITH_MESSAGES = 4
_MESSAGE = re.compile(
    r"\.*(?P<way>[RT]X) \d+ bytes .*? (?:from|to) \w+ (?P<peer>\S+):\r?\n"
    r"(?P<text>.*)\r?\n--end msg--",
    re.DOTALL,
)
_DROPPED = "Dropping "
_log = structlog.get_logger()


def pjsip_library() -> ctypes.CDLL:
    """The installed extension, for the few functions that pjsua2 does not wrap."""
    return ctypes.CDLL(str(next(Path(pj.__file__).parent.glob("_pjsua2*.so"))))


class SipLog(pj.LogWriter):  # type: ignore[misc]
    """PJSIP calls it on any of its threads; `on_dropped` and `on_message` must allow that."""

    def __init__(
        self,
        on_dropped: Callable[[], None],
        on_message: Callable[[bool, str, str], None] | None = None,
    ) -> None:
        """`on_message(sent, peer, text)` is given every SIP message, secrets included."""
        super().__init__()
        self._on_dropped = on_dropped
        self._on_message = on_message

    def configure(self, log_config: Any) -> None:
        """Fill in a LogConfig. PJSIP takes the writer over and deletes it."""
        level = _LEVEL if self._on_message is None else _LEVEL_WITH_MESSAGES
        log_config.level = level
        log_config.consoleLevel = level
        log_config.msgLogging = int(self._on_message is not None)
        log_config.decor = pj.PJ_LOG_HAS_SENDER
        log_config.writer = self

    def write(self, entry: Any) -> None:
        sender, _, message = entry.msg.strip().partition(" ")
        if message.startswith(_DROPPED):
            self._on_dropped()
        if self._on_message is not None:
            match = _MESSAGE.match(message)
            if match is not None:
                self._on_message(match["way"] == "TX", match["peer"], match["text"])
            if entry.level > _LEVEL:
                return
        # Strangers can cause these lines at will, so they are for debugging only.
        _log.debug("pjsip", sender=sender, message=without_secrets(message))
