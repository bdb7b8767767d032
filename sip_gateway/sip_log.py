"""PJSIP's own log: its complaints go to ours, and what it drops in silence is counted.

A datagram that PJSIP cannot parse is dropped without an answer or a callback; its log is the only
place that tells.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pjsua2 as pj
import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

_LEVEL = 2  # errors and warnings
_DROPPED = "Dropping "
_log = structlog.get_logger()


def pjsip_library() -> ctypes.CDLL:
    """The installed extension, for the few functions that pjsua2 does not wrap."""
    return ctypes.CDLL(str(next(Path(pj.__file__).parent.glob("_pjsua2*.so"))))


class SipLog(pj.LogWriter):  # type: ignore[misc]
    """PJSIP calls it on any of its threads; `on_dropped` must allow that."""

    def __init__(self, on_dropped: Callable[[], None]) -> None:
        super().__init__()
        self._on_dropped = on_dropped

    def configure(self, log_config: Any) -> None:
        """Fill in a LogConfig. PJSIP takes the writer over and deletes it."""
        log_config.level = _LEVEL
        log_config.consoleLevel = _LEVEL
        log_config.msgLogging = 0
        log_config.decor = pj.PJ_LOG_HAS_SENDER
        log_config.writer = self

    def write(self, entry: Any) -> None:
        sender, _, message = entry.msg.strip().partition(" ")
        if message.startswith(_DROPPED):
            self._on_dropped()
        # Strangers can cause these lines at will, so they are for debugging only.
        _log.debug("pjsip", sender=sender, message=message)
