"""The evidence of a region: log, witness, evidence files, rotation and the attacks on them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from services.audit import attacks, evidence, keys, selftest, verify_evidence, witness
from services.audit.check import Check
from services.audit.journal import Journal
from services.audit.layout import AuditFolder
from services.audit.log import LogError, MerkleLog
from services.audit.merkle import leaf_hash, root_of
from services.audit.notes import open_checkpoint, parse_verifier_key
from services.audit.records import Event
from services.audit.report import Evidence, Kind, Report
from services.audit.rotation import rotate
from services.audit.sealer import Sealer
from services.audit.verify_evidence import EvidenceFailedError
from services.common.clock import ManualClock

ORIGIN = "landline.local/test"
SCRIPT = Path(verify_evidence.__file__)


def said(text: str, call_id: str = "c1") -> Event:
    return Event(type="caller_said", time_unix_ms=1, call_id=call_id, fields={"text": text})


class Region:
    """Writers with their journals, and the log of the first one over all of them."""

    def __init__(self, root: Path, *names: str) -> None:
        self.clock = ManualClock()
        self.folders = [AuditFolder(root / name) for name in names]
        self.journals = [
            Journal(
                folder.journal,
                writer=folder.path.name,
                clock=self.clock,
                fsync=False,
                sealer=Sealer(folder.keys, folder.path.name, self.clock),
                segment_bytes=4_000,
            )
            for folder in self.folders
        ]
        self.log = self.open_log()

    @property
    def first(self) -> AuditFolder:
        return self.folders[0]

    def open_log(self) -> MerkleLog:
        return self.first.open_log(ORIGIN, [folder.path for folder in self.folders[1:]])

    def epoch(self, *texts: str) -> None:
        for journal in self.journals:
            journal.append([said(text) for text in texts])
            journal.seal()
            journal.rotate()
        self.log.update()

    def evidence(self, **options: Any) -> Evidence:
        return Evidence(
            journals=[folder.journal for folder in self.folders],
            log=self.first.log,
            log_key=self.first.verifier,
            seal_key=self.first.seal_key,
            verification_keys=keys.load_verification_keys(
                [folder.verification_key for folder in self.folders]
            ),
            **options,
        )

    def check(self, **options: Any) -> Report:
        return Check(self.evidence(**options)).run()

    def close(self) -> None:
        while self.journals:
            self.journals.pop().close()


@pytest.fixture
def region(tmp_path: Path) -> Iterator[Region]:
    made = Region(tmp_path, "north", "south")
    for number in range(5):
        made.epoch(*(f"{number}.{item} " + "x" * 150 for item in range(9)))
    yield made
    made.close()


def whats(report: Report, kind: Kind = Kind.TAMPERED) -> list[str]:
    return [item.what for item in report.findings if item.kind is kind]


def test_every_record_of_every_writer_is_a_leaf(region: Region) -> None:
    report = region.check()
    assert report.findings == []
    assert report.records == report.leaves_checked == 2 * 5 * 10 + report.seals_checked - 10
    assert (report.seals_unchecked, report.not_under_checkpoint) == (0, 0)
    region.journals[0].append([said("since")])
    assert region.check().not_under_checkpoint == 1
    region.close()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 300)), max_size=6))
def test_the_root_is_that_of_the_leaves_in_their_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int]]
) -> None:
    region = Region(tmp_path_factory.mktemp("region"), "a", "b")
    leaves: list[bytes] = []
    for writer, count in steps:
        records = region.journals[writer].append([said(str(number)) for number in range(count)])
        leaves += [leaf_hash(record.line()[:-77] + b"}") for record in records]
        region.log = region.open_log()  # what is on disk is enough to go on
        checkpoint = region.log.update()
        assert (checkpoint.size, checkpoint.root) == (len(leaves), root_of(leaves))
    region.close()
    assert whats(region.check()) == []


def test_a_check_goes_on_from_the_state_of_the_one_before(region: Region) -> None:
    first = Check(region.evidence())
    assert first.run().ok
    state = json.loads(json.dumps(first.state()))
    region.epoch("new", "newer")
    region.journals[0].append([said("not logged yet")])
    second = Check(region.evidence(), state=state)
    report = second.run()
    assert report.findings == []
    assert report.records_checked == 2 * 3 + 1
    assert report.leaves_checked == 2 * 3
    third = Check(region.evidence(), state=json.loads(json.dumps(second.state()))).run()
    assert (third.findings, third.records_checked) == ([], 0)
    region.epoch("later")
    last = Check(region.evidence(), state=json.loads(json.dumps(second.state()))).run()
    assert (last.findings, last.records_checked) == ([], 4)
    region.close()


def test_the_state_of_a_check_shows_a_rollback_by_itself(region: Region, tmp_path: Path) -> None:
    shutil.copytree(region.first.path.parent, tmp_path / "copy")
    region.epoch("new")
    region.close()
    checking = Check(region.evidence())
    assert checking.run().ok
    for name in ("north", "south"):
        shutil.rmtree(tmp_path / name)
        shutil.copytree(tmp_path / "copy" / name, tmp_path / name)
    assert region.check().ok
    assert whats(Check(region.evidence(), state=checking.state()).run())


def test_a_log_that_was_lost_is_built_again(region: Region) -> None:
    public = region.first.verifier.read_text()
    shutil.rmtree(region.first.log)
    region.first.log.mkdir()
    region.first.verifier.write_text(public)
    region.log = region.open_log()
    region.log.update()
    assert region.check().findings == []
    region.close()


def test_a_log_whose_tiles_were_changed_is_not_continued(region: Region) -> None:
    attacks.edit_tile(attacks.Site(region.first.path.parent, Path(), ORIGIN, first_name="north"))
    with pytest.raises(LogError, match="its tiles do not give the root"):
        region.open_log()
    region.close()


def test_nothing_broken_comes_under_a_checkpoint(region: Region) -> None:
    before = region.log.update()
    path = region.first.journal
    region.journals[0].append([said("edit me")])
    path.write_bytes(path.read_bytes().replace(b"edit me", b"edited!"))
    with pytest.raises(LogError, match="its hash does not fit"):
        region.log.update()
    path.write_bytes(path.read_bytes().replace(b"edited!", b"edit me"))
    assert region.log.update().size == before.size + 1
    region.close()


def test_a_line_that_is_being_written_is_left_for_the_next_time(region: Region) -> None:
    before = region.log.update().size
    region.journals[0].append([said("one")])
    path = region.first.journal
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert region.log.update().size == before
    path.write_bytes(whole)
    assert region.log.update().size == before + 1
    region.close()


def test_two_writers_with_one_name_are_refused_and_found(tmp_path: Path) -> None:
    region = Region(tmp_path, "north", "other/north")
    for number, journal in enumerate(region.journals):
        journal.append([said(str(number))])
    with pytest.raises(LogError, match="both written by 'north'"):
        region.log.update()
    assert any("another journal" in what for what in whats(region.check()))
    region.close()


def test_leaves_of_retired_records_stay_in_the_log(region: Region) -> None:
    assert region.journals[0].retire(2**52) > 0
    region.log.update()
    report = region.check()
    assert report.findings == []
    assert report.journals[0]["first"] > 0
    assert report.leaves_checked == report.checkpoint.size  # type: ignore[union-attr]
    region.close()


def test_a_witness_follows_and_refuses_what_goes_back(region: Region, tmp_path: Path) -> None:
    state = tmp_path / "witness.json"
    key = Ed25519PrivateKey.generate()
    for text in ("one", "two"):
        seen = witness.visit(
            region.first.log, witness.load(state), log_key=None, time_s=1, name="tower", key=key
        )
        witness.save(state, seen)
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(region.first.path, tmp_path / "copy")
        region.epoch(text)
    region.close()
    assert region.check(witnesses=[witness.witnessed(state)]).findings == []
    assert region.check(witnesses=[witness.printed(seen.checkpoint.short())]).findings == []
    newest = witness.visit(region.first.log, witness.load(state), log_key=None, time_s=2)
    with pytest.raises(witness.RolledBackError, match="it was rolled back"):
        witness.visit(tmp_path / "copy/log", newest, log_key=None, time_s=3)
    stranger = Region(tmp_path / "else", "north")
    stranger.epoch(*map(str, range(200)))
    stranger.close()
    with pytest.raises(witness.RolledBackError, match="no good signature"):
        witness.visit(stranger.first.log, newest, log_key=None, time_s=3)


def test_a_witness_finds_a_history_made_anew_with_the_same_key(
    region: Region, tmp_path: Path
) -> None:
    seen = witness.visit(region.first.log, None, log_key=None, time_s=1)
    other = Region(tmp_path / "else", "north")
    other.close()
    shutil.copytree(region.first.keys, tmp_path / "else/north/keys", dirs_exist_ok=True)
    other = Region.__new__(Region)
    other.folders = [AuditFolder(tmp_path / "else/north")]
    plain = Journal(other.first.journal, writer="north", clock=ManualClock(), fsync=False)
    plain.append([said(str(number)) for number in range(300)])
    plain.close()
    other.open_log().update()
    region.close()
    with pytest.raises(witness.RolledBackError, match="do not contain the"):
        witness.visit(other.first.log, seen, log_key=None, time_s=2)


def test_a_witness_s_state_that_was_changed_is_refused(region: Region, tmp_path: Path) -> None:
    state = tmp_path / "witness.json"
    witness.save(state, witness.visit(region.first.log, None, log_key=None, time_s=1))
    region.close()
    data = json.loads(state.read_text())
    data["note"] = data["note"].replace("\n1", "\n2", 1)
    state.write_text(json.dumps(data))
    with pytest.raises(witness.WitnessError, match="is no witness's state"):
        witness.load(state)


def test_keys_are_rotated_on_record_and_both_series_stay_verifiable(region: Region) -> None:
    region.close()
    old = parse_verifier_key(region.first.verifier.read_text())
    before = keys.load_verification_keys([region.first.verification_key])["north"]
    new = rotate(
        region.first,
        writer="north",
        origin=ORIGIN,
        also=[region.folders[1].path],
        clock=region.clock,
    )
    after = keys.load_verification_keys([region.first.verification_key])["north"]
    assert set(before) < set(after)
    note = (region.first.log / "checkpoint").read_text()
    assert open_checkpoint(note, new).origin == ORIGIN
    assert new != old
    journal = Journal(
        region.first.journal,
        writer="north",
        clock=region.clock,
        sealer=Sealer(region.first.keys, "north", region.clock),
    )
    journal.seal()
    journal.close()
    report = region.check()
    assert report.findings == []
    assert report.seals_unchecked == 0
    assert whats(region.check(verifier=old)) == [
        f"the checkpoint carries no good signature of {ORIGIN}"
    ]


def run_script(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The script as an outsider runs it: no packages, no environment."""
    command = [sys.executable, "-I", "-S", str(SCRIPT), str(path), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_call_s_evidence_is_verified_by_a_script_without_packages(
    region: Region, tmp_path: Path
) -> None:
    region.journals[1].append(
        [
            Event(type="call_started", time_unix_ms=1, call_id="c9", fields={"caller": "Zoë 😀"}),
            said("secret of another", "c8"),
            Event(type="call_ended", time_unix_ms=2, call_id="c9", fields={"x": 1e21}),
        ]
    )
    journals = [folder.journal for folder in region.folders]
    with pytest.raises(evidence.EvidenceError, match="not under a checkpoint yet"):
        evidence.collect(journals, region.first.log, "c9")
    region.log.update()
    with pytest.raises(evidence.EvidenceError, match="no call c7"):
        evidence.collect(journals, region.first.log, "c7")
    found = evidence.collect(journals, region.first.log, "c9")
    region.close()
    file = tmp_path / "c9.json"
    file.write_text(json.dumps(found))
    assert "secret" not in file.read_text()
    done = run_script(file, "--key", region.first.verifier.read_text().strip())
    assert done.returncode == 0, done.stderr
    assert "HOLDS: 2 records of call c9, from its start to its end" in done.stdout
    assert "Cannot show: that the writer recorded what really happened" in done.stdout
    stranger = str(parse_verifier_key(region.first.verifier.read_text()))
    assert run_script(file, "--key", stranger.replace("test", "tset")).returncode == 3
    file.write_text(json.dumps({**found, "cannot_show": ["\x1b[2Jnothing"]}))
    done = run_script(file)
    assert "Cannot show: that no other record" in done.stdout
    assert "\x1b" not in done.stdout, "what cannot be shown is not the file's to say"
    file.write_text('{"format":"landline-evidence-1","verifier_key":1}')
    assert run_script(file).returncode == 1
    file.write_text("{}")
    assert run_script(file).returncode == 1


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_byte_of_the_evidence_can_be_changed(
    collected: dict[str, Any], data: st.DataObject
) -> None:
    changed = json.loads(json.dumps(collected))
    item = changed["records"][data.draw(st.integers(0, len(changed["records"]) - 1))]
    which = data.draw(st.sampled_from(["line", "proof", "leaf", "drop"]))
    if which == "line":
        at = data.draw(st.integers(0, len(item["line"]) - 1))
        new = data.draw(st.characters(min_codepoint=32, max_codepoint=126))
        item["line"] = item["line"][:at] + new + item["line"][at + 1 :]
    elif which == "proof":
        item["proof"].pop(data.draw(st.integers(0, len(item["proof"]) - 1)))
    elif which == "leaf":
        item["leaf"] += data.draw(st.integers(-3, 3))
    else:
        changed["records"].reverse()
    if changed == collected:
        return
    with pytest.raises((EvidenceFailedError, ValueError, KeyError)):
        verify_evidence.check(changed)


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    region = Region(tmp_path_factory.mktemp("evidence"), "north")
    region.epoch(*(str(number) for number in range(20)))
    region.close()
    return evidence.collect([region.first.journal], region.first.log, "c1")


def test_all_attacks_are_found_and_the_untouched_copy_passes() -> None:
    result = selftest.run()
    missed = [item for item in result.attacks if item.detected != item.expected]
    assert missed == []
    assert result.untouched_passes
    assert result.passed
    assert result.detected == result.classes >= 12


def test_the_attacks_are_tried_on_what_is_on_record(region: Region) -> None:
    region.close()
    before = {path: path.read_bytes() for path in region.first.path.rglob("*") if path.is_file()}
    assert selftest.run(region.first.journal).passed
    assert before == {path: path.read_bytes() for path in before}


def test_what_cannot_be_found_is_said(region: Region) -> None:
    region.close()
    said_without = " ".join(region.check().cannot_detect)
    for words in ("rollback", "lying writer", "beside the log", "after the last seal"):
        assert words in said_without
    bare = Check(Evidence(journals=[region.first.journal])).run()
    assert "no seal was checked" in " ".join(bare.cannot_detect)
