"""The short cut to a frame's bytes, on the extension that is installed."""

from __future__ import annotations

import pjsua2 as pj

from services.common.audio import FRAME_BYTES
from sip_gateway.media import port


def test_the_installed_extension_allows_the_short_cut() -> None:
    assert port.pointer_layout_holds()


def test_both_ways_read_and_write_the_same() -> None:
    pcm = bytes(index % 251 for index in range(FRAME_BYTES))
    for write in (port._write_by_pointer, port._write_by_element):
        vector = pj.ByteVector(bytes(FRAME_BYTES))
        write(vector, pcm)
        assert port._read_by_pointer(vector) == pcm
        assert port._read_by_element(vector) == pcm
