from __future__ import annotations

import resource
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from services.audit.journal import Journal, JournalError
from services.audit.records import GENESIS, Event, RecordError, chain, parse
from services.audit.verify import verify_file, verify_lines
from services.common.clock import ManualClock

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=6,
)
events = st.builds(
    Event,
    type=st.sampled_from(["call_started", "caller_said", "agent_said"]),
    time_unix_ms=st.integers(0, 2**52),
    call_id=st.sampled_from(["", "c1", "c2"]),
    fields=st.dictionaries(st.text("xyz", min_size=1), json_values, max_size=3),
)


def open_journal(path: Path, **options: Any) -> Journal:
    return Journal(path, writer="w", clock=ManualClock(), **options)


def lines_of(items: list[Event]) -> list[bytes]:
    prev, lines = GENESIS, []
    for sequence, event in enumerate(items):
        record = chain(event, sequence=sequence, writer="w", prev=prev)
        lines.append(record.line())
        prev = record.hash
    return lines


def said(text: str) -> Event:
    return Event(type="caller_said", time_unix_ms=1, call_id="c1", fields={"text": text})


@given(st.lists(events, max_size=8))
def test_what_is_written_is_verified_and_read_again(items: list[Event]) -> None:
    lines = lines_of(items)
    verdict = verify_lines(lines)
    assert verdict.ok
    assert verdict.records == len(items)
    assert [parse(line).event.type for line in lines] == [event.type for event in items]


@given(st.lists(events, min_size=1, max_size=5), st.data())
def test_any_changed_byte_is_detected(items: list[Event], data: st.DataObject) -> None:
    whole = bytearray(b"".join(lines_of(items)))
    at = data.draw(st.integers(0, len(whole) - 1))
    new = data.draw(st.integers(0, 255))
    assume(new != whole[at])
    whole[at] = new
    assert not verify_lines(bytes(whole).splitlines(keepends=True)).ok


@given(st.lists(events, min_size=2, max_size=6), st.data())
def test_removed_repeated_and_moved_records_are_detected(
    items: list[Event], data: st.DataObject
) -> None:
    lines = lines_of(items)
    at = data.draw(st.integers(0, len(lines) - 2))
    assert not verify_lines(lines[:at] + lines[at + 1 :]).ok
    assert not verify_lines([*lines[: at + 1], *lines[at:]]).ok
    swapped = lines.copy()
    swapped[at], swapped[at + 1] = swapped[at + 1], swapped[at]
    assert not verify_lines(swapped).ok


def test_a_record_that_json_cannot_hold_is_refused() -> None:
    for value in (float("nan"), 2**60, "\ud800"):
        with pytest.raises(RecordError):
            chain(said(value), sequence=0, writer="w", prev=GENESIS)  # type: ignore[arg-type]


def test_a_journal_goes_on_where_it_was_closed(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    for text in ("one", "two"):
        journal = open_journal(path)
        journal.append([said(text)])
        journal.close()
    verdict = verify_file(path)
    assert (verdict.ok, verdict.records) == (True, 2)


def test_one_journal_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = open_journal(path)
    with pytest.raises(JournalError, match="another process writes this journal"):
        open_journal(path)
    journal.close()
    open_journal(path).close()


def test_a_torn_last_line_is_set_aside_and_recorded(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = open_journal(path)
    journal.append([said("one"), said("two")])
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    journal = open_journal(path)
    journal.append([said("three")])
    journal.close()
    assert verify_file(path).ok
    texts = [parse(line).event for line in path.read_bytes().splitlines(keepends=True)]
    assert [event.type for event in texts] == ["caller_said", "journal_recovered", "caller_said"]
    (aside,) = tmp_path.glob("*.torn-*")
    assert whole.endswith(aside.read_bytes() + whole[-7:])


def test_other_damage_stops_the_start_and_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = open_journal(path)
    journal.append([said("one"), said("two")])
    journal.close()
    damaged = path.read_bytes().replace(b"one", b"uno")
    path.write_bytes(damaged)
    with pytest.raises(JournalError, match="damaged at line 1: its hash does not fit"):
        open_journal(path)
    assert path.read_bytes() == damaged


def test_a_full_disk_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = open_journal(path)
    journal.append([said("one")])
    size = path.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, limits[1]))
    try:
        with pytest.raises(JournalError, match=r"cannot write .*free space"):
            journal.append([said("two" * 200)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    journal.append([said("three")])
    journal.close()
    verdict = verify_file(path)
    assert (verdict.ok, verdict.records) == (True, 2)
