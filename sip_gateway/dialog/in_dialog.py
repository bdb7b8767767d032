"""Requests inside a dialog that PJSIP leaves to the application, on the PJSIP thread.

PJSIP answers 500 to what no part of it understands. An OPTIONS that asks whether the dialog is
still alive (RFC 3261, 11) would so be told that it is not, and keys in `application/dtmf` would be
lost. pjsua2 has no function for such an answer; PJSIP's own is in the same library.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import pjsua2 as pj

from sip_gateway.dialog import dtmf
from sip_gateway.events import DtmfPressed, LegProceeding, ReinviteRefused
from sip_gateway.sip.log import pjsip_library

_TRYING = 100
_ANSWERED_BY_PJSIP = "application/dtmf-relay"


def asked(prm: Any) -> DtmfPressed | None:
    """Answer what PJSIP would not; the key that an INFO tells, if it does."""
    state = prm.e.body.tsxState
    transaction = state.tsx
    if transaction.role != pj.PJSIP_ROLE_UAS or transaction.state != pj.PJSIP_TSX_STATE_TRYING:
        return None
    if transaction.method not in ("INFO", "OPTIONS"):
        return None
    request = state.src.rdata
    head, _, body = request.wholeMsg.replace("\r\n", "\n").partition("\n\n")
    content_type = _content_type(head)
    key = dtmf.parse_info(content_type, body) if transaction.method == "INFO" else None
    if transaction.method == "OPTIONS" or not body.strip():
        _respond(transaction, request, 200)
    elif key is None and content_type != _ANSWERED_BY_PJSIP:
        _respond(transaction, request, 415)
    elif content_type != _ANSWERED_BY_PJSIP:
        _respond(transaction, request, 200)
    if key is None:
        return None
    return DtmfPressed(digit=key[0], duration_ms=key[1], method=dtmf.DtmfMethod.INFO)


def refused(prm: Any) -> ReinviteRefused | None:
    """What a final answer to our INVITE says, when it is a refusal."""
    transaction = prm.e.body.tsxState.tsx
    if (
        transaction.role == pj.PJSIP_ROLE_UAC
        and transaction.method in ("INVITE", "UPDATE")
        and transaction.state == pj.PJSIP_TSX_STATE_COMPLETED
        and transaction.statusCode >= 300
    ):
        return ReinviteRefused(sip_status=int(transaction.statusCode))
    return None


def proceeding(prm: Any) -> LegProceeding | None:
    """The 100 to our INVITE: nothing rings yet, but somebody is there."""
    transaction = prm.e.body.tsxState.tsx
    if (
        transaction.role == pj.PJSIP_ROLE_UAC
        and transaction.method == "INVITE"
        and transaction.state == pj.PJSIP_TSX_STATE_PROCEEDING
        and transaction.statusCode == _TRYING
    ):
        return LegProceeding(sip_status=_TRYING)
    return None


def _content_type(head: str) -> str:
    for line in head.split("\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() in ("content-type", "c"):
            return value.partition(";")[0].strip().lower()
    return ""


def _respond(transaction: Any, request: Any, sip_status: int) -> None:
    library = _library()
    dialog = library.pjsip_tsx_get_dlg(int(transaction.pjTransaction))
    if dialog:
        library.pjsip_dlg_respond(dialog, int(request.pjRxData), sip_status, None, None, None)


@cache
def _library() -> ctypes.CDLL:
    library = pjsip_library()
    pointer = ctypes.c_void_p
    library.pjsip_tsx_get_dlg.argtypes = [pointer]
    library.pjsip_tsx_get_dlg.restype = pointer
    library.pjsip_dlg_respond.argtypes = [pointer, pointer, ctypes.c_int, *[pointer] * 3]
    library.pjsip_dlg_respond.restype = ctypes.c_int
    return library
