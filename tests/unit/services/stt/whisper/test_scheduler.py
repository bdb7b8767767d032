"""Who is decoded next: properties under a clock of the test's own."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.stt.engines.whisper.scheduler import (
    Batch,
    DropReason,
    Job,
    Kind,
    Schedule,
    Shape,
    Wait,
)

SHORT = Shape(frames=300, previous_tokens=0, task_tokens=4)
LONG = Shape(frames=600, previous_tokens=0, task_tokens=4)
HINTED = Shape(frames=300, previous_tokens=16, task_tokens=4)
FOREVER = 1e12


def job(number: int, kind: Kind = Kind.FINAL, shape: Shape = SHORT, at: float = 0.0) -> Job:
    return Job(
        number=number, stream=number, kind=kind, shape=shape, queued_ms=at, deadline_ms=FOREVER
    )


def schedule(max_batch: int = 4, window_ms: float = 5.0, *, riders: bool = True) -> Schedule:
    return Schedule(max_batch=max_batch, window_ms=window_ms, partial_age_ms=400, riders=riders)


def numbers(queue: Schedule, now_ms: float) -> list[int]:
    decision, _ = queue.next(now_ms)
    return [item.number for item in decision.jobs] if isinstance(decision, Batch) else []


def test_an_empty_queue_waits_for_nothing() -> None:
    assert schedule().next(0.0) == (Wait(None), [])


def test_a_lone_job_waits_a_little_for_company() -> None:
    queue = schedule()
    queue.add(job(1, at=100))
    assert queue.next(101.0) == (Wait(105.0), [])
    queue.add(job(2, at=103))
    assert numbers(queue, 105.0) == [1, 2]


def test_a_full_batch_waits_for_nobody() -> None:
    queue = schedule(max_batch=2)
    for number in range(3):
        queue.add(job(number))
    assert numbers(queue, 0.0) == [0, 1]


def test_finals_go_before_partials_that_came_earlier() -> None:
    queue = schedule()
    queue.add(job(1, Kind.PARTIAL, LONG, at=0))
    queue.add(job(2, Kind.EARLY_FINAL, at=1))
    queue.add(job(3, Kind.FINAL, HINTED, at=2))
    assert [numbers(queue, 50.0) for _ in range(3)] == [[3], [2], [1]]


@pytest.mark.parametrize(("riders", "expected"), [(True, [[2, 1]]), (False, [[2], [1]])])
def test_partials_share_a_batch_with_finals_where_that_costs_little(
    riders: bool, expected: list[list[int]]
) -> None:
    queue = schedule(riders=riders)
    queue.add(job(1, Kind.PARTIAL))
    queue.add(job(2, Kind.FINAL))
    assert [numbers(queue, 50.0) for _ in expected] == expected


def test_only_equal_shapes_share_a_batch() -> None:
    queue = schedule()
    for number, shape in enumerate((SHORT, LONG, SHORT, HINTED)):
        queue.add(job(number, shape=shape))
    assert [numbers(queue, 50.0) for _ in range(4)] == [[0, 2], [1], [3], []]


def test_a_stale_partial_is_dropped_and_a_final_is_not() -> None:
    queue = schedule()
    queue.add(job(1, Kind.PARTIAL))
    queue.add(job(2, Kind.FINAL))
    decision, dropped = queue.next(401.0)
    assert [(item.job.number, item.reason) for item in dropped] == [(1, DropReason.STALE)]
    assert isinstance(decision, Batch)
    assert [item.number for item in decision.jobs] == [2]


def test_what_is_past_its_deadline_is_dropped() -> None:
    queue = schedule()
    late = Job(number=1, stream=1, kind=Kind.FINAL, shape=SHORT, queued_ms=0, deadline_ms=10)
    queue.add(late)
    decision, dropped = queue.next(11.0)
    assert decision == Wait(None)
    assert [item.reason for item in dropped] == [DropReason.LATE]


def test_a_newer_guess_replaces_the_older_one_of_the_same_utterance() -> None:
    queue = schedule()
    queue.add(job(1, Kind.PARTIAL))
    newer = Job(
        number=2, stream=1, kind=Kind.PARTIAL, shape=SHORT, queued_ms=1, deadline_ms=FOREVER
    )
    assert [(d.job.number, d.reason) for d in queue.add(newer)] == [(1, DropReason.REPLACED)]
    assert numbers(queue, 50.0) == [2]


def test_a_batch_of_partials_is_kept_short_and_one_of_finals_is_not() -> None:
    queue = Schedule(max_batch=4, max_partials=2, window_ms=5, partial_age_ms=400, riders=False)
    for number in range(4):
        queue.add(job(number, Kind.PARTIAL))
        queue.add(job(number + 10, Kind.FINAL))
    taken = [numbers(queue, 0.0) for _ in range(3)]
    assert taken == [[10, 11, 12, 13], [0, 1], [2, 3]]


def test_cancelling_frees_the_place_in_the_queue() -> None:
    queue = schedule()
    queue.add(job(1))
    assert queue.cancel(1)
    assert not queue.cancel(1)
    assert len(queue) == 0


@dataclass
class Life:
    """What became of each job, over a whole run."""

    added: dict[int, Job] = field(default_factory=dict)
    started: dict[int, float] = field(default_factory=dict)
    dropped: dict[int, DropReason] = field(default_factory=dict)
    cancelled: set[int] = field(default_factory=set)


KINDS = st.sampled_from(list(Kind))
SHAPES = st.sampled_from([SHORT, LONG, HINTED])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 5), KINDS, SHAPES),
        st.tuples(st.just("pass"), st.floats(0.1, 300.0)),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("next")),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(steps=STEPS, max_batch=st.integers(1, 5), riders=st.booleans())
def test_every_job_has_exactly_one_fate_and_urgent_ones_go_first(
    steps: list[tuple], max_batch: int, riders: bool
) -> None:
    queue = schedule(max_batch, riders=riders)
    life, now_ms = Life(), 0.0
    waiting: dict[int, Job] = {}

    def drop(items: list) -> None:
        for item in items:
            assert item.job.kind is Kind.PARTIAL or item.reason is DropReason.LATE
            life.dropped[item.job.number] = item.reason
            del waiting[item.job.number]

    def take() -> None:
        decision, dropped = queue.next(now_ms)
        drop(dropped)
        if isinstance(decision, Wait):
            # A wait is never longer than the window, and never for nothing.
            assert (decision.until_ms is None) == (not waiting)
            if decision.until_ms is not None:
                assert now_ms < decision.until_ms <= now_ms + queue.window_ms
            return
        assert 1 <= len(decision.jobs) <= max_batch
        assert len({item.shape for item in decision.jobs}) == 1
        most_urgent = min(waiting.values(), key=lambda item: (item.kind, item.queued_ms))
        assert min(item.kind for item in decision.jobs) == most_urgent.kind
        for item in decision.jobs:
            life.started[item.number] = now_ms
            del waiting[item.number]

    for step in steps:
        match step:
            case ("add", stream, kind, shape):
                number = len(life.added)
                fresh = Job(
                    number=number, stream=stream, kind=kind, shape=shape,
                    queued_ms=now_ms, deadline_ms=now_ms + 1_000,
                )  # fmt: skip
                life.added[number] = waiting[number] = fresh
                drop(queue.add(fresh))
            case ("pass", ms):
                now_ms += ms
            case ("cancel", number):
                if queue.cancel(number):
                    life.cancelled.add(number)
                    del waiting[number]
            case _:
                take()
    while waiting:
        now_ms += queue.window_ms
        take()
    fates = [set(life.started), set(life.dropped), life.cancelled]
    assert set().union(*fates) == set(life.added)
    assert sum(map(len, fates)) == len(life.added)
    assert len(queue) == 0
