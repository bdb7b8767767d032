"""Writes Kamailio's configuration from the plan (Kamailio 5.6 and later)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from services.common.errors import ConfigError
from sip_gateway.edge.plan import CLOSED
from sip_gateway.trunks.trunk import TrunkKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from services.common.addresses import HostPort
    from sip_gateway.edge.config import EdgeTls
    from sip_gateway.edge.plan import EdgePlan, EdgeTrunk, Seat

ROUTES = Path(__file__).with_name("routes.cfg")
CONFIG_FILE = "edge.cfg"
TLS_FILE = "tls.cfg"
RPC_SOCKET = "edge.sock"
DB_FOLDER = "db"
RETRY_AFTER_S = 10
# Under PJSIP's 4000 bytes, with room for the headers that the edge adds.
LARGEST_BYTES = 3500
WORKER_ANSWERS_MS = 1000  # anything at all, else the next worker is tried
WORKER_RINGS_MS = 600_000  # a final answer; a caller may wait in a queue
REGISTRATION_EXPIRES_S = 300
REGISTRATION_RETRY_S = 10
_SCANNERS = (
    "friendly-scanner|sipvicious|sipv|sipcli|sipsak|sip-scan|sipscan|sundayddr|iwar|svwar|svmap|"
    "svcrack|sivus|gulp|smap|pplsip|vaxsipuseragent|vaxasip|scamsipuser|eyebeam hack|conaito|elite"
)
_MODULES = (
    "jsonrpcs kex corex tm tmx sl rr pv maxfwd textops siputils xlog sanity htable ipops nathelper"
).split()
_REGISTRATION_MODULES = ("db_text", "uac")
_QUOTABLE = re.compile(r'[^"\\\x00-\x1f]+')
_UACREG_TEXTS = (
    "l_uuid l_username l_domain r_username r_domain realm auth_username auth_password "
    "auth_ha1 auth_proxy"
).split()
_UACREG_COLUMNS = " ".join(
    (
        "id(int,auto)",
        *(f"{name}(string,null)" for name in _UACREG_TEXTS),
        "expires(int) flags(int) reg_delay(int) contact_addr(string,null) socket(string,null) \n",
    )
)
_TLS_METHODS = "TLSv1.2+"


def files(
    plan: EdgePlan,
    seats: Iterable[Seat],
    registrars: Mapping[str, Iterable[str]],
    *,
    draining: bool = False,
) -> dict[str, str]:
    """Path in the plan's folder -> text. `registrars` are the IPs of trunk keys, as resolved.

    Passwords stand in db/uacreg only. ConfigError for a name that cannot be written.
    """
    texts = {CONFIG_FILE: _config(plan, (*_initial_tables(seats, registrars, draining=draining),))}
    if plan.config.tls is not None:
        texts[TLS_FILE] = _tls(plan.config.tls)
    registering = [trunk for trunk in plan.trunks if trunk.registers]
    if registering:
        texts[f"{DB_FOLDER}/version"] = (
            "table_name(string) table_version(int) \nversion:1\nuacreg:5\n"
        )
        # While draining, an edge that is started again must not call for calls again.
        wanted = [] if draining else registering
        rows = (_uacreg_row(number, trunk, plan) for number, trunk in enumerate(wanted, 1))
        texts[f"{DB_FOLDER}/uacreg"] = _UACREG_COLUMNS + "".join(rows)
    return texts


def _config(plan: EdgePlan, initial_tables: Iterable[str]) -> str:
    parts = (
        "# Written by Landline from landline.toml at each start. Do not edit.",
        *_settings(plan),
        *_listeners(plan),
        *_modules(plan),
        *initial_tables,
        *_trunk_route(plan.trunks),
        f'include_file "{_quotable(str(ROUTES))}"',
        "",
    )
    return "\n".join(parts)


def _settings(plan: EdgePlan) -> Iterable[str]:
    config = plan.config
    scanners = "|".join(
        (_SCANNERS, *(re.escape(word).replace("\\ ", " ") for word in config.scanners))
    )
    defines = {
        "INTERNAL_HOST": f'"{plan.inside.host}"',
        "INTERNAL_PORT": plan.inside.port,
        "SCANNERS": f'"({scanners})"',
        "STRANGER_REQUESTS_PER_S": config.stranger_requests_per_s,
        "BAN_AFTER": config.ban_after,
        "INVITES_PER_S": config.invites_per_s,
        "LARGEST": LARGEST_BYTES,
        "WORKERS": plan.workers,
        "WORKER_SLOTS": plan.slots,
        "CLOSED": CLOSED,
        "WORKER_ANSWERS_MS": WORKER_ANSWERS_MS,
        "WORKER_RINGS_MS": WORKER_RINGS_MS,
    }
    yield from (f"#!define {name} {value}" for name, value in defines.items())
    yield f'#!substdef "/RETRY_AFTER_S/{RETRY_AFTER_S}/g"'
    yield from (
        "debug=-1",  # errors only, and those only until it runs (process.py)
        "log_stderror=yes",
        "fork=yes",
        # One process for each socket keeps the order: with two, a BYE or a re-INVITE overtook the
        # ACK before it. It is enough for thousands of requests a second.
        "children=1",
        "tcp_children=1",
        "tcp_max_connections=2048",
        "tcp_connection_lifetime=3605",
        "tcp_connect_timeout=2",
        "tcp_send_timeout=2",
        "auto_aliases=no",
        "server_signature=no",
        "disable_core_dump=yes",
        "use_dst_blocklist=no",
        f"max_while_loops={plan.workers + 1}",
    )


def _listeners(plan: EdgePlan) -> Iterable[str]:
    for transport in plan.transports:
        yield _listen(transport, plan.outside, plan.advertised, f"outside_{transport}")
    tls = plan.config.tls
    if tls is not None:
        advertised = plan.advertised._replace(port=tls.listen.port)
        yield "enable_tls=yes"
        yield _listen("tls", tls.listen, advertised, "outside_tls")
    yield f'listen=udp:{plan.inside} name "workers"'
    yield f'listen=tcp:{plan.inside} name "workers_tcp"'


def _listen(transport: str, address: HostPort, advertised: HostPort, name: str) -> str:
    told = f" advertise {advertised}" if advertised != address else ""
    return f'listen={transport}:{address}{told} name "{name}"'


def _modules(plan: EdgePlan) -> Iterable[str]:
    registers = any(trunk.registers for trunk in plan.trunks)
    modules = [*_MODULES, *(_REGISTRATION_MODULES if registers else ())]
    if plan.config.tls is not None:
        modules.insert(0, "tls")
    yield from (f'loadmodule "{name}.so"' for name in modules)
    folder = _quotable(str(plan.folder))
    yield 'modparam("jsonrpcs", "transport", 4)'
    yield f'modparam("jsonrpcs", "dgram_socket", "{folder}/{RPC_SOCKET}")'
    yield 'modparam("jsonrpcs", "dgram_workers", 1)'
    yield 'modparam("jsonrpcs", "dgram_mode", 0600)'
    yield 'modparam("tm", "failure_reply_mode", 3)'
    yield 'modparam("tm", "remap_503_500", 0)'  # a worker's 503 is the whole gateway's
    yield 'modparam("rr", "enable_full_lr", 1)'
    for table, options in {
        "place": "size=6",
        "worker": "size=6",
        "load": "size=6",
        "registrar": "size=6",
        "state": "size=2",
        "count": "size=4;initval=0",
        "ban": f"size=8;autoexpire={plan.config.ban_s}",
        "fail": "size=8;autoexpire=60;initval=0;updateexpire=0",
        "pace": "size=8;autoexpire=60;initval=0",
    }.items():
        yield f'modparam("htable", "htable", "{table}=>{options}")'
    if plan.config.tls is not None:
        yield f'modparam("tls", "config", "{folder}/{TLS_FILE}")'
    if registers:
        yield f'modparam("uac", "reg_db_url", "text://{folder}/{DB_FOLDER}")'
        yield f'modparam("uac", "reg_contact_addr", "{plan.advertised}")'
        yield 'modparam("uac", "reg_timer_interval", 2)'
        yield f'modparam("uac", "reg_retry_interval", {REGISTRATION_RETRY_S})'
        yield 'modparam("uac", "reg_keep_callid", 1)'
        # Its errors tell why a registration fails; all others stay silent.
        yield 'loadmodule "debugger.so"'
        yield 'modparam("debugger", "mod_hash_size", 5)'
        yield 'modparam("debugger", "mod_level_mode", 1)'
        yield 'modparam("debugger", "mod_level", "uac=0")'


def _initial_tables(
    seats: Iterable[Seat], registrars: Mapping[str, Iterable[str]], *, draining: bool
) -> Iterable[str]:
    """What the supervisor knows stands there from the first packet on."""
    yield "event_route[htable:mod-init] {"
    for seat in seats:
        yield f'    $sht(place=>{seat.number}) = "{seat.name}";'
        yield f'    $sht(worker=>{seat.name}) = "{seat.address}";'
        yield f"    $sht(load=>{seat.name}) = {seat.load};"
    for key, ips in registrars.items():
        yield from (f"    $sht(registrar=>{key}::{ip}) = 1;" for ip in ips)
    yield f"    $sht(state=>draining) = {int(draining)};"
    yield "}"


def _trunk_route(trunks: Iterable[EdgeTrunk]) -> Iterable[str]:
    """Several extensions may be registered at one PBX: the one that was dialled comes first."""
    trunks = tuple(trunks)
    yield "route[TRUNK_OF] {"
    for trunk in trunks:
        if trunk.registers:
            dialled = f'($rU == "{trunk.key}" || $rU == "{_quotable(trunk.username)}")'
            # Our Contact's user is our own invention; the username is what was meant.
            rewrite = f'if ($rU == "{trunk.key}") $rU = "{_quotable(trunk.username)}";'
            yield f"    if ({dialled} && {_comes_from(trunk)}) {{"
            yield f"        {rewrite}"
            yield f'        $var(trunk) = "{_quotable(trunk.name)}"; return;'
            yield "    }"
    peers = [trunk for trunk in trunks if trunk.kind is TrunkKind.PEER]
    others = [trunk for trunk in trunks if trunk.kind is not TrunkKind.PEER]
    for trunk in (*peers, *others):
        found = f'$var(trunk) = "{_quotable(trunk.name)}"; return;'
        yield f"    if ({_comes_from(trunk)}) {{ {found} }}"
    yield "    return;"
    yield "}"


def _comes_from(trunk: EdgeTrunk) -> str:
    conditions = []
    if trunk.networks:
        networks = ",".join(map(str, trunk.networks))
        conditions.append(f'is_in_subnet("$si", "{networks}")')
    if trunk.registers:
        conditions.append(f"$sht(registrar=>{trunk.key}::$si) == 1")
    return f"({' || '.join(conditions)})"


def _uacreg_row(number: int, trunk: EdgeTrunk, plan: EdgePlan) -> str:
    if trunk.registrar is None:
        raise ConfigError(f"trunk {trunk.name!r} does not register")
    via = "" if trunk.transport == "udp" else f";transport={trunk.transport}"
    fields = (
        *(number, trunk.key, trunk.username, plan.advertised.host),
        *(trunk.username, trunk.registrar.host, ""),
        *(trunk.username, trunk.password, "", f"sip:{trunk.registrar}{via}"),
        *(REGISTRATION_EXPIRES_S, 0, 0, f"{plan.advertised}{via}"),
        f"{trunk.transport}:{plan.outside}",
    )
    return ":".join(_db_text(str(field)) for field in fields) + "\n"


def _db_text(field: str) -> str:
    return field.replace("\\", "\\\\").replace(":", "\\:").replace("\n", "\\n")


def _tls(tls: EdgeTls) -> str:
    lines = [
        "[server:default]",
        f"method = {_TLS_METHODS}",
        f'certificate = "{_quotable(str(tls.cert_file))}"',
        f'private_key = "{_quotable(str(tls.key_file))}"',
    ]
    authorities = None if tls.ca_file is None else f'ca_list = "{_quotable(str(tls.ca_file))}"'
    if authorities is not None:
        lines += [
            authorities,
            "verify_certificate = yes",
            "require_certificate = yes",
        ]
    lines += ["[client:default]", f"method = {_TLS_METHODS}"]
    if authorities is not None:
        lines += [authorities, "verify_certificate = yes"]
    return "\n".join(lines) + "\n"


def _quotable(text: str) -> str:
    """The text, which can stand between quotes in Kamailio's language as it is."""
    if not _QUOTABLE.fullmatch(text):
        raise ConfigError(f"{text!r} must have no quotes, backslashes or control characters")
    return text
