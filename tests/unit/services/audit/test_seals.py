from __future__ import annotations

from pathlib import Path

import pytest

from services.audit import keys
from services.audit.journal import Journal
from services.audit.keys import KeyFileError
from services.audit.records import Event, chain, parse
from services.audit.sealer import Sealer, SealerError
from services.audit.seals import SealCheck, SealKey, new_key, seal_fields
from services.audit.verify import Chain, Verdict, verify_file, walk
from services.common.clock import ManualClock


def said(text: str) -> Event:
    return Event(type="caller_said", time_unix_ms=1, call_id="c1", fields={"text": text})


class Site:
    """A sealed journal in a folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal.jsonl"
        self.keys = folder / "keys"
        self.clock = ManualClock()

    def open(self, **options: int) -> Journal:
        sealer = Sealer(self.keys, "w", self.clock)
        return Journal(self.path, writer="w", clock=self.clock, sealer=sealer, **options)

    def check(self) -> tuple[Verdict, SealCheck]:
        known = keys.load_verification_keys([self.keys / "verification.key"])
        chain = Chain(seal_check=SealCheck(known))
        for _ in walk(self.path, chain):
            pass
        return chain.verdict(), chain.seals


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_keys_go_forward_only_and_the_same_way_each_time() -> None:
    first = SealKey(0, bytes(32))
    assert first.at(5) == first.next().next().next().next().next()
    assert first.at(3).epoch == 3
    assert len({first.at(number).key for number in range(50)}) == 50
    assert first.key.hex() not in repr(first)


def test_epochs_are_sealed_also_when_nothing_happened(site: Site) -> None:
    journal = site.open()
    for text in ("one", "", "", "two"):
        if text:
            journal.append([said(text)])
        journal.seal()
    journal.close()
    verdict, seals = site.check()
    assert (verdict.ok, verdict.records) == (True, 6)
    assert (seals.checked, seals.unchecked, seals.next_epoch) == (4, 0, 4)


def test_the_key_on_disk_is_that_of_the_running_epoch_and_no_other_is_left(site: Site) -> None:
    journal = site.open()
    journal.append([said("one")])
    first = (site.keys / "seal.key").read_text()
    journal.seal()
    journal.close()
    assert keys.load_seal_key(site.keys / "seal.key").epoch == 1
    everything = b"".join(
        path.read_bytes() for path in site.keys.iterdir() if "veri" not in path.name
    )
    assert first.encode() not in everything
    assert {path.stat().st_mode & 0o777 for path in site.keys.iterdir()} == {0o600}


def test_a_seal_of_another_key_another_count_or_another_epoch_is_found() -> None:
    right = new_key(0)
    check = {"w": {0: right}}
    good = seal_fields(right, writer="w", count=7, head="a" * 64, started_ms=1, ended_ms=2)
    assert SealCheck(check).seal(good, writer="w", count=7, head="a" * 64) == ""
    for wrong, reason in (
        ({"mac": "0" * 64}, "not made with that epoch's key"),
        ({"ended_unix_ms": 3}, "not made with that epoch's key"),
        ({"count": 8}, "made for other records"),
        ({"head": "b" * 64}, "made for other records"),
        ({"epoch": 1}, "epoch 1 where epoch 0 is due"),
        ({"mac": None}, "it is no seal"),
    ):
        found = SealCheck(check, 0).seal({**good, **wrong}, writer="w", count=7, head="a" * 64)
        assert reason in found


def test_without_a_verification_key_seals_are_counted_as_unchecked(site: Site) -> None:
    journal = site.open()
    journal.seal()
    journal.close()
    chain = Chain()
    list(walk(site.path, chain))
    assert (chain.seals.checked, chain.seals.unchecked) == (0, 1)


def test_a_crash_between_the_seal_and_the_next_key_is_made_good(site: Site) -> None:
    journal = site.open()
    before = (site.keys / "seal.key").read_bytes()
    journal.seal()
    journal.close()
    keys.write_private(site.keys / "seal.key", before)
    journal = site.open()
    journal.seal()
    journal.close()
    verdict, seals = site.check()
    assert (verdict.ok, seals.checked) == (True, 2)


def test_sealed_records_cut_off_the_end_stop_the_start(site: Site) -> None:
    journal = site.open()
    journal.append([said("one")])
    journal.seal()
    whole = site.path.read_bytes()
    journal.append([said("two")])
    journal.seal()
    journal.seal()
    journal.close()
    site.path.write_bytes(whole)
    assert verify_file(site.path).ok, "the chain alone cannot show it"
    with pytest.raises(SealerError, match="records were removed from the journal's end"):
        site.open()


def test_an_old_or_missing_key_stops_the_start(site: Site) -> None:
    journal = site.open()
    old = (site.keys / "seal.key").read_bytes()
    for _ in range(3):
        journal.seal()
    journal.close()
    keys.write_private(site.keys / "seal.key", old)
    with pytest.raises(SealerError, match="is an old copy"):
        site.open()
    (site.keys / "seal.key").unlink()
    with pytest.raises(SealerError, match="is missing"):
        site.open()


def test_a_key_file_that_others_can_read_is_refused(site: Site) -> None:
    site.open().close()
    (site.keys / "seal.key").chmod(0o640)
    with pytest.raises(KeyFileError, match=r"can be read by others \(mode 640\)"):
        site.open()


@pytest.mark.parametrize("content", ["", "{}", '{"epoch":0,"key":"00"}', "[1]", '{"epoch":"x"}'])
def test_a_key_file_that_holds_something_else_is_refused(site: Site, content: str) -> None:
    keys.write_private(site.keys / "seal.key", content.encode())
    with pytest.raises(KeyFileError, match="holds no seal key"):
        site.open()


def test_a_new_series_is_checked_with_its_own_key(site: Site) -> None:
    journal = site.open()
    journal.seal()
    journal.close()
    plain = Journal(site.path, writer="w", clock=site.clock)
    announced = Sealer(site.keys, "w", site.clock).rotate(plain.next_epoch)
    plain.append([Event(type="seal_key_rotated", time_unix_ms=1, fields=announced)])
    plain.close()
    journal = site.open()
    journal.seal()
    journal.close()
    verdict, seals = site.check()
    assert (verdict.ok, seals.checked) == (True, 2)
    other = SealCheck({"w": {1: new_key(1)}})
    chain = Chain(seal_check=other)
    list(walk(site.path, chain))
    assert "another than the one announced" in chain.verdict().reason


def test_a_clock_that_goes_back_is_counted_and_breaks_nothing(site: Site) -> None:
    journal = site.open()
    journal.seal()
    site.clock.wall_start_ms -= 3_600_000
    journal.seal()
    journal.close()
    verdict, seals = site.check()
    assert (verdict.ok, seals.clock_set_back) == (True, 1)


def test_a_full_file_ends_with_a_seal_and_the_next_goes_on(site: Site) -> None:
    journal = site.open(segment_bytes=3_000)
    for number in range(40):
        journal.append([said(f"{number} " + "x" * 200)])
        journal.rotate()
    journal.close()
    files = sorted(site.path.parent.glob("journal-*.jsonl"))
    assert len(files) > 2
    for path in files:
        assert parse(path.read_bytes().splitlines(keepends=True)[-1]).event.type == "epoch_sealed"
    journal = site.open(segment_bytes=3_000)
    journal.append([said("after")])
    journal.close()
    verdict, seals = site.check()
    assert verdict.ok
    assert verdict.records == 41 + len(files)
    assert seals.checked == len(files)


def test_retired_files_are_vouched_for_by_the_journal_itself(site: Site) -> None:
    journal = site.open(segment_bytes=2_000)
    for number in range(30):
        journal.append([said(f"{number} " + "x" * 200)])
        journal.rotate()
    files = sorted(site.path.parent.glob("journal-*.jsonl"))
    assert journal.retire(before_unix_ms=0) == 0
    assert journal.retire(before_unix_ms=2**52) == len(files) - 1
    journal.close()
    verdict, seals = site.check()
    assert verdict.ok, verdict.reason
    assert verdict.first > 0
    assert seals.unchecked == 0
    site.open(segment_bytes=2_000).close()
    files[-1].unlink()
    assert "nothing on record says" in verify_file(site.path).reason


def test_a_retirement_that_the_writer_did_not_make_is_not_believed(site: Site) -> None:
    journal = site.open(segment_bytes=1_000)
    for number in range(30):
        journal.append([said(f"{number} " + "x" * 200)])
        journal.rotate()
    files = sorted(site.path.parent.glob("journal-*.jsonl"))
    kept = parse(files[-1].read_bytes().splitlines(keepends=True)[0])
    journal.append([said("last")])
    fields = {"next": kept.sequence, "head": kept.prev, "files": len(files) - 1}
    for forged in (
        fields,
        {**fields, "epoch": journal.next_epoch, "mac": "00" * 32},
        {**fields, "epoch": 0, "mac": "00" * 32},
    ):
        whole = site.path.read_bytes()
        last = parse(whole.splitlines(keepends=True)[-1])
        event = Event(type="segments_retired", time_unix_ms=1, fields=forged)
        made = chain(event, sequence=last.sequence + 1, writer="w", prev=last.hash)
        site.path.write_bytes(whole + made.line())
        for path in files[:-1]:
            path.unlink(missing_ok=True)
        verdict, _ = site.check()
        assert "not to be believed" in verdict.reason
        site.path.write_bytes(whole)
    journal.close()


def test_no_second_seal_while_the_next_key_is_not_on_disk(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = site.open()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("services.audit.sealer.keys.save_seal_key", full)
        for _ in range(3):
            with pytest.raises(OSError, match="No space"):
                journal.seal()
    assert journal.records == 1
    journal.close()  # as after a crash: the journal has the seal, the key is that of before
    journal = site.open()
    journal.seal()
    journal.close()
    verdict, seals = site.check()
    assert (verdict.ok, seals.checked) == (True, 2)
