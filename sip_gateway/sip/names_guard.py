"""Keeps names that are too long from PJSIP's DNS resolver, whose assertion would end the process.

The names come from outside: in `maddr` of a Via, in a Contact, in a Record-Route.
"""

from __future__ import annotations

import ctypes

import structlog

from services.common.errors import ConfigError
from sip_gateway.sip.log import pjsip_library

_LONGEST_NAME = 127  # PJ_MAX_HOSTNAME with its end is what PJSIP's queries hold
_CANNOT_RESOLVE = 70018  # PJ_ERESOLVE
_POINTER = ctypes.c_void_p
_RESOLVE = ctypes.CFUNCTYPE(None, _POINTER, _POINTER, _POINTER, _POINTER, _POINTER)
_RESOLVED = ctypes.CFUNCTYPE(None, ctypes.c_int, _POINTER, _POINTER)
_log = structlog.get_logger()


class _HostInfo(ctypes.Structure):
    """The beginning of pjsip_host_info (pjsip/sip_resolve.h)."""

    _fields_ = (
        ("flag", ctypes.c_uint),
        ("type", ctypes.c_int),
        ("name", _POINTER),
        ("name_length", ctypes.c_ssize_t),
    )


class _Resolver(ctypes.Structure):
    """pjsip_ext_resolver: who is asked in place of PJSIP's own."""

    _fields_ = (("resolve", _RESOLVE),)


class NamesGuard:
    """Asked before PJSIP's own resolver, on its thread. It has to live as long as PJSIP."""

    def __init__(self) -> None:
        """When PJSIP is initialised; ConfigError when it has no such hook."""
        library = pjsip_library()
        library.pjsua_get_pjsip_endpt.restype = _POINTER
        library.pjsip_endpt_set_ext_resolver.argtypes = [_POINTER, _POINTER]
        library.pjsip_resolve.argtypes = [_POINTER] * 5
        library.pjsip_resolve.restype = None
        self._library = library
        self._endpoint = library.pjsua_get_pjsip_endpt()
        self._resolver = _Resolver(_RESOLVE(self._resolve))
        if self._stand_in(True) != 0:
            raise ConfigError("this PJSIP lets nobody look at the names that it resolves")

    def _stand_in(self, on: bool) -> int:
        resolver = ctypes.addressof(self._resolver) if on else None
        return int(self._library.pjsip_endpt_set_ext_resolver(self._endpoint, resolver))

    def _resolve(self, resolver: int, pool: int, target: int, token: int, callback: int) -> None:
        length = _HostInfo.from_address(target).name_length
        if not 0 < length <= _LONGEST_NAME:
            _log.warning("name_not_resolved", reason=f"a host's name of {length} characters")
            _RESOLVED(callback)(_CANNOT_RESOLVE, token, None)
            return
        self._stand_in(False)
        try:
            self._library.pjsip_resolve(resolver, pool, target, token, callback)
        finally:
            self._stand_in(True)
