"""PCM in and out of PJMEDIA's conference bridge, without a loop over bytes.

SWIG shows a frame's bytes as a `std::vector<unsigned char>` and converts it element by element,
which costs more than all else in a call. The first word of such a vector is the address of its
data, so `ctypes` can copy a frame in under a microsecond. Whether that holds for the extension
that is installed is tried once; where it does not, the slow conversion is used.
"""

from __future__ import annotations

import ctypes
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


def _data_address(vector: Any) -> int:
    return ctypes.c_void_p.from_address(int(vector.this)).value or 0


def _read_by_pointer(vector: Any, size: int) -> bytes:
    return ctypes.string_at(_data_address(vector), size)


def _read_by_element(vector: Any, size: int) -> bytes:
    return bytes(vector)[:size]


def _write_by_pointer(vector: Any, pcm: bytes) -> None:
    ctypes.memmove(_data_address(vector), pcm, len(pcm))


def _write_by_element(vector: Any, pcm: bytes) -> None:
    for index, value in enumerate(pcm):
        vector[index] = value


def pointer_layout_holds() -> bool:
    """True where a ByteVector's first word points to its bytes."""
    pattern = bytes(range(1, 65))
    vector = pj.ByteVector(pattern)
    holder = (ctypes.c_void_p * 3).from_address(int(vector.this))
    begin, end = holder[0], holder[1]
    if not begin or not end or end - begin != len(pattern):
        return False
    return ctypes.string_at(begin, len(pattern)) == bytes(vector)


@cache
def _accessors() -> tuple[Callable[[Any, int], bytes], Callable[[Any, bytes], None]]:
    if pointer_layout_holds():
        return _read_by_pointer, _write_by_pointer
    _log.warning("slow_audio_copy", reason="this pjsua2 lays out its buffers in another way")
    return _read_by_element, _write_by_element


class MediaPort(pj.AudioMediaPort):  # type: ignore[misc]
    """A port of the conference bridge whose both ends are a MediaTap, while it has one.

    PJMEDIA goes on calling a port for some ticks after it was removed, so ports are kept and
    used again: `tap` is what changes.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.tap: MediaTap | None = None
        self._read, self._write = _accessors()
        self._outgoing = pj.ByteVector(SILENCE_FRAME)
        self.errors = 0
        audio_format = pj.MediaFormatAudio()
        audio_format.init(pj.PJMEDIA_FORMAT_PCM, SAMPLE_RATE_HZ, 1, FRAME_MS * 1000, 16)
        self.createPort(name, audio_format)

    def onFrameRequested(self, frame: Any) -> None:  # noqa: N802 - named by pjsua2
        # An exception in a callback would end the process and every call in it.
        tap = self.tap
        try:
            pcm = tap.requested() if tap is not None else SILENCE_FRAME
        except Exception:
            pcm = SILENCE_FRAME
            self._note_error()
        self._write(self._outgoing, pcm)
        frame.type = pj.PJMEDIA_FRAME_TYPE_AUDIO
        frame.buf = self._outgoing
        frame.size = FRAME_BYTES

    def onFrameReceived(self, frame: Any) -> None:  # noqa: N802 - named by pjsua2
        tap = self.tap
        if tap is None:
            return
        try:
            if frame.type == pj.PJMEDIA_FRAME_TYPE_AUDIO and frame.size == FRAME_BYTES:
                tap.received(self._read(frame.buf, FRAME_BYTES))
            else:
                tap.received(SILENCE_FRAME)
        except Exception:
            self._note_error()

    def _note_error(self) -> None:
        self.errors += 1
        if self.errors == 1:
            _log.exception("media_callback_failed")
