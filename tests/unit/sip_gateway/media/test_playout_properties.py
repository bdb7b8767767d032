"""The playout queue against a model of it, whatever the conversation and the clock do."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.audio import FRAME_SAMPLES, SILENCE_FRAME, samples_to_ms
from sip_gateway.media.playout import REBUFFER_FRAMES, PlayoutQueue

_SOUND = np.full(60_000, 1000, "<i2").tobytes()


def sound(samples: int) -> bytes:
    return _SOUND[: samples * 2]


def sounding(frame: bytes) -> int:
    return int(np.count_nonzero(np.frombuffer(frame, "<i2")))


@dataclass(slots=True)
class Model:
    """What must have been heard: marks in order, and how much of each has left."""

    queue: PlayoutQueue = field(default_factory=PlayoutQueue)
    marks: list[list[object]] = field(default_factory=list)  # name, samples sent, heard, closed
    told: list[tuple[str, int]] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)

    def enqueue(self, mark: str, samples: int, *, last: bool) -> None:
        self.queue.enqueue(mark, sound(samples), last=last)
        if not self.marks or self.marks[-1][0] != mark or self.marks[-1][3]:
            for entry in self.marks:
                entry[3] = True
            self.marks.append([mark, 0, 0, False])
        self.marks[-1][1] += samples  # type: ignore[operator]
        self.marks[-1][3] = last

    def pull(self) -> int:
        """How many samples sounded."""
        frame, events = self.queue.pull()
        left = heard = sounding(frame)
        for entry in self.marks:
            taken = min(left, entry[1] - entry[2])  # type: ignore[operator]
            entry[2] += taken  # type: ignore[operator]
            left -= taken
        assert left == 0, "more was heard than was sent"
        for event in events:
            self.told.append((event.mark, event.played_ms))
            if event.finished:
                done = self.marks.pop(0)
                assert done[0] == event.mark
                assert done[1] == done[2]
                assert event.played_ms == samples_to_ms(done[2])  # type: ignore[arg-type]
        return heard

    def clear(self) -> None:
        cut = [(heard.mark, heard.played_ms) for heard in self.queue.clear()]
        assert cut == [(entry[0], samples_to_ms(entry[2])) for entry in self.marks]  # type: ignore[arg-type]
        self.marks.clear()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enqueue"), st.sampled_from("abc"), st.integers(0, 3000), st.booleans()),
        st.tuples(st.just("pull"), st.integers(1, 12)),
        st.tuples(st.just("clear")),
    ),
    max_size=60,
)


@settings(max_examples=200)
@given(STEPS)
def test_every_clear_tells_the_exact_milliseconds_heard_of_each_mark(
    steps: list[tuple[object, ...]],
) -> None:
    model = Model()
    for step in steps:
        match step:
            case ("enqueue", str(mark), int(samples), bool(last)):
                model.enqueue(mark, samples, last=last)
            case ("pull", int(times)):
                for _ in range(times):
                    model.pull()
            case _:
                model.clear()
                assert model.queue.pull() == (SILENCE_FRAME, ())
    model.clear()


@given(STEPS, st.integers(1, 20_000))
def test_no_history_leaves_a_delay_behind(steps: list[tuple[object, ...]], samples: int) -> None:
    """What is said to a queue that has nothing else is heard at the very next tick, in one go."""
    model = Model()
    for step in steps:
        match step:
            case ("enqueue", str(mark), int(size), bool(last)):
                model.enqueue(mark, size, last=last)
            case ("pull", int(times)):
                for _ in range(times):
                    model.pull()
            case _:
                model.clear()
    model.enqueue("close", 0, last=True)
    for _ in range(2000):
        model.pull()
    assert model.queue.drained
    model.enqueue("new", samples, last=True)
    ticks = -(-samples // FRAME_SAMPLES)
    heard = [model.pull() for _ in range(ticks)]
    assert heard[0] == min(samples, FRAME_SAMPLES)
    assert sum(heard) == samples
    assert model.queue.underruns == 0 or steps


@given(
    st.lists(st.tuples(st.integers(1, 8000), st.integers(0, 25)), min_size=1, max_size=30),
    st.integers(FRAME_SAMPLES, 4 * FRAME_SAMPLES),
)
def test_speech_that_is_ahead_never_underruns_however_it_comes(
    bursts: list[tuple[int, int]], margin: int
) -> None:
    model = Model()
    for samples, ticks in bursts:
        needed = ticks * FRAME_SAMPLES + margin
        queued = model.queue.queued_ms * 16
        model.enqueue("speech", max(samples, needed - queued), last=False)
        for _ in range(ticks):
            assert model.pull() == FRAME_SAMPLES
    assert model.queue.underruns == 0


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 12)), min_size=1, max_size=40))
def test_slow_speech_waits_60_ms_at_most_for_each_gap(pieces: list[tuple[int, int]]) -> None:
    model = Model()
    held_back = 0
    for samples, ticks in pieces:
        model.enqueue("slow", samples, last=False)
        for _ in range(ticks):
            there = model.queue.queued_ms > 0
            held_back += model.pull() == 0 and there
    assert held_back <= REBUFFER_FRAMES * max(model.queue.underruns, 0)
    assert model.queue.dropped_bytes == 0
