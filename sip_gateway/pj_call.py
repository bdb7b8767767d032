"""PJSIP's side of a leg: commands to it, and callbacks that post what happened as events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pjsua2 as pj
import structlog

from services.common.clock import SystemClock
from sip_gateway.admission.source_filter import dialog_peers
from sip_gateway.dialog import dtmf, in_dialog
from sip_gateway.dialog.dtmf import DtmfMethod
from sip_gateway.events import (
    DtmfPressed,
    LegConfirmed,
    LegEnded,
    LegEvent,
    LegProceeding,
    LegReplaced,
    MediaStarted,
    StreamClosed,
    TransferProgressed,
    TransferRequested,
)
from sip_gateway.media.jitter import StreamStatistics
from sip_gateway.media.source_guard import SourceGuard
from sip_gateway.nat import symmetric

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sip_gateway.events import Refusal
    from sip_gateway.leg import Host, Leg
    from sip_gateway.media.port import MediaPort

_log = structlog.get_logger()
_DTMF_METHODS = {
    DtmfMethod.RFC4733: pj.PJSUA_DTMF_METHOD_RFC2833,
    DtmfMethod.INFO: pj.PJSUA_DTMF_METHOD_SIP_INFO,
}
# Flags of a telephone event that pjsua2 uses and does not name.
_DTMF_IS_UPDATE = 1
_DTMF_IS_END = 2


class PjCall(pj.Call):  # type: ignore[misc]
    """PJSIP's side of a Leg. Every method runs on the PJSIP thread."""

    def __init__(
        self,
        endpoint: Host,
        account: Any,
        leg: Leg,
        call_id: int = pj.PJSUA_INVALID_ID,
    ) -> None:
        super().__init__(account, call_id)
        self._endpoint = endpoint
        self._account = account
        self._leg = leg
        self._predecessor: PjCall | None = None  # whose place this one takes
        self._successor: PjCall | None = None
        self._failed_successors: list[PjCall] = []
        self._replaced = False
        self._port: MediaPort | None = None
        self._keys = dtmf.KeyPress()
        self._source = SourceGuard(SystemClock())
        self._frame_ms = 0  # of the codec, which PJMEDIA's buffer counts in
        self._confirmed = False
        self._early_media = False
        self._leaves_for: str | None = None  # hung up before its ACK has come
        self.route_back: str | None = None  # see symmetric.py

    # -- commands ---------------------------------------------------------------------------

    def send_invite(self, uri: str, caller: str, headers: Mapping[str, str]) -> None:
        parameters = pj.CallOpParam(True)
        parameters.txOption.localUri = caller
        for name, value in headers.items():
            _add_header(parameters, name, value)
        self.makeCall(uri, parameters)

    def send_answer(self, sip_status: int) -> None:
        parameters = pj.CallOpParam()
        parameters.statusCode = sip_status
        self.answer(parameters)
        if sip_status == pj.PJSIP_SC_OK and self._early_media:
            self._media_changed()  # they run on as they are, perhaps for another tap
        self._early_media = sip_status == pj.PJSIP_SC_PROGRESS

    def send_refusal(self, refusal: Refusal) -> None:
        parameters = pj.CallOpParam()
        parameters.statusCode = refusal.sip_status
        if refusal.retry_after_s is not None:
            _add_header(parameters, "Retry-After", str(refusal.retry_after_s))
        if refusal.contact is not None:
            _add_header(parameters, "Contact", f"<{refusal.contact}>")
        if refusal.sip_status == pj.PJSIP_SC_NOT_ACCEPTABLE_HERE and refusal.missing:
            _add_header(parameters, "Warning", f"399 landline {quoted(refusal.missing)}")
        if self._endpoint.config.place is not None and not refusal.elsewhere:
            _add_header(parameters, "X-Landline-Final", "1")  # the edge need not ask others
        self.answer(parameters)  # `hangup` would lose the header

    def send_hang_up(self, reason: str) -> None:
        if self.getInfo().state == pj.PJSIP_INV_STATE_CONNECTING:
            self._leaves_for = reason  # no BYE before the ACK (RFC 3261, 15)
            return
        parameters = pj.CallOpParam()
        if reason:  # RFC 3326
            _add_header(parameters, "Reason", f"SIP;cause=200;text={quoted(reason)}")
        self.hangup(parameters)

    def send_keys(self, digits: str, method: DtmfMethod) -> None:
        parameters = pj.CallSendDtmfParam()
        parameters.method = _DTMF_METHODS[method]
        parameters.duration = dtmf.TONE_MS
        parameters.digits = digits
        self.sendDtmf(parameters)

    def tell_media(self) -> None:
        self._media_changed()

    def send_hold(self, on: bool) -> None:
        parameters = pj.CallOpParam(True)
        if on:
            self.setHold(parameters)
        else:
            parameters.opt.flag |= pj.PJSUA_CALL_UNHOLD
            self.reinvite(parameters)

    def read_statistics(self) -> StreamStatistics | None:
        index = self._active_audio()
        if index is None:
            return None
        return StreamStatistics.read(self.getStreamStat(index), self._frame_ms)

    # -- callbacks --------------------------------------------------------------------------

    def onCallState(self, _prm: Any) -> None:  # noqa: N802
        self._endpoint.guard(self._state_changed)

    def onCallMediaState(self, _prm: Any) -> None:  # noqa: N802
        self._endpoint.guard(self._media_changed)

    def onStreamPreCreate(self, prm: Any) -> None:  # noqa: N802
        self._endpoint.guard(lambda: self._stream_begins(prm))

    def onStreamDestroyed(self, prm: Any) -> None:  # noqa: N802
        self._endpoint.guard(lambda: self._stream_destroyed(prm.streamIdx))

    def onDtmfEvent(self, prm: Any) -> None:  # noqa: N802
        self._endpoint.guard(lambda: self._dtmf_event(prm))

    def onCallTransferStatus(self, prm: Any) -> None:  # noqa: N802
        self._post(
            TransferProgressed(
                sip_status=int(prm.statusCode), reason=prm.reason, final=bool(prm.finalNotify)
            )
        )

    def onCallTransferRequest(self, prm: Any) -> None:  # noqa: N802
        self._endpoint.guard(lambda: self._transfer_requested(prm))

    def onCallTsxState(self, prm: Any) -> None:  # noqa: N802
        self._endpoint.guard(lambda: self._transaction_changed(prm))

    def onCallReplaceRequest(self, prm: Any) -> None:  # noqa: N802
        # Without a call object of its own PJSIP would give the new dialog this one's, and end the
        # process when that is deleted: a failure here has to refuse.
        prm.statusCode = pj.PJSIP_SC_INTERNAL_SERVER_ERROR
        self._endpoint.guard(lambda: self._replacement_requested(prm))

    def onCallReplaced(self, _prm: Any) -> None:  # noqa: N802
        self._endpoint.guard(self._hand_over)

    def _transaction_changed(self, prm: Any) -> None:
        self._believe_peer(prm.e.body.tsxState)
        self._set_route(prm.e.body.tsxState.tsx)
        event = in_dialog.asked(prm) or (
            in_dialog.refused(prm) if self._confirmed else in_dialog.proceeding(prm)
        )
        if event is not None:
            self._post(event)

    def _believe_peer(self, state: Any) -> None:
        """Who answers our INVITE may send requests in its dialog, wherever it was found."""
        inviting = state.tsx.role == pj.PJSIP_ROLE_UAC and state.tsx.method == "INVITE"
        if inviting and not self._confirmed and state.type == pj.PJSIP_EVENT_RX_MSG:
            rdata = state.src.rdata
            source = rdata.srcAddress.rpartition(":")[0]
            self._endpoint.believe_peers({source, *dialog_peers(rdata.wholeMsg)})

    def _replacement_requested(self, prm: Any) -> None:
        refusal = self._endpoint.refuses_replacement(self._leg, prm.rdata)
        if refusal is not None or self._replaced:
            prm.statusCode = refusal.sip_status if refusal else pj.PJSIP_SC_REQUEST_TERMINATED
            return
        if self._successor is not None:  # one that failed; PJSIP may still point to it
            self._failed_successors.append(self._successor)
        self._successor = PjCall(self._endpoint, self._account, self._leg)
        self._successor._predecessor = self
        self._successor._confirmed = True  # for its owner, this leg has been up for long
        prm.newCall = self._successor
        prm.statusCode = pj.PJSIP_SC_OK

    def _hand_over(self) -> None:
        successor = self._successor
        if successor is None:
            return
        self._replaced, successor._predecessor = True, None
        self._let_go()
        self._endpoint.replace(self._leg, successor)
        self._post(LegReplaced(remote=successor.getInfo().remoteUri))

    def _give_place_back(self) -> None:
        """The dialog that wanted to take over has failed: the one before goes on."""
        if self._predecessor is not None:
            self._predecessor._successor = None
            self._predecessor._media_changed()

    def unlink(self) -> None:
        """It is about to be deleted: at once, not when the garbage collector finds a ring."""
        self._predecessor = self._successor = None
        self._failed_successors.clear()

    def _let_go(self) -> None:
        """The media of this call serve its owner no more."""
        if self._port is not None:
            self._endpoint.give_port_back(self._port)
        self._port = None

    def _set_route(self, transaction: Any) -> None:
        """PJSIP's answer to the INVITE is the first that tells the dialog."""
        route, self.route_back = self.route_back, None
        if route is not None:
            symmetric.set_route(int(transaction.pjTransaction), route)
            _log.info("contact_corrected", route=route)

    def _state_changed(self) -> None:
        info = self.getInfo()
        if info.state == pj.PJSIP_INV_STATE_EARLY and info.role == pj.PJSIP_ROLE_UAC:
            self._post(LegProceeding(sip_status=int(info.lastStatusCode)))
        elif info.state == pj.PJSIP_INV_STATE_CONFIRMED and not self._confirmed:
            self._confirmed = True
            self._post(LegConfirmed())
            if self._leaves_for is not None:
                self.send_hang_up(self._leaves_for)
        elif info.state == pj.PJSIP_INV_STATE_DISCONNECTED:
            self._let_go()
            if self._replaced or self._predecessor is not None:
                self._endpoint.release_replaced(self)
                self._give_place_back()
                return
            self._post(LegEnded(sip_status=int(info.lastStatusCode), reason=info.lastReason))
            self._endpoint.release(self._leg)

    def _media_changed(self) -> None:
        info = self.getInfo()  # held in a variable: its media list points into it
        for media in info.media:
            if media.type != pj.PJMEDIA_TYPE_AUDIO:
                continue
            held_by_peer = media.status == pj.PJSUA_CALL_MEDIA_REMOTE_HOLD
            if media.status == pj.PJSUA_CALL_MEDIA_ACTIVE:
                self._connect(media.index)
            if held_by_peer or media.status == pj.PJSUA_CALL_MEDIA_ACTIVE:
                self._post(self._media_started(media.index, held_by_peer=held_by_peer))
            return

    def _connect(self, index: int) -> None:
        if self._leg.tap is None or self._replaced:
            return
        if self._predecessor is not None:
            self._predecessor._let_go()
        if self._port is None:
            self._port = self._endpoint.take_port()
        self._port.tap = self._leg.tap
        audio = self.getAudioMedia(index)
        audio.startTransmit(self._port)
        self._port.startTransmit(audio)

    def _media_started(self, index: int, *, held_by_peer: bool) -> MediaStarted:
        stream = self.getStreamInfo(index)
        # G.722 runs at 16 kHz but its RTP clock says 8000 (RFC 3551, 4.5.2).
        rate_hz = 8000 if stream.codecName.upper() == "G722" else stream.codecClockRate
        return MediaStarted(
            codec=f"{stream.codecName}/{rate_hz}",
            held_by_peer=held_by_peer,
            dtmf_events=stream.audTxEventPt >= 0,
        )

    def _stream_begins(self, prm: Any) -> None:
        self._leg.jitter.apply(prm.streamInfo)
        if prm.streamInfo.type == pj.PJMEDIA_TYPE_AUDIO:
            self._frame_ms = int(prm.streamInfo.audCodecParam.info.frameLen)
            remote = prm.streamInfo.remoteRtpAddress
            self._source.begin(self, prm.streamIdx, remote, self._leg.sources)

    def watch_source(self) -> None:
        """Called often by the endpoint's thread."""
        self._source.look(self)

    def _stream_destroyed(self, index: int) -> None:
        self._source.end()
        statistics = StreamStatistics.read(self.getStreamStat(index), self._frame_ms)
        self._post(StreamClosed(statistics=statistics))

    def _dtmf_event(self, prm: Any) -> None:
        if prm.method == pj.PJSUA_DTMF_METHOD_SIP_INFO:
            return  # told by the request itself
        flags = int(prm.flags)
        ends = bool(flags & _DTMF_IS_END)
        begins = not flags & (_DTMF_IS_UPDATE | _DTMF_IS_END)
        for digit, duration_ms in self._keys.update(
            prm.digit, int(prm.duration), begins=begins, ends=ends
        ):
            self._post(DtmfPressed(digit=digit, duration_ms=duration_ms))

    def _transfer_requested(self, prm: Any) -> None:
        if not self._endpoint.config.accept_transfers:
            prm.statusCode = pj.PJSIP_SC_FORBIDDEN
            return
        prm.statusCode = pj.PJSIP_SC_ACCEPTED
        prm.newCall, new_leg = self._endpoint.leg_for_transfer(self._account)
        self._post(TransferRequested(target=prm.dstUri, new_leg=new_leg))

    def _active_audio(self) -> int | None:
        info = self.getInfo()
        for media in info.media:
            if media.type == pj.PJMEDIA_TYPE_AUDIO and media.status in (
                pj.PJSUA_CALL_MEDIA_ACTIVE,
                pj.PJSUA_CALL_MEDIA_REMOTE_HOLD,
            ):
                return int(media.index)
        return None

    def _post(self, event: LegEvent) -> None:
        self._endpoint.post(self._leg.deliver, event)


def quoted(text: str) -> str:
    """A quoted-string (RFC 3261, 25.1), without what would end the line that it stands in."""
    text = "".join(character if character.isprintable() else " " for character in text)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _add_header(parameters: Any, name: str, value: str) -> None:
    header = pj.SipHeader()
    header.hName, header.hValue = name, value
    parameters.txOption.headers.append(header)
