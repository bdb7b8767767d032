"""Holds the key of the running epoch, on disk and in memory, and lets go of the ones before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from services.audit import keys
from services.audit.seals import new_key, retirement_fields, seal_fields
from services.common.errors import LandlineError

if TYPE_CHECKING:
    from pathlib import Path

    from services.common.clock import Clock


class SealerError(LandlineError):
    """The seal key and the journal do not belong together; the message says what it means."""


class Sealer:
    """The seals of one journal. `reconcile` must be called before anything else."""

    def __init__(self, folder: Path, writer: str, clock: Clock) -> None:
        self._writer = writer
        self._path = folder / "seal.key"
        self._verification = folder / "verification.key"
        self._clock = clock
        self._key = new_key(0)
        self._started_ms = clock.wall_ms()
        self._unsaved = False

    @property
    def epoch(self) -> int:
        """The number of the running epoch."""
        return self._key.epoch

    def reconcile(self, next_epoch: int | None) -> None:
        """Compare the key with the journal; `next_epoch` is that of its next seal, None before any.

        SealerError when records were removed from the journal's end, or a key is missing or old.
        """
        if not self._path.exists():
            self._begin(next_epoch)
            return
        self._key = keys.load_seal_key(self._path)
        due = next_epoch or 0
        if self._key.epoch == due - 1:  # the process died between the seal and the next key
            self.advance()
        elif self._key.epoch > due:
            raise SealerError(
                f"the seal key stands at epoch {self._key.epoch}, but the journal's next seal is "
                f"that of epoch {due}: records were removed from the journal's end; keep it as "
                "evidence and start with another data_dir"
            )
        elif self._key.epoch < due:
            raise SealerError(
                f"{self._path} is an old copy: it stands at epoch {self._key.epoch}, the journal "
                f"at {due}; begin a new series with landline audit keys rotate"
            )

    def fields(self, *, count: int, head: str) -> dict[str, Any]:
        """The seal of the running epoch, made for what stands in the journal now.

        OSError when its key could not be put on disk: a second seal would lose the place.
        """
        if self._unsaved:
            self._save()
        return seal_fields(
            self._key,
            writer=self._writer,
            count=count,
            head=head,
            started_ms=self._started_ms,
            ended_ms=self._clock.wall_ms(),
        )

    def advance(self) -> None:
        """The seal is on disk: replace its key by the next."""
        self._key = self._key.next()
        self._started_ms = self._clock.wall_ms()
        self._unsaved = True
        self._save()

    def retirement(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields of a record that retires files, with the running epoch's code."""
        return retirement_fields(self._key, fields, writer=self._writer)

    def rotate(self, next_epoch: int | None) -> dict[str, Any]:
        """Begin a new series with a key that has nothing to do with the old ones.

        The fields of the record that announces it, to be written before the next seal.
        """
        self._key = new_key(next_epoch or 0)
        keys.add_verification_key(self._verification, self._writer, self._key)
        keys.save_seal_key(self._path, self._key)
        return {"epoch": self._key.epoch, "commitment": self._key.commitment()}

    def _save(self) -> None:
        keys.save_seal_key(self._path, self._key)
        self._unsaved = False

    def _begin(self, next_epoch: int | None) -> None:
        if next_epoch:
            raise SealerError(
                f"{self._path} is missing, but the journal has seals up to epoch {next_epoch - 1}; "
                "begin a new series with landline audit keys rotate"
            )
        keys.add_verification_key(self._verification, self._writer, self._key)
        keys.save_seal_key(self._path, self._key)
