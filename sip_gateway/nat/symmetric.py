"""Requests within a dialog go back to where its INVITE came from (as RFC 3581 has answers do).

A caller behind NAT writes its private address into Contact. PJSIP would send its re-INVITE, ACK and
BYE there, so that the caller never hears of a hang-up. A registrar or proxy corrects that for its
users; for who calls us directly, the dialog gets a route to the address that the INVITE came from.
"""

from __future__ import annotations

import ctypes
import ipaddress
import re
from typing import Any

from services.common.errors import LandlineError
from sip_gateway.sip.log import pjsip_library

_VIA = re.compile(r"^(?:via|v)\s*:(.*)$", re.IGNORECASE | re.MULTILINE)
_RECORD_ROUTE = re.compile(r"^record-route\s*:", re.IGNORECASE | re.MULTILINE)
_CONTACT = re.compile(
    r"^(?:contact|m)\s*:[^\n]*?sips?:(?:[^@>\s;]*@)?([0-9.]+)", re.IGNORECASE | re.MULTILINE
)
_POOL_BYTES = 1000


class _PjString(ctypes.Structure):
    """pj_str_t."""

    _fields_ = (("text", ctypes.c_char_p), ("length", ctypes.c_ssize_t))


def route_back(message: str, source: str) -> str | None:
    """The route that a dialog begun by this INVITE needs; None when its Contact will do.

    `source` is the `ip:port` that it came from. A proxy on the way (a second Via, a Record-Route)
    knows better than we do.
    """
    head = message.replace("\r\n", "\n").partition("\n\n")[0]
    vias = [via for line in _VIA.findall(head) for via in line.split(",")]
    contact = _CONTACT.search(head)
    if len(vias) != 1 or contact is None or _RECORD_ROUTE.search(head):
        return None
    ip, _, port = source.rpartition(":")
    try:
        moved = ipaddress.IPv4Address(contact[1]) != ipaddress.IPv4Address(ip)
    except ValueError:
        return None
    if not moved or not port.isdecimal():
        return None
    transport = ";transport=tcp" if "/TCP" in vias[0].upper() else ""
    return f"<sip:{ip}:{port}{transport};lr>"


def set_route(transaction: int, route: str) -> None:
    """Give a transaction's dialog this route. For the PJSIP thread, in its callback.

    `transaction` is the address of the pjsip_transaction. LandlineError when PJSIP refuses.
    """
    pjsip = pjsip_library()
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    find_dialog = _function(pjsip.pjsip_tsx_get_dlg, pointer, pointer)
    make_pool = _function(pjsip.pjsua_pool_create, pointer, ctypes.c_char_p, size, size)
    make_list = _function(pjsip.pjsip_route_hdr_create, pointer, pointer)
    parse = _function(pjsip.pjsip_parse_hdr, pointer, pointer, pointer, pointer, size, pointer)
    append = _function(pjsip.pj_list_insert_before, None, pointer, pointer)
    assign = _function(pjsip.pjsip_dlg_set_route_set, ctypes.c_int, pointer, pointer)
    release = _function(pjsip.pj_pool_release, None, pointer)

    dialog = find_dialog(transaction)
    if not dialog:
        raise LandlineError("the transaction belongs to no dialog")
    text = ctypes.create_string_buffer(route.encode())
    name = _PjString(b"Route", 5)
    pool = make_pool(b"route", _POOL_BYTES, _POOL_BYTES)
    try:
        header = parse(pool, ctypes.addressof(name), text, len(route), None)
        if not header:
            raise LandlineError(f"PJSIP does not understand the route {route}")
        routes = make_list(pool)
        append(routes, header)
        status = assign(dialog, routes)  # copies them
    finally:
        release(pool)
    if status:
        raise LandlineError(f"PJSIP does not take the route {route}: {status}")


def _function(function: Any, result: Any, *arguments: Any) -> Any:
    function.restype, function.argtypes = result, arguments
    return function
