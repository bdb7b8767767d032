"""Looks at real messages for SIP-ALG damage: each kind is told once for a trunk and source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from sip_gateway import telemetry
from sip_gateway.nat import alg

if TYPE_CHECKING:
    from collections.abc import Iterable

_log = structlog.get_logger()
_MOST_REMEMBERED = 1000


class AlgWatch:
    """For the PJSIP thread. `rdata` is a `pjsua2.SipRxData`."""

    def __init__(self) -> None:
        self._told: set[tuple[str, str, alg.Damage]] = set()

    def request(self, trunk: str, rdata: Any) -> None:
        """A request of a source that the trunk knows; strangers could fill the log."""
        self._tell(trunk, rdata.srcAddress, alg.examine_received(rdata.wholeMsg, rdata.srcAddress))

    def answer(self, trunk: str, rdata: Any) -> None:
        """What the trunk's registrar answered."""
        if rdata.wholeMsg:  # without an answer PJSIP makes one up
            found = alg.examine_answer(rdata.wholeMsg, rdata.srcAddress)
            self._tell(trunk, rdata.srcAddress, found)

    def _tell(self, trunk: str, source: str, findings: Iterable[alg.AlgFinding]) -> None:
        ip = source.rpartition(":")[0]
        for finding in findings:
            telemetry.ALG_DAMAGE.labels(trunk, finding.damage).inc()
            key = (trunk, ip, finding.damage)
            if key in self._told or len(self._told) >= _MOST_REMEMBERED:
                continue
            self._told.add(key)
            _log.warning(
                "sip_alg_damage",
                trunk=trunk,
                source=ip,
                damage=finding.damage,
                evidence=finding.evidence,
                effect=finding.effect,
                remedy=finding.remedy,
            )
