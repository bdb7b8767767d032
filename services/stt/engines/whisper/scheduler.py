"""Who is decoded next, and together with whom. Pure: the time is handed in, nothing waits here.

CTranslate2 decodes prompts in one batch when they have the same shape. A batch forms around the
most urgent job: finals before early finals before partials, older ones first. Others of the same
shape join it. A batch that is not full waits a few milliseconds for company.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Hashable


class Kind(IntEnum):
    """What a job is for; the lower, the more urgent."""

    FINAL = 0
    EARLY_FINAL = 1  # the speaker has paused: perhaps for good
    PARTIAL = 2


class DropReason(StrEnum):
    STALE = "stale"  # waited too long to be of use
    REPLACED = "replaced"  # a newer guess, or the final, of the same utterance came
    LATE = "late"  # past its deadline


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Jobs of equal shape can be decoded in one batch."""

    frames: int  # of the padded window
    previous_tokens: int  # before <|startoftranscript|>
    task_tokens: int  # from there to the first word
    beam: int = 1
    hypotheses: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One piece of decoding. `stream` names the utterance that it belongs to."""

    number: int
    stream: Hashable
    kind: Kind
    shape: Shape
    queued_ms: float
    deadline_ms: float


@dataclass(frozen=True, slots=True)
class Batch:
    """Decode these together, now."""

    jobs: tuple[Job, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until_ms`, or before a job is added; None: nothing is queued."""

    until_ms: float | None


Decision: TypeAlias = Batch | Wait


@dataclass(frozen=True, slots=True)
class Dropped:
    job: Job
    reason: DropReason


@dataclass(slots=True, kw_only=True)
class Schedule:
    """The queue. `riders`: partials may share a batch with finals, which they make longer.

    `max_partials`: so many at most in a batch of partials only, which no final can interrupt.
    """

    max_batch: int
    max_partials: int | None = None
    window_ms: float
    partial_age_ms: float
    riders: bool = True
    _jobs: dict[int, Job] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job) -> list[Dropped]:
        """Queue a job; partials of the same utterance that it makes pointless are dropped."""
        replaced = [
            other
            for other in self._jobs.values()
            if other.stream == job.stream and other.kind is Kind.PARTIAL
        ]
        self._jobs[job.number] = job
        return [self._drop(other, DropReason.REPLACED) for other in replaced]

    def cancel(self, number: int) -> bool:
        """Forget a job; False when it is not queued any more."""
        return self._jobs.pop(number, None) is not None

    def next(self, now_ms: float) -> tuple[Decision, list[Dropped]]:
        """What to do now; the jobs of a batch leave the queue."""
        dropped = self._drop_old(now_ms)
        if not self._jobs:
            return Wait(None), dropped
        batch = self._batch()
        # The window runs from the first job queued, so that nobody waits for company twice.
        ready_ms = min(job.queued_ms for job in batch) + self.window_ms
        if len(batch) < self._most(batch[0]) and now_ms < ready_ms:
            return Wait(ready_ms), dropped
        for job in batch:
            del self._jobs[job.number]
        return Batch(batch), dropped

    def _batch(self) -> tuple[Job, ...]:
        ordered = sorted(self._jobs.values(), key=lambda job: (job.kind, job.queued_ms, job.number))
        head = ordered[0]
        fitting = [
            job
            for job in ordered
            if job.shape == head.shape
            and (self.riders or (job.kind is Kind.PARTIAL) == (head.kind is Kind.PARTIAL))
        ]
        return tuple(fitting[: self._most(head)])

    def _most(self, head: Job) -> int:
        if head.kind is Kind.PARTIAL and self.max_partials is not None:
            return min(self.max_batch, self.max_partials)
        return self.max_batch

    def _drop_old(self, now_ms: float) -> list[Dropped]:
        dropped = []
        for job in list(self._jobs.values()):
            if now_ms > job.deadline_ms:
                dropped.append(self._drop(job, DropReason.LATE))
            elif job.kind is Kind.PARTIAL and now_ms - job.queued_ms > self.partial_age_ms:
                dropped.append(self._drop(job, DropReason.STALE))
        return dropped

    def _drop(self, job: Job, reason: DropReason) -> Dropped:
        del self._jobs[job.number]
        return Dropped(job, reason)
