"""What an attacker who can write every file may do to a log, from the clumsy to the thorough.

The thorough one recomputes every hash that he can, and signs with the keys that he finds on the
machine; he does not have the verification key, nor what a witness holds.
"""

from __future__ import annotations

import base64
import json
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.audit import evidence, keys, segments, verify_evidence
from services.audit.chain import RETIRED
from services.audit.layout import AuditFolder
from services.audit.merkle import Tree, leaf_hash
from services.audit.notes import Checkpoint, parse_checkpoint, sign
from services.audit.records import GENESIS, TAIL_BYTES, Event, Record, chain, parse
from services.audit.report import Witnessed
from services.audit.seals import SEAL, SealKey, retirement_fields, seal_fields
from services.audit.tiles import Tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Site:
    """A copy to attack: two writers, `first` and `second`; the log is the first one's."""

    root: Path
    earlier: Path
    origin: str
    first_name: str = "first"

    @property
    def first(self) -> AuditFolder:
        return AuditFolder(self.root / self.first_name)

    @property
    def second(self) -> AuditFolder:
        return AuditFolder(self.root / "second")

    def files(self) -> list[Path]:
        """The first writer's files, the oldest first."""
        return [segment.path for segment in segments.all_of(self.first.journal)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One class of tampering. `why_hidden` is set for what cannot be found."""

    name: str
    do: Callable[[Site], None]
    witness: bool = False
    why_hidden: str = ""


def seen(checkpoint: Checkpoint) -> Witnessed:
    """What a witness keeps of a checkpoint."""
    return Witnessed(where="the witness", size=checkpoint.size, root=checkpoint.root)


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def _edit_text(event: Event) -> Event:
    return replace(event, fields={**event.fields, "text": "I never said so"})


def _records(files: Sequence[Path]) -> list[list[Record]]:
    return [[parse(line) for line in _lines(path)] for path in files]


def _rechain(site: Site, change: Callable[[list[Event]], list[Event]]) -> None:
    """Change the events of the oldest file and recompute every hash and number after it."""
    files = site.files()
    contents = [[record.event for record in part] for part in _records(files)]
    contents[0] = change(contents[0])
    _write_chained(site, contents)


def _write_chained(site: Site, contents: Sequence[Sequence[Event]], writer: str = "first") -> None:
    files, sequence, head = site.files(), 0, GENESIS
    firsts = []
    for path, part in zip(files, contents, strict=True):
        firsts.append(sequence)
        lines = []
        for event in part:
            record = chain(event, sequence=sequence, writer=writer, prev=head)
            lines.append(record.line())
            sequence, head = sequence + 1, record.hash
        path.write_bytes(b"".join(lines))
    for path, first in zip(files[:-1], firsts[:-1], strict=True):
        path.rename(path.with_name(f"moved-{first}"))
    for first in firsts[:-1]:
        moved = site.first.path / f"moved-{first}"
        moved.rename(segments.closed_path(site.first.journal, first))


def _reseal(site: Site, key: SealKey) -> None:
    """Make every seal anew with keys that descend from this one."""
    contents = [[record.event for record in part] for part in _records(site.files())]
    sequence, head = 0, GENESIS
    for part in contents:
        for number, event in enumerate(part):
            if event.type == SEAL:
                fields = seal_fields(
                    key if event.fields["epoch"] < key.epoch else key.at(event.fields["epoch"]),
                    writer="first",
                    count=sequence,
                    head=head,
                    started_ms=event.fields["started_unix_ms"],
                    ended_ms=event.fields["ended_unix_ms"],
                )
                fields["epoch"] = event.fields["epoch"]
                part[number] = replace(event, fields=fields)
            record = chain(part[number], sequence=sequence, writer="first", prev=head)
            sequence, head = sequence + 1, record.hash
    _write_chained(site, contents)


def _relog(site: Site) -> None:
    """Make the log anew, checking nothing, and sign it with the stolen key."""
    folder = site.first
    shutil.rmtree(folder.log / "tile")
    tiles, index = Tiles(folder.log), b""
    tree = Tree(tiles.write)
    for live in (folder.journal, site.second.journal):
        lines = [line for segment in segments.all_of(live) for line in _lines(segment.path)]
        first = parse(lines[0])
        run = [tree.size, len(lines), first.writer, first.sequence]
        index += json.dumps(run).encode() + b"\n"
        tree.extend([leaf_hash(line[:-TAIL_BYTES] + b"}") for line in lines])
    for level, edge in enumerate(tree.edges):
        if edge:
            tiles.write(level, tree.size >> (8 * (level + 1)), edge)
    (folder.log / "index.jsonl").write_bytes(index)
    checkpoint = Checkpoint(site.origin, tree.size, tree.root())
    note = sign(checkpoint, keys.load_signing_key(folder.signing_key))
    (folder.log / "checkpoint").write_text(note, encoding="utf-8")


def _first_said(events: list[Event]) -> int:
    return next(number for number, event in enumerate(events) if event.call_id)


# The clumsy


def edit(site: Site) -> None:
    path = site.files()[0]
    lines = _lines(path)
    lines[1] = lines[1].replace(b'"fields":{', b'"fields":{"a":1,', 1)
    path.write_bytes(b"".join(lines))


def edit_with_own_hash(site: Site) -> None:
    path = site.files()[0]
    lines = _lines(path)
    record = parse(lines[1])
    changed = chain(
        _edit_text(record.event), sequence=record.sequence, writer="first", prev=record.prev
    )
    lines[1] = changed.line()
    path.write_bytes(b"".join(lines))


def delete(site: Site) -> None:
    path = site.files()[0]
    lines = _lines(path)
    path.write_bytes(b"".join(lines[:1] + lines[2:]))


def repeat(site: Site) -> None:
    path = site.files()[0]
    lines = _lines(path)
    path.write_bytes(b"".join([*lines[:2], *lines[1:]]))


def reorder(site: Site) -> None:
    path = site.files()[0]
    lines = _lines(path)
    lines[1], lines[2] = lines[2], lines[1]
    path.write_bytes(b"".join(lines))


def swap_files(site: Site) -> None:
    one, two, *_ = site.files()
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def remove_file(site: Site) -> None:
    site.files()[1].unlink()


def remove_first_file(site: Site) -> None:
    site.files()[0].unlink()


def swap_writers(site: Site) -> None:
    one, two = site.first.journal, site.second.journal
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def copy_writer(site: Site) -> None:
    """The second writer's journal is replaced by a copy of the first one's."""
    for segment in segments.all_of(site.second.journal):
        segment.path.unlink()
    for path in site.files():
        shutil.copy(path, site.second.path / path.name)


# Those who recompute


def edit_and_rechain(site: Site) -> None:
    def change(events: list[Event]) -> list[Event]:
        number = _first_said(events)
        events[number] = _edit_text(events[number])
        return events

    _rechain(site, change)


def delete_and_rechain(site: Site) -> None:
    def change(events: list[Event]) -> list[Event]:
        del events[_first_said(events)]
        return events

    _rechain(site, change)


def insert_and_rechain(site: Site) -> None:
    def change(events: list[Event]) -> list[Event]:
        number = _first_said(events)
        events.insert(number, _edit_text(events[number]))
        return events

    _rechain(site, change)


def reorder_and_rechain(site: Site) -> None:
    def change(events: list[Event]) -> list[Event]:
        number = _first_said(events)
        events[number], events[number + 1] = events[number + 1], events[number]
        return events

    _rechain(site, change)


def truncate(site: Site) -> None:
    """Whole lines after the last seal are cut off the end: the chain that is left is sound."""
    path = site.first.journal
    path.write_bytes(b"".join(_lines(path)[:-2]))


def truncate_and_relog(site: Site) -> None:
    """The last sealed epochs are cut off, and a new log is signed with the stolen key."""
    site.first.journal.write_bytes(b"")
    site.files()[-2].unlink()
    _relog(site)


def break_seal(site: Site) -> None:
    def change(events: list[Event]) -> list[Event]:
        number = next(n for n, event in enumerate(events) if event.type == SEAL)
        events[number] = replace(events[number], fields={**events[number].fields, "mac": "00" * 32})
        return events

    _rechain(site, change)
    _keep_seals_fitting(site)
    _relog(site)


def _keep_seals_fitting(site: Site, writer: str = "first") -> None:
    """Give every seal the head that it stands behind now, with the code that it had."""
    contents = [[record.event for record in part] for part in _records(site.files())]
    sequence, head = 0, GENESIS
    for part in contents:
        for number, event in enumerate(part):
            if event.type == SEAL:
                fields = {**event.fields, "count": sequence, "head": head}
                part[number] = replace(event, fields=fields)
            record = chain(part[number], sequence=sequence, writer=writer, prev=head)
            sequence, head = sequence + 1, record.hash
    _write_chained(site, contents, writer)


def drop_seal(site: Site) -> None:
    def change(events: list[Event]) -> list[Event]:
        return [event for event in events if event.type != SEAL]

    _rechain(site, change)
    _keep_seals_fitting(site)
    _relog(site)


def forge_with_stolen_keys(site: Site) -> None:
    """An old record is changed; seals, log and checkpoint are made anew with the keys of today."""
    stolen = keys.load_seal_key(site.first.seal_key)
    edit_and_rechain(site)
    _reseal(site, stolen)
    _relog(site)


def forge_with_an_old_key(site: Site) -> None:
    """The same with a seal key that was stolen some epochs ago: what came before it holds."""
    stolen = keys.load_seal_key(AuditFolder(site.earlier / "first").seal_key)
    edit_and_rechain(site)
    _reseal(site, stolen)
    _relog(site)


def begin_history_anew(site: Site) -> None:
    """All that was sealed before is left out: history begins with the epoch of the stolen key."""
    stolen = keys.load_seal_key(site.first.seal_key)
    for path in site.files()[:-1]:
        path.unlink()
    event = Event(type="caller_said", time_unix_ms=1, call_id="c", fields={"text": "Yes, I agree"})
    said = chain(event, sequence=0, writer="first", prev=GENESIS)
    fields = seal_fields(stolen, writer="first", count=1, head=said.hash, started_ms=1, ended_ms=2)
    seal = Event(type=SEAL, time_unix_ms=2, fields=fields)
    last = chain(seal, sequence=1, writer="first", prev=said.hash)
    site.first.journal.write_bytes(said.line() + last.line())
    keys.save_seal_key(site.first.seal_key, stolen.next())
    _relog(site)


def rename_the_writer(site: Site) -> None:
    """The changed history is another writer's, whose seals nobody has a key for."""
    contents = [[record.event for record in part] for part in _records(site.files())]
    contents[0][0] = _edit_text(contents[0][0])
    _write_chained(site, contents, writer="frist")
    _keep_seals_fitting(site, writer="frist")
    _relog(site)


def _retire(site: Site, key: SealKey | None) -> None:
    """Files are removed, and the journal says that they were retired."""
    files = site.files()
    kept, last = parse(_lines(files[-2])[0]), parse(_lines(files[-1])[-1])
    fields = {"next": kept.sequence, "head": kept.prev, "files": len(files) - 2}
    if key is not None:
        fields = retirement_fields(key, fields, writer="first")
    event = Event(type=RETIRED, time_unix_ms=last.event.time_unix_ms, fields=fields)
    record = chain(event, sequence=last.sequence + 1, writer="first", prev=last.hash)
    with files[-1].open("ab") as file:
        file.write(record.line())
    for path in files[:-2]:
        path.unlink()


def forge_a_retirement(site: Site) -> None:
    _retire(site, None)


def retire_with_stolen_keys(site: Site) -> None:
    _retire(site, keys.load_seal_key(site.first.seal_key))


def cut_the_second_writer(site: Site) -> None:
    """Sealed epochs of the other writer are cut off, and the log is made anew."""
    path = site.second.journal
    path.write_bytes(b"")
    segments.closed(path)[-1].path.unlink()
    _relog(site)


def wind_back_the_seal_key(site: Site) -> None:
    """The key file is replaced by one of an invented series."""
    epoch = keys.load_seal_key(site.first.seal_key).epoch
    keys.save_seal_key(site.first.seal_key, SealKey(epoch, bytes(32)))


# The log


def edit_tile(site: Site) -> None:
    path = next(item for item in sorted((site.first.log / "tile/0").rglob("*")) if item.is_file())
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)


def edit_index(site: Site) -> None:
    path = site.first.log / "index.jsonl"
    lines = _lines(path)
    start, count, writer, first = json.loads(lines[0])
    other = "second" if writer == "first" else "first"
    lines[0] = json.dumps([start, count, other, first]).encode() + b"\n"
    path.write_bytes(b"".join(lines))


def edit_checkpoint(site: Site) -> None:
    path = site.first.log / "checkpoint"
    text = path.read_text(encoding="utf-8").split("\n")
    root = bytearray(base64.b64decode(text[2]))
    root[0] ^= 1
    text[2] = base64.b64encode(root).decode()
    path.write_text("\n".join(text), encoding="utf-8")


def sign_with_another_key(site: Site) -> None:
    path = site.first.log / "checkpoint"
    checkpoint = parse_checkpoint(path.read_text(encoding="utf-8"))
    path.write_text(sign(checkpoint, Ed25519PrivateKey.generate()), encoding="utf-8")


def remove_log(site: Site) -> None:
    """Journal truncated, log removed: as if there had been none."""
    truncate(site)
    shutil.rmtree(site.first.log)


def edit_evidence(site: Site) -> None:
    """One word of an evidence file is changed."""
    lines = (line for path in site.files() for line in _lines(path))
    call_id = next(event.call_id for event in (parse(x).event for x in lines) if event.call_id)
    journals = [site.first.journal]
    found = evidence.collect(journals, site.first.log, call_id)
    verify_evidence.check(found)
    item = found["records"][0]
    item["line"] = item["line"].replace('"fields":{', '"fields":{"a":1,', 1)
    verify_evidence.check(found)


# Those whom only somebody else can catch


def roll_back(site: Site) -> None:
    """Everything is put back to how it was two epochs ago: journals, log and keys."""
    shutil.rmtree(site.root)
    shutil.copytree(site.earlier, site.root)


def rewrite_the_present(site: Site) -> None:
    """What was recorded after the last seal is changed, and a new log signed with stolen keys."""
    path = site.first.journal
    *before, last = _lines(path)
    record = parse(last)
    changed = chain(
        _edit_text(record.event), sequence=record.sequence, writer="first", prev=record.prev
    )
    path.write_bytes(b"".join([*before, changed.line()]))
    _relog(site)


ALL: tuple[Attack, ...] = (
    Attack(name="a record is edited", do=edit),
    Attack(name="a record is edited with its own hash", do=edit_with_own_hash),
    Attack(name="a record is edited, all hashes made anew", do=edit_and_rechain),
    Attack(name="a record is deleted", do=delete),
    Attack(name="a record is deleted, all hashes made anew", do=delete_and_rechain),
    Attack(name="a record is repeated", do=repeat),
    Attack(name="a record is inserted, all hashes made anew", do=insert_and_rechain),
    Attack(name="records are reordered", do=reorder),
    Attack(name="records are reordered, all hashes made anew", do=reorder_and_rechain),
    Attack(name="the end is cut off at a line's end", do=truncate),
    Attack(name="sealed epochs are cut off, the log made anew", do=truncate_and_relog),
    Attack(name="two files are swapped", do=swap_files),
    Attack(name="a file is removed", do=remove_file),
    Attack(name="the oldest file is removed", do=remove_first_file),
    Attack(name="two writers' files are swapped", do=swap_writers),
    Attack(name="a writer's journal stands for another's", do=copy_writer),
    Attack(name="a seal is broken, hashes and log made anew", do=break_seal),
    Attack(name="a seal is dropped, hashes and log made anew", do=drop_seal),
    Attack(name="an old record is forged with today's stolen keys", do=forge_with_stolen_keys),
    Attack(name="an old record is forged with a key stolen before", do=forge_with_an_old_key),
    Attack(name="history begins anew under today's stolen keys", do=begin_history_anew),
    Attack(name="history is forged under another writer's name", do=rename_the_writer),
    Attack(name="files are removed and said to be retired, without keys", do=forge_a_retirement),
    Attack(name="sealed epochs of the other writer are cut off", do=cut_the_second_writer),
    Attack(name="the seal key is replaced", do=wind_back_the_seal_key),
    Attack(name="a tile of the log is edited", do=edit_tile),
    Attack(name="the log's index is edited", do=edit_index),
    Attack(name="the checkpoint is edited", do=edit_checkpoint),
    Attack(name="the checkpoint is signed with another key", do=sign_with_another_key),
    Attack(name="an evidence file is edited", do=edit_evidence),
    Attack(name="the end is cut off and the log removed", do=remove_log, witness=True),
    Attack(name="everything is rolled back, with a witness", do=roll_back, witness=True),
    Attack(
        name="what is not sealed yet is forged with stolen keys, with a witness",
        do=rewrite_the_present,
        witness=True,
    ),
    Attack(
        name="files are removed and said to be retired, with stolen keys",
        do=retire_with_stolen_keys,
        why_hidden="as said: the report tells that they are gone, not who took them away",
    ),
    Attack(
        name="everything is rolled back, without a witness",
        do=roll_back,
        why_hidden="as said: only a witness or a printed root shows a rollback",
    ),
    Attack(
        name="what is not sealed yet is forged with stolen keys, without a witness",
        do=rewrite_the_present,
        why_hidden="as said: seals protect what was sealed before the theft",
    ),
)
