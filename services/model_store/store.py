"""The folder of models: what is there, whether it is what it should be, and what is taken in.

A file gets its final name only after its size and hash have been checked, so what stands under
that name was right at least once; `verify` checks it again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from services.common.errors import LandlineError
from services.model_store.manifest import ALLOWED_LICENCES, ModelFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from services.model_store.manifest import Model

    Progress = Callable[[str, int, int], None]  # path, bytes done, bytes in all

_PINS = "pins.json"
_PART = ".part"
_CHUNK_BYTES = 1 << 20


class StoreError(LandlineError):
    """A model cannot be taken in or is not what it should be; the message says why."""


class FileState(StrEnum):
    OK = "ok"
    MISSING = "missing"
    WRONG_SIZE = "wrong size"
    WRONG_HASH = "wrong hash"
    UNPINNED = "not pinned"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    """What is the matter with one file of a model."""

    path: str
    state: FileState


class Store:
    """Models under one folder, each in a folder of its name."""

    def __init__(self, folder: Path, allowed_licences: frozenset[str] = ALLOWED_LICENCES) -> None:
        self.folder = folder
        self._allowed = allowed_licences

    def path(self, model: Model) -> Path:
        """The folder of a model, whether it is there or not."""
        return self.folder / model.name

    def files(self, model: Model) -> list[ModelFile]:
        """The files of a model, with the pins that were made here where the manifest has none."""
        pins = self._pins().get(model.name, {})
        return [
            item
            if item.pinned or item.path not in pins
            else item.model_copy(update=pins[item.path])
            for item in model.files
        ]

    def is_complete(self, model: Model) -> bool:
        """Whether all files are there in their sizes. Hashes are what `verify` is for."""
        return all(
            (path := self.path(model) / item.path).is_file()
            and item.size in (None, path.stat().st_size)
            for item in self.files(model)
        )

    def verify(self, model: Model) -> list[FileReport]:
        """Hash every file."""
        return [
            FileReport(path=item.path, state=state_of(self.path(model) / item.path, item))
            for item in self.files(model)
        ]

    def require_allowed(self, model: Model) -> None:
        """StoreError when the licence is on no allow list."""
        if model.licence not in self._allowed:
            raise StoreError(
                f"{model.name} is under the licence {model.licence}, which is not allowed here; "
                f"allowed are {', '.join(sorted(self._allowed))} "
                f"(--allow-licence {model.licence} allows it, if it suits you)"
            )

    def require_pinned(self, model: Model) -> None:
        """StoreError when it is not known exactly which files these are."""
        unpinned = [item.path for item in self.files(model) if not item.pinned]
        if unpinned:
            raise StoreError(
                f"{model.name} cannot be fetched: nobody has pinned the hash of "
                f"{', '.join(unpinned)}. Get the files from a source that you trust, then: "
                f"landline models import {model.name} FOLDER"
            )

    def take_in(self, model: Model, source: Path, progress: Progress) -> None:
        """Copy a model from a folder; files without a hash are pinned as they are."""
        self.require_allowed(model)
        if not source.is_dir():
            raise StoreError(f"there is no folder {source}")
        files = self.files(model)
        missing = [item.path for item in files if not (source / item.path).is_file()]
        if missing:
            raise StoreError(f"{source} is not complete: {', '.join(missing)} missing")
        self.require_space(sum((source / item.path).stat().st_size for item in files))
        with self.locked():
            pins: dict[str, dict[str, Any]] = {}
            for item in files:
                part = self.part(model, item)
                size, digest = _copy(source / item.path, part, progress)
                pins[item.path] = {"size": size, "sha256": digest}
                self.accept(model, item, part, digest)
            if not all(item.pinned for item in model.files):
                self._pin(model, pins)

    def part(self, model: Model, item: ModelFile) -> Path:
        """Where a file is written before it is checked."""
        path = self.path(model) / (item.path + _PART)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def accept(self, model: Model, item: ModelFile, part: Path, digest: str) -> None:
        """Give a checked file its name; StoreError, and the file is gone, when it is not right."""
        size = part.stat().st_size
        if item.size not in (None, size) or item.sha256 not in (None, digest):
            part.unlink()
            raise StoreError(
                f"{model.name}/{item.path} is not the file that it should be: "
                f"{size} bytes with SHA-256 {digest}, expected {item.size} bytes with "
                f"{item.sha256}. It was thrown away"
            )
        part.replace(self.path(model) / item.path)

    def require_space(self, size: int) -> None:
        """StoreError when the disk cannot hold so many bytes more."""
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < size:
            raise StoreError(
                f"{self.folder} has {free / 1e9:.1f} GB free; {size / 1e9:.1f} GB are needed"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else takes in models meanwhile; StoreError when somebody does."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreError(f"another process is taking models into {self.folder}") from None
            yield

    def _pins(self) -> dict[str, dict[str, dict[str, Any]]]:
        path = self.folder / _PINS
        if not path.exists():
            return {}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            for files in found.values():
                for name, pin in files.items():
                    ModelFile.model_validate({"path": name, **pin})
        except (ValueError, AttributeError, TypeError) as error:
            raise StoreError(f"{path} is damaged: {error}") from error
        return dict(found)

    def _pin(self, model: Model, pins: dict[str, dict[str, Any]]) -> None:
        path = self.folder / _PINS
        whole = {**self._pins(), model.name: pins}
        part = path.with_suffix(_PART)
        part.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
        part.replace(path)


def state_of(path: Path, item: ModelFile) -> FileState:
    """Whether a file is what the manifest says."""
    if not path.is_file():
        return FileState.MISSING
    if item.size not in (None, path.stat().st_size):
        return FileState.WRONG_SIZE
    if item.sha256 is None:
        return FileState.UNPINNED
    return FileState.OK if hash_of(path) == item.sha256 else FileState.WRONG_HASH


def hash_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy(source: Path, target: Path, progress: Progress) -> tuple[int, str]:
    digest = hashlib.sha256()
    total = source.stat().st_size
    done = 0
    with source.open("rb") as reading, target.open("wb") as writing:
        while chunk := reading.read(_CHUNK_BYTES):
            digest.update(chunk)
            writing.write(chunk)
            done += len(chunk)
            progress(source.name, done, total)
    return done, digest.hexdigest()
