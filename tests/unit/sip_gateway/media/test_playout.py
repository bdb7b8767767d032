"""What goes into the queue comes out, in order, and is counted to the millisecond."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.audio import FRAME_BYTES, SILENCE_FRAME
from sip_gateway.media.playout import Heard, PlayoutQueue

# Audio in which every sample is different from silence and from its neighbours.
_NUMBERED = (np.arange(1, 200_001) % 30_000 + 1).astype("<i2")


def audio(samples: int, start: int = 0) -> bytes:
    return _NUMBERED[start : start + samples].tobytes()


def drain(queue: PlayoutQueue) -> tuple[bytes, list[Heard]]:
    """Everything that comes out until nothing is left, and all that was told."""
    heard, events = bytearray(), []
    for _ in range(100_000):
        frame, told = queue.pull()
        assert len(frame) == FRAME_BYTES
        heard += frame
        events += told
        if queue.drained and not queue.clear():
            return bytes(heard), events
    raise AssertionError("it never drains")


def without_silence(pcm: bytes) -> bytes:
    samples = np.frombuffer(pcm, "<i2")
    return samples[samples != 0].tobytes()


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2000), st.integers(0, 4)),
        min_size=1,
        max_size=40,
    )
)
def test_nothing_is_lost_or_reordered_however_it_comes(
    pieces: list[tuple[int, int, int]],
) -> None:
    queue = PlayoutQueue()
    sent, heard, at = bytearray(), bytearray(), 0
    for mark, samples, pulls in pieces:
        piece = audio(samples, at)
        at += samples
        queue.enqueue(f"m{mark}", piece)
        sent += piece
        for _ in range(pulls):
            heard += queue.pull()[0]
    queue.enqueue("end", b"", last=True)
    rest, _events = drain(queue)
    assert without_silence(bytes(heard) + rest) == bytes(sent)


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=6))
def test_every_mark_is_finished_once_with_its_exact_length(lengths: list[int]) -> None:
    queue = PlayoutQueue()
    for number, samples in enumerate(lengths):
        queue.enqueue(str(number), audio(samples), last=True)
    _pcm, events = drain(queue)
    finished = [event for event in events if event.finished]
    assert [(event.mark, event.played_ms) for event in finished] == [
        (str(number), samples // 16) for number, samples in enumerate(lengths)
    ]


@given(
    st.lists(st.integers(1, 8000), min_size=1, max_size=5), st.integers(0, 60), st.integers(0, 60)
)
def test_clear_tells_exactly_what_was_heard(
    lengths: list[int], pulls: int, pulls_after: int
) -> None:
    queue = PlayoutQueue()
    for number, samples in enumerate(lengths):
        queue.enqueue(str(number), audio(samples), last=True)
    heard, events = bytearray(), []
    for _ in range(pulls):
        frame, told = queue.pull()
        heard += frame
        events += told
    cut = queue.clear()
    told_ms = sum(event.played_ms for event in events if event.finished)
    told_samples = sum(lengths[int(event.mark)] for event in events if event.finished)
    cut_samples = len(without_silence(bytes(heard))) // 2 - told_samples
    assert [event.mark for event in cut] == [
        str(number) for number in range(len(lengths) - len(cut), len(lengths))
    ]
    assert sum(event.played_ms for event in cut) == cut_samples // 16
    assert told_ms <= sum(lengths) // 16
    for _ in range(pulls_after):
        assert queue.pull() == (SILENCE_FRAME, ())
    assert queue.drained


def test_progress_comes_about_each_200_ms() -> None:
    queue = PlayoutQueue()
    queue.enqueue("a", audio(16_000), last=True)
    _pcm, events = drain(queue)
    assert [event.played_ms for event in events] == [200, 400, 600, 800, 1000]
    assert [event.finished for event in events] == [False] * 4 + [True]


def test_last_may_come_after_all_was_played() -> None:
    queue = PlayoutQueue()
    queue.enqueue("a", audio(320))
    assert queue.pull()[1] == ()
    queue.enqueue("a", b"", last=True)
    assert queue.pull() == (SILENCE_FRAME, (Heard(mark="a", played_ms=20, finished=True),))


def test_speech_in_bursts_has_no_gap() -> None:
    queue = PlayoutQueue()
    for _ in range(5):  # 400 ms at once, each 300 ms
        queue.enqueue("a", audio(6400))
        for _ in range(15):
            assert queue.pull()[0] != SILENCE_FRAME
    assert queue.underruns == 0
    assert queue.dropped_bytes == 0


def test_slow_speech_makes_one_gap_and_is_counted_once() -> None:
    queue = PlayoutQueue()
    queue.enqueue("a", audio(320))
    silent = 0
    for _ in range(10):  # one frame for each tick, but the first one late
        queue.pull()
    for _ in range(30):
        queue.enqueue("a", audio(320))
        silent += queue.pull()[0] == SILENCE_FRAME
    assert queue.underruns == 1
    assert silent <= 3


def test_audio_after_a_gap_is_held_back_for_60_ms_at_most() -> None:
    queue = PlayoutQueue()
    queue.enqueue("a", audio(320))
    queue.pull()
    queue.pull()
    queue.enqueue("a", audio(100))
    frames = [queue.pull()[0] for _ in range(4)]
    assert without_silence(b"".join(frames)) == audio(100)


def test_what_does_not_fit_is_counted_and_the_queue_stays_whole() -> None:
    queue = PlayoutQueue(capacity_ms=100)
    assert queue.enqueue("a", audio(1600)) == 0
    assert queue.enqueue("a", audio(50), last=True) == 100
    assert queue.dropped_bytes == 100
    pcm, events = drain(queue)
    assert without_silence(pcm) == audio(1600)
    assert events[-1] == Heard(mark="a", played_ms=100, finished=True)


def test_half_a_sample_is_dropped_and_counted() -> None:
    queue = PlayoutQueue()
    assert queue.enqueue("a", b"\x01\x02\x03", last=True) == 1
    pcm, _events = drain(queue)
    assert pcm[:2] == b"\x01\x02"
    assert not any(pcm[2:])


def test_duck_ramps_and_restores() -> None:
    queue = PlayoutQueue()
    loud = np.full(16_000, 10_000, dtype="<i2").tobytes()
    queue.enqueue("a", loud)
    queue.duck(0.5, 40)
    ramp = np.concatenate([np.frombuffer(queue.pull()[0], "<i2") for _ in range(2)])
    assert ramp[0] == 10_000
    assert ramp[-1] == pytest.approx(5000, abs=20)
    assert (np.diff(ramp.astype(int)) <= 0).all()
    assert set(np.frombuffer(queue.pull()[0], "<i2")) == {5000}
    queue.duck(1.0, 0)
    assert queue.pull()[0] == loud[:FRAME_BYTES]


def test_duck_does_not_change_how_much_was_heard() -> None:
    queue = PlayoutQueue()
    queue.enqueue("a", audio(3200), last=True)
    queue.duck(0.0, 20)
    _pcm, events = drain(queue)
    assert events[-1] == Heard(mark="a", played_ms=200, finished=True)
