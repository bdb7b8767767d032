"""The whole check of a region's evidence: journals, seals, Merkle log, checkpoint and witnesses."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from services.audit import keys
from services.audit.chain import Chain
from services.audit.check_log import LogCheck, Stream
from services.audit.log import LogError
from services.audit.notes import (
    Checkpoint,
    NoteError,
    open_checkpoint,
    parse_checkpoint,
    parse_verifier_key,
)
from services.audit.report import STATE_VERSION, Evidence, Kind, Report, cannot_detect
from services.audit.seals import SealCheck, SealKey
from services.audit.verify import writer_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


class Check:
    """One check. `state` is what an earlier check of the same evidence returned with `state()`;
    LogError when it is none. The evidence may grow meanwhile: what is there at the start counts.

    `form` adds whether every line is canonical JSON; its hash holds or not without that.
    """

    def __init__(
        self,
        evidence: Evidence,
        *,
        state: Mapping[str, Any] | None = None,
        form: bool = False,
        on_bytes: Callable[[int], None] = lambda _count: None,
    ) -> None:
        self._evidence = evidence
        self._form = form
        self._report = Report()
        try:
            self._streams = [self._open(live, state, on_bytes) for live in evidence.journals]
            self._log = self._open_log(state)
        except (KeyError, TypeError, ValueError) as error:
            raise LogError(f"the state is no earlier check's: {error!r}") from error
        self._started = [stream.chain.sequence for stream in self._streams]

    def run(self) -> Report:
        """Check everything once."""
        report = self._report
        seal_keys = self._seal_keys()  # before the journals: a key must not be ahead of its journal
        checkpoint = self._open_checkpoint()
        if checkpoint is not None and self._log is not None:
            self._log.run(checkpoint)
        for stream in self._streams:
            under = stream.position
            while stream.more():
                if self._log is None:
                    stream.waiting.clear()
            if checkpoint is not None:
                report.not_under_checkpoint += stream.chain.sequence - under
        for stream, started in zip(self._streams, self._started, strict=True):
            self._conclude(stream, started)
        for stream in self._streams:
            if stream.live in seal_keys:
                self._check_seal_key(stream, *seal_keys[stream.live])
            elif self._evidence.seal_key is not None and stream.chain.seals.next_epoch:
                what = "its seal key is not here: only a witness can tell if its end is missing"
                report.add(Kind.WARNING, stream.live, what)
        self._check_writers()
        report.cannot_detect = cannot_detect(self._evidence, report)
        return report

    def state(self) -> dict[str, Any]:
        """Where to go on next time; to be kept only after a check that found nothing."""
        return {
            "version": STATE_VERSION,
            "journals": [
                {**stream.chain.state(), "waiting": [leaf.hex() for leaf in stream.waiting]}
                for stream in self._streams
            ],
            "tree": {
                "size": self._log.tree.size if self._log else 0,
                "edges": [[item.hex() for item in edge] for edge in self._log.tree.edges]
                if self._log
                else [],
            },
        }

    def _open(
        self, live: Path, state: Mapping[str, Any] | None, on_bytes: Callable[[int], None]
    ) -> Stream:
        seals = SealCheck(self._evidence.verification_keys)
        known: dict[str, Any] = {}
        if state is not None:
            writer = writer_of(live)
            known = next((item for item in state["journals"] if item["writer"] == writer), {})
        form = self._form
        fresh = Chain(seal_check=seals, form=form)
        chain = Chain.from_state(known, seals, form=form) if known else fresh
        stream = Stream(live, chain, on_bytes)
        stream.waiting = [bytes.fromhex(leaf) for leaf in known.get("waiting", ())]
        return stream

    def _open_log(self, state: Mapping[str, Any] | None) -> LogCheck | None:
        if self._evidence.log is None:
            return None
        log = LogCheck(
            self._evidence.log,
            streams=self._streams,
            witnesses=self._evidence.witnesses,
            report=self._report,
        )
        if state is not None:
            edges = [[bytes.fromhex(item) for item in edge] for edge in state["tree"]["edges"]]
            log.tree.resume(state["tree"]["size"], edges)
        return log

    def _open_checkpoint(self) -> Checkpoint | None:
        """The log's checkpoint, with its signature checked."""
        folder, report = self._evidence.log, self._report
        if folder is None:
            return None
        path = folder / "checkpoint"
        if not path.exists():
            if self._evidence.witnesses or (self._log is not None and self._log.tree.size):
                report.add(Kind.TAMPERED, path, "there is no checkpoint, but there was one before")
            else:
                report.add(Kind.WARNING, path, "there is no checkpoint yet")
            return None
        try:
            note = path.read_text(encoding="utf-8")
            report.checkpoint = parse_checkpoint(note)
            verifier = self._evidence.verifier
            if verifier is None and self._evidence.log_key is not None:
                verifier = parse_verifier_key(self._evidence.log_key.read_text(encoding="utf-8"))
            if verifier is None:
                report.add(Kind.ERROR, path, "there is no key to check its signature with")
                return report.checkpoint
            report.checkpoint = open_checkpoint(note, verifier)
            if report.checkpoint.origin != verifier.name:
                what = f"it is of the log {report.checkpoint.origin}, its key of {verifier.name}"
                report.add(Kind.TAMPERED, path, what)
        except (NoteError, UnicodeDecodeError) as error:
            report.add(Kind.TAMPERED, path, str(error))
        except OSError as error:
            report.add(Kind.ERROR, path, f"cannot be read: {error.strerror}")
        return report.checkpoint

    # The journals and their seals

    def _conclude(self, stream: Stream, started: int) -> None:
        """What the chain and the seals of one journal have come to."""
        chain, report = stream.chain, self._report
        if stream.unreadable:
            report.add(Kind.ERROR, stream.live, stream.unreadable)
        verdict = chain.verdict()
        if not verdict.ok:
            kind = Kind.ERROR if verdict.future else Kind.TAMPERED
            report.add(kind, stream.live.parent / verdict.file, verdict.reason, verdict.line)
        seals = chain.seals
        report.records += chain.sequence
        report.records_checked += chain.sequence - max(started, chain.retirements.first)
        report.seals_checked += seals.checked
        report.seals_unchecked += seals.unchecked
        if seals.clock_set_back:
            report.add(
                Kind.WARNING,
                stream.live,
                f"the writer's clock was set back {seals.clock_set_back} times: times are not "
                "proof of order, numbers are",
            )
        report.journals.append(
            {
                "journal": str(stream.live),
                "writer": chain.writer,
                "records": chain.sequence,
                "first": chain.retirements.first,
                "retired_unix_ms": chain.retirements.at_unix_ms or None,
                "head": chain.head,
                "next_epoch": seals.next_epoch,
                "sealed_until_unix_ms": seals.last_ended_ms or None,
                "not_sealed_yet": chain.sequence - seals.last_count,
            }
        )

    def _check_writers(self) -> None:
        """A name has one journal: two of one name are two versions of one history."""
        seen: dict[str, Path] = {}
        for stream in self._streams:
            writer = stream.chain.writer
            if writer is not None and writer in seen:
                what = f"the writer {writer!r} has another journal: {seen[writer]}"
                self._report.add(Kind.TAMPERED, stream.live, what)
            seen[writer or ""] = stream.live
        self._check_keys(seen)
        if self._evidence.key_here is not None:
            self._report.add(
                Kind.WARNING,
                self._evidence.key_here,
                "the verification key lies on the machine whose seals it checks: whoever takes the "
                "machine can forge them all; move it away with landline audit keys export FILE",
            )

    def _check_keys(self, seen: Mapping[str, Path]) -> None:
        """Seals cannot be got rid of by giving their writer another name."""
        known = self._evidence.verification_keys
        for writer in known.keys() - seen.keys():
            whole = self._evidence.log is not None and "" not in seen
            self._report.add(
                Kind.TAMPERED if whole else Kind.ERROR,
                next(iter(seen.values()), "journals"),
                f"there is a verification key of the writer {writer!r}, but no journal of its",
            )
        for stream in self._streams:
            chain = stream.chain
            if known and chain.seals.unchecked:
                what = f"{chain.seals.unchecked} seals of {chain.writer!r} have no key to check"
                self._report.add(Kind.WARNING, stream.live, what)

    def _seal_keys(self) -> dict[Path, tuple[Path, SealKey]]:
        """The key of the running epoch of each journal, where it can be seen."""
        found: dict[Path, tuple[Path, SealKey]] = {}
        if self._evidence.seal_key is None:
            return found
        for number, stream in enumerate(self._streams):
            beside = stream.live.parent / "keys" / self._evidence.seal_key.name
            path = beside if number else self._evidence.seal_key
            if not os.path.exists(path):
                continue
            try:
                found[stream.live] = (path, keys.load_seal_key(path))
            except keys.KeyFileError as error:
                self._report.add(Kind.ERROR, path, str(error))
        return found

    def _check_seal_key(self, stream: Stream, path: Path, key: SealKey) -> None:
        """The key of the running epoch must be the one that the verification key leads to."""
        chain, report = stream.chain, self._report
        if chain.broken:
            return
        due = chain.seals.next_epoch or 0
        if key.epoch > due:
            report.add(
                Kind.TAMPERED,
                stream.live,
                f"the seal key stands at epoch {key.epoch}, the journal's next seal is that of "
                f"epoch {due}: records were removed from the journal's end",
            )
        right = chain.seals.key_of(chain.writer or "", key.epoch)
        if right is not None and right.key != key.key:
            report.add(Kind.TAMPERED, path, f"it is not the key that epoch {key.epoch} must have")
