"""One process, one PJSIP endpoint, and the few calls that fit into it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from sip_gateway import telemetry
from sip_gateway.admission.admission import UNKNOWN_SOURCE, Admission
from sip_gateway.admission.house import open_house
from sip_gateway.admission.refusals import MISSING
from sip_gateway.admission.strangers import StrangerWatch, only_from
from sip_gateway.agent_client import AgentClient
from sip_gateway.call import Call, CallContext
from sip_gateway.config import EndpointConfig
from sip_gateway.ending import CallResult
from sip_gateway.endpoint import LOCAL, REFUSING, Endpoint, LegTerms
from sip_gateway.fleet.worker_status import WorkerStatus
from sip_gateway.media.rtp_probe import RtpProbe
from sip_gateway.nat.config import is_probably_unreachable
from sip_gateway.nat.stun_watch import StunWatch
from sip_gateway.outbound import server as dial_server
from sip_gateway.outbound.origination import Outbound, target_by
from sip_gateway.outbound.placing import WorkerLines
from sip_gateway.outbound.server import DialServicer
from sip_gateway.telemetry import serve_metrics
from sip_gateway.trunks import accounts, dids
from sip_gateway.trunks.resolving import Resolver
from sip_gateway.trunks.trunk import RingWith
from sip_gateway.trunks.trunk_lines import TrunkLines

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from services.common.addresses import HostPort
    from services.common.clock import Clock
    from services.common.config import TlsConfig
    from services.common.grpc_server import GrpcServer
    from sip_gateway.config import SipConfig
    from sip_gateway.ending import Ending
    from sip_gateway.events import Invite, Refusal
    from sip_gateway.leg import Leg
    from sip_gateway.media.source_lock import SourcePolicy
    from sip_gateway.trunks.trunk import Trunk

_log = structlog.get_logger()
_LAST_CALLS_S = 5.0
GOODBYE_MS = 8_000  # for the agent's last words when the drain limit has passed
_SAY_WHERE = "the carrier must find us by itself; set sip.nat.public_address or sip.nat.stun"


class Worker:
    """Takes calls from `start` to `stop`."""

    def __init__(
        self,
        config: SipConfig,
        *,
        data_dir: Path,
        region: str,
        tls: TlsConfig | None,
        clock: Clock,
        report: Callable[[WorkerStatus], None] = lambda _status: None,
    ) -> None:
        """`report` hears whenever the room for calls changes."""
        self._config = config
        self._house = open_house(config, data_dir=data_dir, clock=clock)
        self._admission = Admission(
            config.trunks,
            clock=clock,
            country=config.country,
            house=self._house,
            rtp_is_free=RtpProbe(config.media_host, config.rtp_ports).pair_is_free,
        )
        self._report = report
        self._legs = 0
        self._metrics_port = 0
        self._agents = AgentClient(config.agent, tls, timeout_ms=config.agent_timeout_ms)
        resolver = Resolver(config.nameservers)
        self._endpoint = Endpoint(
            replace(endpoint_config(config), nameservers=tuple(resolver.nameservers)),
            screen=self._admission.decide,
            on_invite=self._on_invite,
            on_refused=self._on_refused,
            on_malformed=telemetry.MALFORMED.inc,
            terms=self._terms,
            refuses_replacement=self._refuses_replacement,
            on_legs=self._on_legs,
        )
        self._strangers = StrangerWatch(self._endpoint, self._admission, self._house.refusals)
        self._context = CallContext(
            config=config,
            agents=self._agents,
            house=self._house,
            recordings=data_dir / "recordings" if config.recording else None,
            region=region,
            consult=self._consult,
            clock=clock,
            post_at_tick_end=self._endpoint.post_at_tick_end,
        )
        self._stun = StunWatch(self._endpoint, config.nat.stun)
        self._calls: dict[asyncio.Task[Ending], Call] = {}
        self._lines = TrunkLines(
            config.trunks,
            self._endpoint,
            self._admission,
            resolver,
            behind_edge=config.worker is not None,
        )
        board = WorkerLines(
            config,
            self._endpoint,
            self._admission,
            self._context,
            legs=lambda: self._legs,
            adopt=self._adopt,
        )
        self._outbound = Outbound(
            config.outbound,
            config.trunks,
            self._lines.hops,
            self._house,
            board,
            country=config.country,
        )
        self._tls = tls
        self._dialler: GrpcServer | None = None

    @property
    def address(self) -> HostPort:
        """Where it really listens."""
        return self._endpoint.address

    async def start(self) -> None:
        """Listen, and begin to register; ConfigError when an address cannot be had."""
        if not self._config.trunks:
            _log.warning("no_trunks", effect="every call will be refused with 403")
        if self._config.metrics is not None:
            self._metrics_port = serve_metrics(self._config.metrics)
            if self._config.worker is None:
                _log.info("metrics", listen=f"{self._config.metrics.host}:{self._metrics_port}")
        await self._endpoint.start()
        self._strangers.start()
        self._admission.limit = self._endpoint.max_legs - 1
        await self._endpoint.add_account(LOCAL, accounts.local_account())
        await self._endpoint.add_account(REFUSING, accounts.refusing_account())
        media = self._config.listen._replace(host=self._config.media_host)
        for trunk in self._config.trunks:
            nat = self._config.nat.for_trunk(trunk)
            if is_probably_unreachable(trunk, nat, media):
                _log.warning("trunk_told_private_address", trunk=trunk.name, remedy=_SAY_WHERE)
        self._stun.start()
        await self._lines.start()
        if self._config.outbound.listen is not None:
            servicer = DialServicer(self._outbound)
            self._dialler = await dial_server.serve(
                self._config.outbound.listen, self._tls, servicer
            )
            if self._config.worker is None:
                _log.info("dialler", port=self._dialler.port)
        self._tell()
        _log.info("ready", listen=str(self.address), conversations=self._admission.limit)

    def renew_trunks(self) -> None:
        """Find every trunk's server in DNS again, register and ask whether it is there, all now."""
        self._lines.renew()

    async def drain(self, now: asyncio.Event) -> None:
        """Take no more calls, and let the live ones end by themselves (drain_limit_s).

        Who still talks then hears the agent's goodbye. Returns early when `now` is set.
        """
        self._admission.stopping = True
        self._tell()
        limit_s = self._config.drain_limit_s
        _log.info("draining", calls=len(self._calls), limit_s=limit_s)
        unregistering = asyncio.create_task(self._lines.unregister())
        await self._calls_ended(limit_s, now)
        if self._calls and not now.is_set():
            _log.warning("drain_limit_reached", calls=len(self._calls))
            for call in self._calls.values():
                call.announce_closing(GOODBYE_MS)
            await self._calls_ended(GOODBYE_MS / 1000, now)
        await unregistering

    async def _calls_ended(self, limit_s: float, now: asyncio.Event) -> None:
        """Until no call is left, `limit_s` have passed or `now` is set."""
        if not self._calls:
            return
        ended = asyncio.ensure_future(asyncio.wait(set(self._calls)))
        insisted = asyncio.create_task(now.wait())
        await asyncio.wait((ended, insisted), timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        for waiting in (ended, insisted):
            waiting.cancel()

    async def stop(self) -> None:
        """Refuse new calls, end the live ones, unregister and leave nothing behind."""
        self._admission.stopping = True
        if self._dialler is not None:
            await self._dialler.stop(0.0)
        for call in self._calls.values():
            call.end(CallResult.FAILED, "gateway_stopped")
        if self._calls:
            await asyncio.wait(self._calls, timeout=_LAST_CALLS_S)
        await self._stun.stop()
        await self._lines.stop()
        await self._strangers.stop()
        await self._endpoint.stop()
        await self._agents.close()
        await self._house.ledger.close()

    def _terms(self, invite: Invite) -> LegTerms:
        """On the PJSIP thread."""
        trunk = self._admission.trunk_of(invite)
        if trunk is None:
            return LegTerms()
        return LegTerms(
            account=trunk.name,
            answer_source=self._config.nat.for_trunk(trunk).answer_source,
            rings=trunk.ring_with is RingWith.RINGING,
            sources=self._sources(trunk.name, invite.source_ip),
        )

    async def _consult(self, trunk: str, target: str, on_event: Callable[..., None]) -> Leg:
        """Call the target of an attended transfer, on the account of the caller's trunk."""
        sources = self._sources(trunk, "")
        uri = target_by(self._trunk(trunk), target, self._config.country)
        return await self._endpoint.dial(
            uri, account=trunk, tap=None, on_event=on_event, sources=sources
        )

    def _trunk(self, name: str) -> Trunk:
        return next(trunk for trunk in self._config.trunks if trunk.name == name)

    def _sources(self, trunk_name: str, sip_source: str) -> SourcePolicy:
        """Whose RTP a call of that trunk believes."""
        trunk = self._trunk(trunk_name)
        networks = self._admission.networks_of(trunk_name)
        return self._config.nat.for_trunk(trunk).sources(trunk, networks, sip_source)

    def _refuses_replacement(self, leg: Leg, invite: Invite) -> Refusal | None:
        """On the PJSIP thread: who may put another telephone in the caller's place."""
        trunk = self._admission.trunk_of(invite)
        return None if trunk is not None and trunk.name == leg.trunk else UNKNOWN_SOURCE

    def _on_legs(self, legs: int) -> None:
        self._legs = legs
        self._tell()

    def _tell(self) -> None:
        self._report(
            WorkerStatus(
                slots=self._admission.limit,
                legs=self._legs,
                open=not self._admission.stopping,
                metrics_port=self._metrics_port,
                dial_port=self._dialler.port if self._dialler is not None else 0,
            )
        )

    def _on_invite(self, leg: Leg, invite: Invite) -> None:
        trunk = self._admission.trunk_of(invite)
        assert trunk is not None  # `screen` has let it pass
        route = dids.route(trunk, invite, self._config.country)
        if route is None:  # an emergency number: `screen` refuses any other that is not ours
            route = dids.Route(number=invite.callee, agent=trunk.agent, region="")
        leg.trunk = trunk.name
        self._adopt(Call(leg, invite, trunk, route, self._context))

    def _adopt(self, call: Call) -> asyncio.Task[Ending]:
        task = asyncio.create_task(call.run(), name=call.call_id)
        self._calls[task] = call
        telemetry.ACTIVE.set(len(self._calls))
        task.add_done_callback(self._on_call_done)
        return task

    def _on_refused(self, invite: Invite | None, sip_status: int, why: str) -> None:
        """Count a refusal; those of PJSIP itself come without an Invite and with a SIP reason."""
        reason = why if invite is not None else _PJSIP_REASONS.get(sip_status, "pjsip")
        telemetry.REFUSED.labels(reason).inc()
        self._house.refusals.refused(
            reason=reason,
            sip_status=sip_status,
            source=invite.source_ip if invite else "",
            missing=MISSING.get(reason, why),
        )

    def _on_call_done(self, task: asyncio.Task[Ending]) -> None:
        del self._calls[task]
        telemetry.ACTIVE.set(len(self._calls))
        if not task.cancelled() and task.exception() is not None:
            _log.error("call_task_failed", exc_info=task.exception())


_PJSIP_REASONS = {
    400: "bad_sdp",
    405: "method",
    415: "not_sdp",
    420: "bad_extension",
    481: "no_dialog",
    486: "no_slot",
    488: "no_common_codec",
}


def endpoint_config(config: SipConfig) -> EndpointConfig:
    """What [sip] says of the endpoint."""
    return EndpointConfig(
        listen=config.listen,
        transports=tuple(config.transports),
        rtp_ports=config.rtp_ports,
        codecs=tuple(config.codecs),
        jitter=config.media.jitter,
        jitter_of={trunk.name: config.media_of(trunk).jitter for trunk in config.trunks},
        nat=config.nat,
        edge_proxy=config.edge_proxy,
        place=config.worker,
        only_from=only_from(config),
    )
