"""What reading a journal and its log must bear: hostile lines, and writers who go on meanwhile."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import rfc8785

from services.audit import reader, segments, verify, witness
from services.audit.chain import Chain
from services.audit.check import Check
from services.audit.journal import Journal
from services.audit.log import LogError
from services.audit.notes import Checkpoint, sign
from services.audit.records import GENESIS, Event, RecordError, chain, parse
from services.audit.report import Kind, load_check_state
from services.audit.seals import SealCheck
from services.audit.tiles import Tiles, tile_path
from services.audit.verify import verify_file, verify_lines, walk
from services.common.clock import ManualClock
from tests.unit.services.audit.test_check import ORIGIN, Region, said, whats


@pytest.fixture
def region(tmp_path: Path) -> Iterator[Region]:
    made = Region(tmp_path, "north", "south")
    for number in range(4):
        made.epoch(*(f"{number}.{item} " + "x" * 150 for item in range(9)))
    yield made
    made.close()


def v1_lines(count: int, text: str = "") -> list[bytes]:
    prev, lines = GENESIS, []
    for number in range(count):
        body = {
            "v": 1, "seq": number, "writer": "north", "prev": prev, "call_id": "c1",
            "type": "caller_said", "time_unix_ms": 1, "fields": {"text": f"{number}{text}"},
        }  # fmt: skip
        prev = hashlib.sha256(rfc8785.dumps(body)).hexdigest()
        lines.append(rfc8785.dumps({**body, "hash": prev}) + b"\n")
    return lines


def line(fields: object = None) -> bytes:
    event = Event(type="caller_said", time_unix_ms=1, fields=fields or {})  # type: ignore[arg-type]
    return chain(event, sequence=0, writer="w", prev=GENESIS).line()


@pytest.mark.parametrize(
    "hostile",
    [
        line().replace(b'"seq":', b'"seq":' + b"9" * 400),
        line().replace(b'"fields":{}', b'"fields":{"a":' + b"[" * 99_999 + b"]" * 99_999 + b"}"),
        line([1]),
        line().replace(b'"seq":0', b'"seq":' + b"1" * 5_000),
    ],
    ids=["beyond a double", "too deep", "fields are a list", "too long a number"],
)
def test_a_hostile_line_is_a_break_and_no_crash(hostile: bytes) -> None:
    assert not verify_lines([hostile]).ok
    with pytest.raises(RecordError):
        parse(hostile)


def test_a_journal_that_is_rotated_while_it_is_read_is_read_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "_BLOCK_BYTES", 500)
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, writer="w", clock=ManualClock(), fsync=False, segment_bytes=1_000)
    journal.append([said("x" * 300) for _ in range(5)])
    journal.rotate()
    journal.append([said("y" * 300) for _ in range(5)])
    found = Chain()
    blocks = walk(path, found)
    next(blocks)
    journal.rotate()
    journal.append([said("z" * 300)])
    for _ in blocks:
        pass
    journal.close()
    assert (found.verdict().ok, found.sequence) == (True, 11)
    assert len(list(reader.events(path))) == 11


def test_seals_made_during_a_check_are_no_alarm(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    checking = Check(region.evidence())
    conclude = checking._conclude

    def sealed_meanwhile(*arguments: object) -> None:
        region.epoch("meanwhile")
        region.epoch("meanwhile")
        conclude(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(checking, "_conclude", sealed_meanwhile)
    assert checking.run().findings == []


def test_a_tile_that_grew_meanwhile_serves_the_older_tree(region: Region) -> None:
    size = region.log.size
    before = Tiles(region.first.log).edges(size)
    region.epoch("more")
    assert not (region.first.log / tile_path(0, 0, size % 256)).exists()
    assert Tiles(region.first.log).edges(size) == before
    grown = region.first.log / tile_path(0, 0, region.log.size)
    grown.write_bytes(grown.read_bytes() + bytes(32))
    assert any("is not whole" in what for what in whats(region.check()))


def test_a_check_goes_on_where_the_file_it_stood_in_was_retired(region: Region) -> None:
    first = Check(region.evidence())
    assert first.run().ok
    for number in range(3):
        region.epoch(*(f"{number} " + "y" * 600 for _ in range(8)))
    assert region.journals[0].retire(2**52) > 0
    region.epoch("since")
    report = Check(region.evidence(), state=json.loads(json.dumps(first.state()))).run()
    assert report.findings == []
    region.close()
    segments.closed(region.first.journal)[0].path.unlink()
    report = Check(region.evidence(), state=json.loads(json.dumps(first.state()))).run()
    assert any("nothing on record says" in what for what in whats(report))


def test_a_long_journal_of_the_first_version_is_continued_under_a_log(tmp_path: Path) -> None:
    (tmp_path / "north").mkdir()
    (tmp_path / "north/journal.jsonl").write_bytes(b"".join(v1_lines(800, "x" * 3_000)))
    region = Region(tmp_path, "north")
    region.epoch("new")
    report = region.check()
    region.close()
    assert report.findings == []
    assert report.leaves_checked == 2


def test_a_torn_last_line_of_the_first_version_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"".join(v1_lines(3))[:-9])
    Journal(path, writer="north", clock=ManualClock()).close()
    verdict = verify_file(path)
    assert (verdict.ok, verdict.records) == (True, 3), verdict.reason
    assert [event.type for event in reader.events(path)][-1] == "journal_recovered"


def test_history_cannot_begin_in_the_middle_of_the_seals() -> None:
    found = SealCheck(next_epoch=0)
    fields = {"epoch": 5, "mac": "00", "ended_unix_ms": 1, "count": 0, "head": GENESIS}
    assert "epoch 5 where epoch 0 is due" in found.seal(fields, writer="w", count=0, head=GENESIS)


def test_a_witness_of_just_the_size_of_the_state_is_compared(region: Region) -> None:
    first = Check(region.evidence())
    seen = first.run().checkpoint
    assert seen is not None
    region.epoch("more")
    state = json.loads(json.dumps(first.state()))
    for root, expected in ((seen.root, []), (bytes(32), ["its root over"])):
        held = witness.Witnessed(where="tower", size=seen.size, root=root)
        found = whats(Check(region.evidence(witnesses=[held]), state=state).run())
        assert [what[:13] for what in found] == expected
    stranger = witness.Witnessed(where="x", size=seen.size, root=seen.root, origin="another")
    report = region.check(witnesses=[stranger])
    assert whats(report, Kind.ERROR) == [f"it has seen the log another, this one is {ORIGIN}"]


def test_a_checkpoint_of_another_log_is_found(region: Region) -> None:
    folder = region.first
    seen = witness.visit(folder.log, None, log_key=None, time_s=1).checkpoint
    key = folder.load_signing_key(ORIGIN)
    text = Checkpoint("another", seen.size, seen.root).text()
    line = sign(seen, key).splitlines()[-1]
    (folder.log / "checkpoint").write_text(f"{text}\n{line}\n")
    assert any("no good signature" in what for what in whats(region.check()))


@pytest.mark.parametrize("run", ['[0,"a","north",0]', "[0,-5,7,0]", '[0.5,1,"north",0]', "{}"])
def test_an_index_of_something_else_is_found(region: Region, run: str) -> None:
    (region.first.log / "index.jsonl").write_text(run + "\n")
    assert any("cannot be read" in what for what in whats(region.check()))


def test_a_state_or_a_journal_that_is_not_there_is_said_and_no_crash(
    region: Region, tmp_path: Path
) -> None:
    state = tmp_path / "state.json"
    state.write_text('{"version":1}')
    with pytest.raises(LogError, match="no earlier check's"):
        Check(region.evidence(), state=load_check_state(state))
    region.close()
    for path in region.folders[1].path.glob("journal*.jsonl"):
        path.unlink()
    found = whats(region.check(), Kind.ERROR)
    assert "cannot be read: there is no journal" in found


def test_a_log_is_not_begun_anew_unseen(region: Region) -> None:
    region.close()
    state = region.first.log / "state.json"
    kept = state.read_bytes()
    state.unlink()
    with pytest.raises(LogError, match=r"its state\.json is gone"):
        region.open_log()
    state.write_bytes(kept)
    with pytest.raises(LogError, match=f"set audit.log_name to {ORIGIN}"):
        region.first.open_log("landline.local/renamed", [region.folders[1].path])
    region.first.verifier.unlink()  # a crash came before it was published
    region.open_log()
    assert region.check().findings == []


def test_bytes_that_a_disk_may_still_lose_do_not_come_under_a_checkpoint(region: Region) -> None:
    end = region.journals[0].sync()
    before = region.log.update(end).size
    region.journals[0].append([said("not synced")])
    assert region.log.update(end).size == before
    assert region.log.update(region.journals[0].sync()).size == before + 1


def test_a_torn_line_in_a_full_file_is_told_by_the_log(region: Region) -> None:
    region.journals[0].append([said("x" * 5_000)])
    region.journals[0].rotate()
    full = segments.closed(region.first.journal)[-1].path
    with full.open("ab") as file:
        file.write(b"x")
    with pytest.raises(LogError, match="the last line is torn"):
        region.log.update()
