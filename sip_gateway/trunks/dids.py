"""Which number was dialled on a trunk, and which agent and region answer it."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from sip_gateway.outbound.dialling import normalised
from sip_gateway.trunks.trunk import DidSource

if TYPE_CHECKING:
    from sip_gateway.events import Invite
    from sip_gateway.trunks.trunk import Trunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The number that was dialled, and who answers. Empty names are the defaults."""

    number: str
    agent: str
    region: str


def e164(number: str, country: str) -> str:
    """`number` as +4930123456, where it is one of `country` (ISO 3166) or international.

    Extensions, names, service numbers and everything without a country stay as they are.
    """
    return normalised(number, country)


def names(pattern: str, number: str, country: str) -> bool:
    """Whether a number as E.164 is the one that is written, or fits a pattern with * or ?."""
    if any(wild in pattern for wild in "*?["):
        return fnmatchcase(number, pattern)
    return number == e164(pattern, country)


def dialled(invite: Invite, source: DidSource) -> str:
    """The number in the configured place; in To and then the Request-URI where there is none."""
    places = {
        DidSource.REQUEST_URI: invite.request_user,
        DidSource.TO: invite.callee,
        DidSource.P_CALLED_PARTY_ID: invite.called_party,
        DidSource.DIVERSION: invite.diverted_from,
    }
    return places[source] or invite.callee or invite.request_user


def route(trunk: Trunk, invite: Invite, country: str) -> Route | None:
    """Who answers this call; None when its number is none of the trunk's.

    A trunk without numbers gives all calls to its agent; one with numbers gives those that match
    none of them to its agent, if it names one.
    """
    as_dialled = dialled(invite, trunk.did_source)
    number = e164(as_dialled, country)
    for did in trunk.dids:
        if names(did.number, number, country) or fnmatchcase(as_dialled, did.number):
            return Route(number=number, agent=did.agent or trunk.agent, region=did.region)
    if trunk.dids and not trunk.agent:
        return None
    return Route(number=number, agent=trunk.agent, region="")
