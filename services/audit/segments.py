"""Where a journal lies: the file being written, and the ones that were full before it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of a journal. `first` is the number of its first record; None: the live file."""

    first: int | None
    path: Path


def closed(live: Path) -> list[Segment]:
    """The full files of the journal whose live file is `live`, the oldest first."""
    found = live.parent.glob(f"{live.stem}-{'[0-9]' * _DIGITS}{live.suffix}")
    return [Segment(int(path.stem[-_DIGITS:]), path) for path in sorted(found)]


def all_of(live: Path) -> list[Segment]:
    """Every file of the journal in order, the live one last, if it is there."""
    return [*closed(live), *([Segment(None, live)] if live.exists() else [])]


def opened(live: Path) -> Iterator[tuple[Segment, BinaryIO]]:
    """Every file of the journal in order, open for reading, the live one last, if it is there.

    The journal may be rotated meanwhile: whatever the live file has become is read in its place.
    FileNotFoundError when a file in the middle is retired before its turn.
    """
    done = -1
    while True:
        last = _open(live)
        new = [
            segment
            for segment in closed(live)
            if segment.first is not None and segment.first > done
        ]
        if not new:  # opened before the look at the names, so that nothing lies between the two
            if last is not None:
                with last:
                    yield Segment(None, live), last
            return
        if last is not None:
            last.close()
        for segment in new:
            file = _open(segment.path)
            if file is None:
                if done < 0:
                    continue
                raise FileNotFoundError(2, "it was retired meanwhile", str(segment.path))
            with file:
                yield segment, file
            done = segment.first or 0


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def closed_path(live: Path, first: int) -> Path:
    """What the live file is called once it is full and its first record has this number."""
    return live.with_name(f"{live.stem}-{first:0{_DIGITS}d}{live.suffix}")


def last_line(path: Path) -> bytes:
    """The last line of a file; empty for an empty file. Whole lines of any length."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        data = b""
        while end > 0 and data.count(b"\n", 0, -1) == 0:
            step = min(end, 65_536)
            end -= step
            file.seek(end)
            data = file.read(step) + data
    return data.splitlines(keepends=True)[-1] if data else b""


def sync_folder(folder: Path) -> None:
    """Make names in the folder durable: a rename is on disk only after this."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace a file: at any time the old one is there or the new one, which is then on disk."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)  # a crash's, or somebody's link to another place
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)
