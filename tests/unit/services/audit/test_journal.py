from __future__ import annotations

import errno
import hashlib
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import assume, given
from hypothesis import strategies as st

from services.audit import reader
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


def v1_lines(count: int) -> list[bytes]:
    """Lines as the first version wrote them."""
    prev, lines = GENESIS, []
    for number in range(count):
        body = {
            "v": 1, "seq": number, "writer": "w", "prev": prev, "call_id": "c1",
            "type": "caller_said", "time_unix_ms": 1, "fields": {"text": str(number)},
        }  # fmt: skip
        prev = hashlib.sha256(rfc8785.dumps(body)).hexdigest()
        lines.append(rfc8785.dumps({**body, "hash": prev}) + b"\n")
    return lines


def test_a_journal_of_the_first_version_is_verified_and_continued(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"".join(v1_lines(3)))
    assert (verify_file(path).ok, verify_file(path).records) == (True, 3)
    journal = open_journal(path)
    journal.append([said("new")])
    journal.close()
    verdict = verify_file(path)
    assert (verdict.ok, verdict.records) == (True, 4)
    assert [event.fields["text"] for event in reader.events(path)] == ["0", "1", "2", "new"]
    old = tmp_path / "journal-000000000000.jsonl"
    old.write_bytes(old.read_bytes().replace(b'"text":"1"', b'"text":"9"'))
    verdict = verify_file(path)
    assert (verdict.ok, verdict.line, verdict.file) == (False, 2, old.name)


@given(st.data())
def test_any_changed_byte_of_the_first_version_is_detected(data: st.DataObject) -> None:
    whole = bytearray(b"".join(v1_lines(3)))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    assert not verify_lines(bytes(whole).splitlines(keepends=True)).ok


def test_a_journal_of_a_later_version_is_refused_and_not_called_tampered(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"new":"form","v":3}\n{"new":"form","v":3}\n')
    verdict = verify_file(path)
    assert (verdict.ok, verdict.future) == (False, True)
    with pytest.raises(JournalError, match="written by a later Landline; this one reads up to"):
        open_journal(path)
    lines = lines_of([said("one"), said("two")])
    verdict = verify_lines([lines[0], b'{"new":"form","v":3}\n'])
    assert (verdict.ok, verdict.future) == (False, False), "in the middle it is an attempt to hide"


def test_another_writer_s_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = open_journal(path)
    journal.append([said("one")])
    journal.close()
    with pytest.raises(JournalError, match="belongs to the writer 'w', not to 'x'"):
        Journal(path, writer="x", clock=ManualClock())


def test_writing_stops_before_the_disk_is_full(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "journal.jsonl", min_free_bytes=1 << 60)
    with pytest.raises(JournalError, match=r"less than the .* of audit\.min_free_mb"):
        journal.check_space()
    journal.close()
    journal = open_journal(tmp_path / "journal.jsonl", max_bytes=500)
    journal.check_space()
    journal.append([said("x" * 500)])
    with pytest.raises(JournalError, match=r"as much as audit\.max_mb allows"):
        journal.check_space()
    journal.close()


def test_what_gates_is_synced_even_where_the_rest_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = open_journal(tmp_path / "journal.jsonl", fsync=False)
    synced: list[int] = []
    monkeypatch.setattr("services.audit.journal.os.fsync", synced.append)
    journal.append([said("one")])
    assert not synced
    for type_ in ("consent_given", "disclosure_heard", "do_not_call_decided", "dtmf_paused"):
        journal.append([said("two"), Event(type=type_, time_unix_ms=1)])
    assert len(synced) == 4
    journal.close()


def test_ids_are_remembered_over_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = open_journal(path)
    journal.append([Event(type="caller_said", time_unix_ms=1, id="a-1")])
    assert journal.has("a-1")
    journal.close()
    journal = open_journal(path)
    assert journal.has("a-1")
    assert not journal.has("a-2")
    journal.close()


def test_a_hole_of_zeros_left_by_a_crash_is_never_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = open_journal(path)
    journal.append([said("one"), said("two"), said("three")])
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(300))
    journal = open_journal(path)  # an unfinished line of zeros: set aside like any other
    journal.close()
    assert bytes(300) == next(tmp_path.glob("*.torn-*")).read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(lines[0] + bytes(len(lines[1])) + lines[2])
    with pytest.raises(JournalError, match="damaged at line 2"):
        open_journal(path)


def test_an_id_inside_of_an_event_s_fields_is_not_taken_for_its_own(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = open_journal(path)
    fields = {"inner": {"a": 1, "id": "other", "seq": 3}, "text": ',"id":"text","seq":'}
    journal.append([Event(type="caller_said", time_unix_ms=1, fields=fields)])
    journal.append([Event(type="caller_said", time_unix_ms=1, fields=fields, id="own")])
    journal.close()
    journal = open_journal(path)
    assert [journal.has(name) for name in ("own", "other", "text")] == [True, False, False]
    journal.close()


@pytest.mark.parametrize("fsync", [True, False])
def test_what_could_not_be_synced_is_in_the_journal_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, fsync: bool
) -> None:
    path = tmp_path / "journal.jsonl"
    journal = open_journal(path, fsync=fsync)
    journal.append([said("one")])

    def fail(_file: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr("services.audit.journal.os.fsync", fail)
        with pytest.raises(JournalError, match="Input/output error"):
            journal.append([Event(type="call_started", time_unix_ms=1)])
    if fsync:
        journal.append([said("two")])
    else:  # "one" was acknowledged before it was on disk: only reading it again can tell
        with pytest.raises(JournalError, match="may have lost records"):
            journal.append([said("two")])
    journal.close()
    assert [event.fields for event in reader.events(path)] == (
        [{"text": "one"}, {"text": "two"}] if fsync else [{"text": "one"}]
    )


def test_a_crash_before_the_torn_line_is_put_on_record_is_made_good(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = open_journal(path)
    journal.append([said("one")])
    journal.close()
    path.with_suffix(".torn-1").write_bytes(b"half a line")  # set aside, and then the power went
    open_journal(path).close()
    open_journal(path).close()
    types = [event.type for event in reader.events(path)]
    assert types == ["caller_said", "journal_recovered"]


def test_a_journal_that_was_moved_away_is_not_written_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = open_journal(path)
    journal.append([said("one")])
    path.rename(tmp_path / "away")
    with pytest.raises(JournalError, match="cannot be seen"):
        journal.check_space()
    path.write_bytes(b"")
    with pytest.raises(JournalError, match="was replaced by another file"):
        journal.check_space()
    with pytest.raises(JournalError, match="was replaced by another file"):
        journal.append([said("two")])
    journal.close()
