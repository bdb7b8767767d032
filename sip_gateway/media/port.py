"""PCM in and out of PJMEDIA's conference bridge, without a loop over bytes.

SWIG shows a frame's bytes as a `std::vector<unsigned char>` and converts it element by element,
which costs more than all else in a call. The first word of such a vector is the address of its
data, so `ctypes` can copy a frame in under a microsecond. Whether that holds for the extension
that is installed is tried once; where it does not, the slow conversion is used.
"""

from __future__ import annotations

import ctypes
import threading
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import pjsua2 as pj
import structlog

from services.common.audio import FRAME_BYTES, FRAME_MS, SAMPLE_RATE_HZ, SILENCE_FRAME

if TYPE_CHECKING:
    from collections.abc import Callable

_log = structlog.get_logger()


class MediaTap(Protocol):
    """What a call's audio is connected to. Both are called on the media thread, each tick."""

    def requested(self) -> bytes:
        """The 20 ms that the other side is to hear."""

    def received(self, pcm: bytes) -> None:
        """The 20 ms that the other side said."""


_Bounds = ctypes.c_size_t * 2  # addresses; a vector without bytes may have two zeros


def _bounds(vector: Any) -> tuple[int, int]:
    """Where a vector's bytes begin and end."""
    begin, end = _Bounds.from_address(int(vector.this))
    return begin, end


def _read_by_pointer(vector: Any) -> bytes:
    begin, end = _bounds(vector)
    return ctypes.string_at(begin, end - begin)


def _read_by_element(vector: Any) -> bytes:
    return bytes(vector)


def _write_by_pointer(vector: Any, pcm: bytes) -> None:
    ctypes.memmove(_bounds(vector)[0], pcm, len(pcm))


def _write_by_element(vector: Any, pcm: bytes) -> None:
    for index, value in enumerate(pcm):
        vector[index] = value


def pointer_layout_holds() -> bool:
    """True where a ByteVector's first word points to its bytes."""
    pattern = bytes(range(1, 65))
    vector = pj.ByteVector(pattern)
    begin, end = _bounds(vector)
    if not begin or end - begin != len(pattern):
        return False
    return ctypes.string_at(begin, len(pattern)) == bytes(vector)


@cache
def _accessors() -> tuple[Callable[[Any], bytes], Callable[[Any, bytes], None]]:
    if pointer_layout_holds():
        return _read_by_pointer, _write_by_pointer
    _log.warning("slow_audio_copy", reason="this pjsua2 lays out its buffers in another way")
    return _read_by_element, _write_by_element


class MediaThread:
    """What the ports have in common: PJMEDIA's clock thread, on which all of them are called.

    It is no thread of Python's, so each callback would make a thread state and map memory for its
    stack, and give both back: half of what a callback costs. While any port is in use the state
    is held by one more `PyGILState_Ensure`; the first callback after that lets go, because
    PJMEDIA ends the thread when no call is left.

    In each tick PJMEDIA first asks all ports for a frame and then gives each of them one.
    `on_tick_end` is called after the last of them, as the tick before has shown how many there
    are: work that is handed to another thread then does not fight with us for the interpreter.
    """

    def __init__(self) -> None:
        self._here = threading.local()
        self._receiving = False
        self._received = 0  # in this tick
        self._expected = 0  # as many as in the tick before
        self.ports_in_use = 0
        self.on_tick_end: Callable[[], None] = _nothing

    def requested(self) -> None:
        """A port in use was asked for a frame."""
        if self._receiving:
            self._receiving = False
            if self._received < self._expected:  # a port has left in the last tick
                self.on_tick_end()
            self._expected, self._received = self._received, 0

    def received(self) -> None:
        """A port in use has dealt with its frame."""
        if not getattr(self._here, "kept", False):
            self._here.kept = True
            ctypes.pythonapi.PyGILState_Ensure()
        self._receiving = True
        self._received += 1
        if self._received >= self._expected:
            self.on_tick_end()

    def idle(self) -> None:
        """A port that is not in use was called."""
        if not self.ports_in_use and getattr(self._here, "kept", False):
            self._here.kept = False
            ctypes.pythonapi.PyGILState_Release(_GIL_WAS_HELD)


def _nothing() -> None:
    """Until somebody wants to know of ticks."""


_GIL_WAS_HELD = 0  # PyGILState_LOCKED: SWIG took it for this callback, and gives it back
media_thread = MediaThread()  # a process has one clock, as it has one PJSIP


class MediaPort(pj.AudioMediaPort):  # type: ignore[misc]
    """A port of the conference bridge whose both ends are a MediaTap, while it has one.

    PJMEDIA goes on calling a port for some ticks after it was removed, so ports are kept and
    used again: `tap` is what changes. Each use of a `frame` is a call into the extension that
    gives the interpreter away and has to get it back, so there are as few as can be.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._tap: MediaTap | None = None
        self._read, self._write = _accessors()
        self._outgoing = pj.ByteVector(SILENCE_FRAME)
        self.errors = 0
        audio_format = pj.MediaFormatAudio()
        audio_format.init(pj.PJMEDIA_FORMAT_PCM, SAMPLE_RATE_HZ, 1, FRAME_MS * 1000, 16)
        self.createPort(name, audio_format)

    @property
    def tap(self) -> MediaTap | None:
        return self._tap

    @tap.setter
    def tap(self, tap: MediaTap | None) -> None:
        media_thread.ports_in_use += (tap is not None) - (self._tap is not None)
        self._tap = tap

    def onFrameRequested(self, frame: Any) -> None:  # noqa: N802 - named by pjsua2
        tap = self._tap
        if tap is None:
            return  # a frame that is left alone is none
        # An exception in a callback would end the process and every call in it.
        try:
            media_thread.requested()
            pcm = tap.requested()
        except Exception:
            pcm = SILENCE_FRAME
            self._note_error()
        self._write(self._outgoing, pcm)
        frame.type = pj.PJMEDIA_FRAME_TYPE_AUDIO
        frame.buf = self._outgoing  # its `size` says from the beginning what fits

    def onFrameReceived(self, frame: Any) -> None:  # noqa: N802 - named by pjsua2
        tap = self._tap
        if tap is None:
            media_thread.idle()
            return
        try:
            pcm = self._read(frame.buf)  # empty when PJMEDIA has nothing
            tap.received(pcm if len(pcm) == FRAME_BYTES else SILENCE_FRAME)
            media_thread.received()
        except Exception:
            self._note_error()

    def _note_error(self) -> None:
        self.errors += 1
        if self.errors == 1:
            _log.exception("media_callback_failed")
