"""The one pjsua2 endpoint of a process, and the thread that owns it.

PJSIP is touched on that thread only: it polls PJSIP, runs commands that the event loop submits,
and makes and deletes every PJSIP object. The audio callbacks come on PJMEDIA's own clock thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import threading
from collections import deque
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import pjsua2 as pj
import structlog

from services.common.addresses import HostPort
from services.common.errors import LandlineError
from sip_gateway import endpoint_setup
from sip_gateway.admission.source_filter import SourceFilter, dialog_peers
from sip_gateway.leg import Leg
from sip_gateway.mailbox import Mailbox
from sip_gateway.media.port import MediaPort, media_thread
from sip_gateway.media.source_lock import NOBODY_LOCKED, SourcePolicy
from sip_gateway.nat import symmetric
from sip_gateway.nat.alg_watch import AlgWatch
from sip_gateway.packet_filter import FilterError
from sip_gateway.pj_call import PjCall
from sip_gateway.sip.log import SipLog, pjsip_library
from sip_gateway.sip.message import from_edge, parse_invite
from sip_gateway.sip.names_guard import NamesGuard
from sip_gateway.sip.unhandled import UnhandledRequests
from sip_gateway.trunks.trunk import Transport

if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sip_gateway.config import EndpointConfig
    from sip_gateway.events import Invite, Refusal
    from sip_gateway.media.port import MediaTap

_log = structlog.get_logger()
_ResultT = TypeVar("_ResultT")
LOCAL = "local"  # the account of calls that belong to no registration
REFUSING = "refusing"  # the account that answers what is refused
# How long PJSIP's thread sleeps when nothing happens. It is woken for commands and packets; only
# a timer that another thread has set waits for the end of it.
_POLL_MS = 100
_POLL_WITHOUT_WAKING_MS = 10
_WAKE_UP = b"\r\n\r\n"  # what SIP phones send to keep a NAT open: PJSIP reads it and does nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class LegTerms:
    """What holds for a call that comes in; an account that is not there leaves PJSIP's choice.

    `answer_source`: see symmetric.py. `rings`: 180 is sent at once; else the owner sends what it
    likes instead.
    """

    account: str = ""
    answer_source: bool = False
    rings: bool = True
    sources: SourcePolicy = NOBODY_LOCKED


class Endpoint:
    """Start it once in a process. All methods are for the event loop unless they say otherwise."""

    def __init__(
        self,
        config: EndpointConfig,
        *,
        screen: Callable[[Invite, int], Refusal | None],
        on_invite: Callable[[Leg, Invite], None],
        on_refused: Callable[[Invite | None, int, str], None],
        on_malformed: Callable[[], None],
        on_message: Callable[[bool, str, str], None] | None = None,
        terms: Callable[[Invite], LegTerms] = lambda _invite: LegTerms(),
        refuses_replacement: Callable[[Leg, Invite], Refusal | None] = lambda _leg, _invite: None,
        on_legs: Callable[[int], None] | None = None,
    ) -> None:
        """`terms(invite)` says whose account takes it and whose RTP it believes.

        `screen(invite, other_legs)` decides on an INVITE at once: a Refusal, or None to ring.

        `on_invite` hears of those that ring, `on_refused(invite, status, why)` of the others, also
        of those that PJSIP refuses by itself, then without an Invite. `on_message(sent, peer,
        text)` is given all SIP messages; it is called on PJSIP's threads.
        `refuses_replacement(leg, invite)` decides on an INVITE that asks to take the other side's
        place on a leg. `on_legs` hears how many legs there are whenever that changes.
        """
        self.config = config
        self.address = config.listen
        self.max_legs = 0  # how many calls PJSIP can hold at once; known when it has started
        self._screen = screen
        self._on_invite = on_invite
        self._on_refused = on_refused
        self._on_malformed = on_malformed
        self._on_message = on_message
        self._terms = terms
        self._refuses_replacement = refuses_replacement
        self._on_legs = on_legs
        self._mailbox = Mailbox(asyncio.get_running_loop())
        self.post = self._mailbox.post  # for any thread
        self.post_at_tick_end = self._mailbox.put  # for the media thread
        media_thread.on_tick_end = self._mailbox.ring
        self._commands: deque[Callable[[], None]] = deque()
        self._thread = threading.Thread(target=self._run, name="pjsip", daemon=True)
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopping = False
        self._stun_checked: asyncio.Future[str | None] | None = None
        self._wake_socket: socket.socket | None = None
        self._numbers = itertools.count(1)
        # Below: PJSIP thread only.
        self.alg = AlgWatch()
        self._pj: Any = None
        self._calls: dict[int, PjCall] = {}
        self._screened: tuple[Invite, Refusal | None] = (parse_invite("", ""), None)
        self._released: list[PjCall] = []
        self._replaced: set[PjCall] = set()
        self._legs_told = 0
        self._accounts: dict[str, Any] = {}
        self._log_writer: SipLog | None = None
        self._filter: SourceFilter | None = None
        self._unhandled: UnhandledRequests | None = None
        self._names: NamesGuard | None = None
        self._port_numbers = itertools.count(1)
        self._ports: list[MediaPort] = []
        self._free_ports: list[MediaPort] = []

    # -- for the event loop -------------------------------------------------------------------

    async def start(self) -> None:
        """Listen; ConfigError when an address cannot be had."""
        self._thread.start()
        try:
            await self._started
        except LandlineError:
            await self.stop()  # PJSIP ends the process when its thread outlives the interpreter
            raise

    async def stop(self) -> None:
        """End what is left of PJSIP and its thread."""
        self._stopping = True
        self._wake()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    async def submit(self, function: Callable[[], _ResultT]) -> _ResultT:
        """Run `function` on the PJSIP thread; LandlineError for what PJSIP refuses."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_ResultT] = loop.create_future()

        def command() -> None:
            try:
                result = function()
            except pj.Error as error:
                self.post(_fail, future, LandlineError(error.reason or error.info(False)))
            except Exception as error:
                self.post(_fail, future, error)
            else:
                self.post(_resolve, future, result)

        if self._stopping:
            raise LandlineError("the SIP endpoint has stopped")
        self._commands.append(command)
        self._wake()
        return await future

    async def dial(
        self,
        uri: str,
        *,
        account: str,
        tap: MediaTap | None,
        on_event: Callable[..., None],
        caller: str = "",
        headers: Mapping[str, str] = MappingProxyType({}),
        sources: SourcePolicy = NOBODY_LOCKED,
    ) -> Leg:
        """Send an INVITE to `uri`; what becomes of it comes as events.

        `caller` is the URI in From, in place of the account's own.
        """
        leg = Leg(self, next(self._numbers))
        leg.tap, leg.on_event = tap, on_event
        leg.trunk, leg.sources = account, sources
        leg.jitter = self.config.jitter_of.get(account, self.config.jitter)

        def place() -> None:
            call = PjCall(self, self._accounts[account], leg)
            self._calls[leg.number] = call
            try:
                call.send_invite(uri, caller, headers)
            except pj.Error:
                self._calls.pop(leg.number, None)
                raise

        await self.submit(place)
        return leg

    async def add_account(self, name: str, make: Callable[[Any], Any]) -> None:
        """Add the account that `make(endpoint)` builds on the PJSIP thread."""

        def add() -> None:
            self._accounts[name] = make(self)

        await self.submit(add)

    async def with_account(self, name: str, operation: Callable[[Any], _ResultT]) -> _ResultT:
        """Run `operation(account)` on the PJSIP thread."""
        return await self.submit(lambda: operation(self._accounts[name]))

    async def usable_stun_server(self, servers: Sequence[str]) -> str | None:
        """The first that answers; None when none does. One question at a time."""
        names = pj.StringVector()
        for server in servers:
            names.append(server)
        self._stun_checked = asyncio.get_running_loop().create_future()
        await self.submit(lambda: self._pj.natCheckStunServers(names, False, None))
        return await self._stun_checked

    async def believe(self, networks: tuple[ipaddress.IPv4Network, ...]) -> None:
        """Whose requests may reach PJSIP from now on, where strangers' are thrown away."""

        def apply() -> None:
            if self._filter is not None:
                self._filter.believe(networks)

        await self.submit(apply)

    async def strangers_dropped(self) -> int:
        """Packets of strangers that were thrown away so far."""
        return await self.submit(lambda: self._filter.dropped() if self._filter else 0)

    # -- for the PJSIP thread -----------------------------------------------------------------

    def call_of(self, leg: Leg) -> PjCall | None:
        return self._calls.get(leg.number)

    def release(self, leg: Leg) -> None:
        """Forget a leg that has ended; its object is deleted after the callback has returned."""
        call = self._calls.pop(leg.number, None)
        if call is not None:
            self._released.append(call)

    def take_port(self) -> MediaPort:
        """A port of the bridge that no leg uses."""
        if self._free_ports:
            return self._free_ports.pop()
        port = MediaPort(f"leg-{next(self._port_numbers)}")
        self._ports.append(port)
        return port

    def give_port_back(self, port: MediaPort) -> None:
        """The leg that had it has ended."""
        port.tap = None
        self._free_ports.append(port)

    def guard(self, callback: Callable[[], None]) -> None:
        """Run the body of a callback: an exception that reached PJSIP would end the process."""
        try:
            callback()
        except pj.Error as error:
            _log.error("pjsip_refused", operation=error.title, reason=error.reason)
        except Exception:
            _log.exception("sip_callback_failed")

    def select_account(self, prm: Any) -> None:
        """Decide on a request before PJSIP makes media for it; what is refused gets none."""
        self._delete_released()  # PJSIP may give this call the number of one that has ended
        invite = self._read(prm.rdata)
        refusal = self._screen(invite, len(self._calls))
        self._screened = (invite, refusal)
        refusing, local = self._accounts.get(REFUSING), self._accounts.get(LOCAL)
        if refusing is None or local is None:
            return
        if refusal is not None:
            prm.accountIndex = refusing.getId()
            return
        if self.config.edge_proxy is None:
            self.believe_peers(dialog_peers(prm.rdata.wholeMsg))
        account = self._accounts.get(self._terms(invite).account)
        if account is not None:
            prm.accountIndex = account.getId()
        elif prm.accountIndex == refusing.getId():
            prm.accountIndex = local.getId()

    def incoming(self, account: Any, prm: Any) -> None:
        """The INVITE that `select_account` decided on, found well formed by PJSIP."""
        invite, refusal = self._screened
        leg = Leg(self, next(self._numbers))
        terms = self._terms(invite)
        leg.sources = terms.sources
        leg.jitter = self.config.jitter_of.get(terms.account, self.config.jitter)
        call = PjCall(self, account, leg, prm.callId)
        self._calls[leg.number] = call
        if refusal is not None:
            self.post(self._on_refused, invite, refusal.sip_status, refusal.why)
            # Not in this callback: an INVITE without SDP that ends in it ends the process.
            self._commands.append(lambda: self._refuse(leg, refusal))
            return
        self.alg.request(terms.account, prm.rdata)
        if terms.answer_source:
            call.route_back = symmetric.route_back(prm.rdata.wholeMsg, prm.rdata.srcAddress)
        self.post(self._on_invite, leg, invite)
        if terms.rings:
            call.send_answer(180)

    def _refuse(self, leg: Leg, refusal: Refusal) -> None:
        call = self.call_of(leg)
        if call is not None:  # it may have been cancelled in the meantime
            self.guard(lambda: call.send_refusal(refusal))

    def believe_peers(self, addresses: Iterable[str]) -> None:
        """Requests within a dialog may come from these."""
        if self._filter is not None:
            self._filter.believe_peers(addresses)

    def _read(self, rdata: Any) -> Invite:
        return from_edge(parse_invite(rdata.wholeMsg, rdata.srcAddress), self.config.edge_proxy)

    def refuses_replacement(self, leg: Leg, rdata: Any) -> Refusal | None:
        """None when this INVITE may take the other side's place on `leg`."""
        invite = self._read(rdata)
        refusal = self._refuses_replacement(leg, invite)
        if refusal is not None:
            self.post(self._on_refused, invite, refusal.sip_status, refusal.why)
            return refusal
        leg.sources = self._terms(invite).sources
        return None

    def replace(self, leg: Leg, call: PjCall) -> None:
        """`call` is the leg's dialog from now on; the one before it is being ended by PJSIP."""
        before = self._calls.get(leg.number)
        self._calls[leg.number] = call
        if before is not None:
            self._replaced.add(before)

    def release_replaced(self, call: PjCall) -> None:
        """A dialog whose place another one took has ended."""
        self._replaced.discard(call)
        self._released.append(call)

    def leg_for_transfer(self, account: Any) -> tuple[PjCall, Leg]:
        """A leg on which PJSIP dials where a REFER tells us to."""
        leg = Leg(self, next(self._numbers))
        self._calls[leg.number] = call = PjCall(self, account, leg)
        return call, leg

    def stun_checked(self, status: int, name: str) -> None:
        """What `usable_stun_server` waits for; PJSIP also tells of its own questions."""
        if self._stun_checked is not None:
            self.post(_resolve, self._stun_checked, name if status == 0 else None)

    def rejected(self, prm: Any) -> None:
        """An INVITE that PJSIP refused by itself, for example without a common codec."""
        self.post(self._on_refused, None, int(prm.statusCode), prm.reason)

    @property
    def contact_host(self) -> str:
        """The host that our own identity is written with."""
        return (
            self.config.nat.public_address or endpoint_setup.bound_host(self.config) or "localhost"
        )

    # -- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._open()
        except LandlineError as error:
            self.post(_fail, self._started, error)
            self._close()
            return
        poll_ms = _POLL_MS if self._wake_socket else _POLL_WITHOUT_WAKING_MS
        self.post(_resolve, self._started, None)
        while not self._stopping:
            self._run_commands()
            self._pj.libHandleEvents(poll_ms)
            self._watch_sources()
            self._delete_released()
            self._tell_legs()
        self._run_commands()
        self._close()

    def _open_wake_socket(self) -> socket.socket | None:
        """A socket that reaches PJSIP's own; None when PJSIP listens on TCP only."""
        if Transport.UDP not in self.config.transports:
            return None
        waker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        waker.setblocking(False)
        waker.connect((endpoint_setup.bound_host(self.config) or "127.0.0.1", self.address.port))
        return waker

    @property
    def _waker(self) -> HostPort | None:
        """Where our own wake-ups come from."""
        return HostPort(*self._wake_socket.getsockname()) if self._wake_socket else None

    def _wake(self) -> None:
        """Have PJSIP's thread look at its commands now. For any thread."""
        if self._wake_socket is not None:
            with contextlib.suppress(OSError):  # then it looks at the end of its sleep
                self._wake_socket.send(_WAKE_UP)

    def _tell_legs(self) -> None:
        legs = len(self._calls)
        if self._on_legs is not None and legs != self._legs_told:
            self._legs_told = legs
            self.post(self._on_legs, legs)

    def _run_commands(self) -> None:
        while self._commands:
            self._commands.popleft()()

    def _watch_sources(self) -> None:
        for call in self._calls.values():
            self.guard(call.watch_source)

    def _delete_released(self) -> None:
        for call in self._released:
            call.unlink()
        self._released.clear()

    def _open(self) -> None:
        self._pj = _PjEndpoint(self)
        pjsip_library().pj_log_set_level(0)  # until the writer is set, it prints on stdout
        self._pj.libCreate()
        self._log_writer = SipLog(lambda: self.post(self._on_malformed), self._on_message)
        self._pj.libInit(endpoint_setup.pj_config(self.config, self._log_writer))
        self._unhandled = UnhandledRequests(
            lambda status, method: self.post(self._on_refused, None, status, method)
        )
        self._names = NamesGuard()
        self.max_legs = int(pjsip_library().pjsua_call_get_max_count())
        self._pj.audDevManager().setNullDev()
        self.address = endpoint_setup.open_transports(self._pj, self.config)
        self._wake_socket = self._open_wake_socket()
        self._filter_sources()
        endpoint_setup.choose_codecs(self._pj, self.config)
        self._pj.libStart()

    def _filter_sources(self) -> None:
        if self.config.only_from is None:
            return
        try:
            self._filter = SourceFilter(self.address, self.config.only_from, self._waker)
        except FilterError as error:
            _log.warning("strangers_not_filtered", reason=str(error), effect="they get 403")

    def _close(self) -> None:
        if self._pj is None:
            return
        # A call that is up when its object is deleted would still call back, into half an object.
        self.guard(self._pj.hangupAllCalls)
        self._released += [*self._calls.values(), *self._replaced]
        self._calls.clear()
        self._replaced.clear()
        self._delete_released()
        self._pj.audDevManager().setNoDev()  # stops the clock that calls the ports
        self._free_ports.clear()
        self._ports.clear()
        # Calls are hung up and accounts unregistered by now: do not linger for answers.
        self._pj.libDestroy(pj.PJSUA_DESTROY_NO_NETWORK)
        # Not before: what is still under way is told to its account while PJSIP is taken down.
        self._accounts.clear()
        self._pj = None
        if self._wake_socket is not None:
            self._wake_socket.close()


class _PjEndpoint(pj.Endpoint):  # type: ignore[misc]
    def __init__(self, owner: Endpoint) -> None:
        super().__init__()
        self._owner = owner

    def onNatCheckStunServersComplete(self, prm: Any) -> None:  # noqa: N802
        self._owner.guard(lambda: self._owner.stun_checked(int(prm.status), prm.name))

    def onSelectAccount(self, prm: Any) -> None:  # noqa: N802
        self._owner.guard(lambda: self._owner.select_account(prm))

    def onRejectedIncomingCall(self, prm: Any) -> None:  # noqa: N802
        self._owner.guard(lambda: self._owner.rejected(prm))


def _resolve(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
