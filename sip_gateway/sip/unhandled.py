"""Answers what nothing in PJSIP handles: 405, or 481 for what belongs into a dialog.

PJSIP drops a REGISTER, a PUBLISH or a method that it does not know without a word, and whoever
sent it repeats it for half a minute. pjsua2 has no place for this, so a module is registered
beneath all of PJSIP's own; it keeps no state and answers each request once (RFC 3261, 8.2.1).
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from sip_gateway.sip.log import pjsip_library

if TYPE_CHECKING:
    from collections.abc import Callable

_METHOD_NOT_ALLOWED = 405
_NO_SUCH_DIALOG = 481
_IN_DIALOG_ONLY = (b"BYE", b"UPDATE", b"INFO", b"PRACK", b"NOTIFY")
_PRIORITY_LAST = 100  # beneath PJSIP_MOD_PRIORITY_APPLICATION
_ON_REQUEST = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)


class _Module(ctypes.Structure):
    """pjsip_module (pjsip/sip_module.h), with pj_str_t laid out in it."""

    _fields_ = (
        ("previous", ctypes.c_void_p),
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("name_length", ctypes.c_ssize_t),
        ("id", ctypes.c_int),
        ("priority", ctypes.c_int),
        ("load", ctypes.c_void_p),
        ("start", ctypes.c_void_p),
        ("stop", ctypes.c_void_p),
        ("unload", ctypes.c_void_p),
        ("on_rx_request", _ON_REQUEST),
        ("on_rx_response", ctypes.c_void_p),
        ("on_tx_request", ctypes.c_void_p),
        ("on_tx_response", ctypes.c_void_p),
        ("on_tsx_state", ctypes.c_void_p),
    )


class UnhandledRequests:
    """To be made on the PJSIP thread when PJSIP is initialised, and kept while it runs."""

    def __init__(self, on_answered: Callable[[int, str], None]) -> None:
        """`on_answered(status, method)` is called on the PJSIP thread."""
        self._library = pjsip_library()
        self._library.pjsua_get_pjsip_endpt.restype = ctypes.c_void_p
        self._library.pjsip_rx_data_get_info.restype = ctypes.c_char_p
        self._library.pjsip_rx_data_get_info.argtypes = [ctypes.c_void_p]
        self._library.pjsip_endpt_respond_stateless.argtypes = [
            *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int),
            *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p),
        ]
        self._on_answered = on_answered
        self._endpoint = self._library.pjsua_get_pjsip_endpt()
        name = b"mod-landline-unhandled"
        self._module = _Module(
            name=name,
            name_length=len(name),
            id=-1,
            priority=_PRIORITY_LAST,
            on_rx_request=_ON_REQUEST(self._answer),
        )
        self._library.pjsip_endpt_register_module.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self._library.pjsip_endpt_register_module(self._endpoint, ctypes.byref(self._module))

    def _answer(self, rdata: int) -> int:
        # "Request msg REGISTER/cseq=1 (rdata0x...)"; answering an ACK would fail an assertion.
        words = self._library.pjsip_rx_data_get_info(rdata).split()
        method = words[2].rpartition(b"/")[0] if len(words) > 2 else b"ACK"
        if method == b"ACK" or not words[0].startswith(b"Request"):
            return 0
        status = _NO_SUCH_DIALOG if method in _IN_DIALOG_ONLY else _METHOD_NOT_ALLOWED
        self._library.pjsip_endpt_respond_stateless(self._endpoint, rdata, status, None, None, None)
        self._on_answered(status, method.decode(errors="replace"))
        return 1
