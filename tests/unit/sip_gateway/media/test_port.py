"""The short cut to a frame's bytes, on the extension that is installed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pjsua2 as pj

from services.common.audio import FRAME_BYTES
from sip_gateway.media import port

if TYPE_CHECKING:
    from collections.abc import Callable


def test_the_installed_extension_allows_the_short_cut() -> None:
    assert port.pointer_layout_holds()


def test_both_ways_read_and_write_the_same() -> None:
    pcm = bytes(index % 251 for index in range(FRAME_BYTES))
    for write in (port._write_by_pointer, port._write_by_element):
        vector = pj.ByteVector(bytes(FRAME_BYTES))
        write(vector, pcm)
        assert port._read_by_pointer(vector) == pcm
        assert port._read_by_element(vector) == pcm


class Ticks:
    """A media thread whose ends of ticks are counted."""

    def __init__(self) -> None:
        self.thread = port.MediaThread()
        self.ended = 0
        self.thread.on_tick_end = self._count

    def _count(self) -> None:
        self.ended += 1

    def tick(self, ports: int) -> list[int]:
        """One tick of so many ports; how many ends there were after each of them received."""
        for _ in range(ports):
            self.thread.requested()
        after = []
        for _ in range(ports):
            self.thread.received()
            after.append(self.ended)
        return after


def in_a_thread_of_its_own(run: Callable[[], None]) -> None:
    """Media threads keep Python's state, so no test does it on pytest's."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            run()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    for failure in failures:
        raise failure


def test_a_tick_ends_after_its_last_port() -> None:
    def run() -> None:
        ticks = Ticks()
        ticks.tick(3)
        seen = ticks.ended
        assert ticks.tick(3) == [seen, seen, seen + 1]
        assert ticks.tick(3) == [seen + 1, seen + 1, seen + 2]
        ticks.thread.idle()

    in_a_thread_of_its_own(run)


def test_a_port_that_leaves_delays_the_end_by_one_tick_at_most() -> None:
    def run() -> None:
        ticks = Ticks()
        ticks.tick(3)
        ticks.tick(3)
        seen = ticks.ended
        assert ticks.tick(2) == [seen, seen]
        assert ticks.tick(2) == [seen + 1, seen + 2]
        assert ticks.tick(2) == [seen + 2, seen + 3]
        ticks.thread.idle()

    in_a_thread_of_its_own(run)


def test_a_port_that_comes_does_not_delay_the_others() -> None:
    def run() -> None:
        ticks = Ticks()
        ticks.tick(1)
        seen = ticks.ended
        assert ticks.tick(2) == [seen + 1, seen + 2]
        assert ticks.tick(2) == [seen + 2, seen + 3]
        ticks.thread.idle()

    in_a_thread_of_its_own(run)
