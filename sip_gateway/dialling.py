"""Which numbers may be dialled or transferred to. Pure: no call is made here.

Everything that is dialled goes through `Dialling.check`: an emergency number first, because it
must never be mistaken for anything else; then what is denied; then the allow list, without which
nothing is dialled.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING
from urllib.parse import unquote

from pydantic import Field, model_validator

from services.common.config import Section
from sip_gateway.number_plan import COUNTRIES, EVERYWHERE, EXPENSIVE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sip_gateway.number_plan import Country

# A URI as it may be given by a conversation: no headers, no spaces, no brackets.
_SIP_URI = re.compile(r"(sips?):([^\s<>?@\"]+)@([^\s<>?@\"]+)", re.IGNORECASE)
_TEL_URI = re.compile(r"tel:([+0-9*#][0-9*#().;=a-z+-]*)", re.IGNORECASE)
_NUMBER = re.compile(r"[+0-9*#(][0-9*#(). /-]*")
_SOS = re.compile(r"urn:service:sos(\.[a-z.-]+)?", re.IGNORECASE)  # RFC 5031
_SEPARATORS = str.maketrans("", "", "-.() /")
_PATTERN = re.compile(r"[+0-9*?#\[\]!-]+")
_SHORTEST_NATIONAL = 8  # digits of a number without a prefix, where there is none


class Outcome(StrEnum):
    ALLOWED = "allowed"
    EMERGENCY = "emergency"  # goes to the human route: `target` is that route
    EMERGENCY_REFUSED = "emergency_refused"  # there is no route; the caller must be told
    DENIED = "denied"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What becomes of a number. `target` is what to dial; `why` is for the log and the agent."""

    outcome: Outcome
    target: str
    number: str  # as it was understood: E.164 with a plus, or as dialled
    why: str

    @property
    def may_dial(self) -> bool:
        return self.outcome in (Outcome.ALLOWED, Outcome.EMERGENCY)


class DiallingConfig(Section):
    """[sip.dialling]: from which country is dialled, and where to."""

    country: str = "US"
    outside_prefixes: list[str] = Field(default_factory=list)  # "9" or "0" to leave the house
    # Numbers by E.164 or as dialled inside the house ("+49*", "2??"), or whole SIP URIs.
    allow: list[str] = Field(default_factory=list)
    deny: list[str] = Field(default_factory=list)
    deny_expensive: bool = True  # premium rates, satellites and what is dialled on stolen lines
    emergency_numbers: list[str] = Field(default_factory=list)  # beside those of the country
    emergency_route: str | None = None  # SIP URI of people who can help

    @model_validator(mode="after")
    def _consistent(self) -> DiallingConfig:
        if self.country not in COUNTRIES:
            known = ", ".join(sorted(COUNTRIES))
            raise ValueError(f"country {self.country!r} is not known; known: {known}")
        for pattern in (*self.allow, *self.deny):
            if not pattern.lower().startswith(("sip:", "sips:")) and not _PATTERN.fullmatch(
                pattern
            ):
                raise ValueError(
                    f'{pattern!r} is no pattern of numbers such as "+49*" or "2??", '
                    'nor of SIP URIs such as "sip:*@192.0.2.10"'
                )
        for number in (*self.emergency_numbers, *self.outside_prefixes):
            if not number.isdecimal():
                raise ValueError(f"{number!r} must be digits only")
        if self.emergency_route is not None and not _SIP_URI.fullmatch(self.emergency_route):
            raise ValueError(
                f"emergency_route {self.emergency_route!r} must be a SIP URI "
                'such as "sip:reception@192.0.2.10"'
            )
        return self


class Dialling:
    """The rules of one configuration."""

    def __init__(self, config: DiallingConfig) -> None:
        self._config = config
        self._country = COUNTRIES[config.country]
        self._emergency = frozenset(
            (*EVERYWHERE, *self._country.emergency, *config.emergency_numbers)
        )
        self._deny = (*(EXPENSIVE if config.deny_expensive else ()), *config.deny)

    @property
    def emergency_route(self) -> str | None:
        return self._config.emergency_route

    def check(self, target: str, allow: Iterable[str] | None = None) -> Verdict:
        """What becomes of `target`: a number, a tel URI or a SIP URI.

        `allow` replaces the configured allow list, for example by that of a trunk. A SIP URI is
        allowed by a pattern of SIP URIs alone: a pattern of numbers says nothing about its host.
        """
        number = self.number_of(target)
        if self.is_emergency(target):
            return self._emergency_verdict(target, number)
        if number is None and _SIP_URI.fullmatch(target) is None:
            return _denied(target, "", f"{target!r} is neither a number nor a SIP URI")
        number = number or ""
        # Some carriers take digits for a global number also without its plus.
        matched = _matched(self._deny, number, target) or _matched(self._deny, f"+{number}", target)
        if matched:
            return _denied(target, number, f"{number or target} is denied by {matched!r}")
        patterns = tuple(self._config.allow if allow is None else allow)
        by_number = "" if _SIP_URI.fullmatch(target) else number
        if not _matched(patterns, by_number, target):
            what = number or target
            return _denied(target, number, f"no pattern of the allow list names {what}")
        return Verdict(outcome=Outcome.ALLOWED, target=target, number=number, why="allowed")

    def check_transfer(self, target: str) -> Verdict:
        """The same without the allow list, which transfers have of their own (transfer_allow)."""
        return self.check(target, allow=("*", "sip:*", "sips:*"))

    def is_emergency(self, target: str) -> bool:
        """True when people expect help at this number, however it is written."""
        if _SOS.fullmatch(target.strip()):
            return True
        return any(self._is_emergency_digits(digits) for digits in _readings(target))

    def number_of(self, target: str) -> str | None:
        """The number in a number, tel URI or SIP URI: E.164, or as dialled when it is local."""
        digits = next(iter(_readings(target)), None)
        return None if digits is None else normalised(self._inside_out(digits), self._country)

    def _inside_out(self, digits: str) -> str:
        """Without the digit that leaves the house, where what follows is a whole number."""
        for prefix in self._config.outside_prefixes:
            rest = digits.removeprefix(prefix)
            if rest != digits and normalised(rest, self._country).startswith("+"):
                return rest
        return digits

    def _is_emergency_digits(self, digits: str) -> bool:
        forms = {digits}
        for prefix in self._config.outside_prefixes:
            forms.add(digits.removeprefix(prefix))
        # Some telephones and exchanges put the country before it, as in +1911.
        code = self._country.code
        leads = (f"+{code}", f"{self._country.international}{code}", "1" if code == "1" else "")
        for lead in leads:
            forms |= {form.removeprefix(lead) for form in tuple(forms)}
        return not self._emergency.isdisjoint(forms)

    def _emergency_verdict(self, target: str, number: str | None) -> Verdict:
        number, route = number or target, self._config.emergency_route
        if route is not None:
            why = f"{number} is an emergency number: it goes to {route}"
            return Verdict(outcome=Outcome.EMERGENCY, target=route, number=number, why=why)
        why = f"{number} is an emergency number, and no emergency_route is configured"
        return Verdict(outcome=Outcome.EMERGENCY_REFUSED, target=target, number=number, why=why)


def normalised(digits: str, country: Country) -> str:
    """E.164 with a plus where the dialled digits are a whole number, else the digits."""
    if digits.startswith("+") or not digits.isdecimal():
        return digits
    if digits.startswith(country.international):
        return "+" + digits.removeprefix(country.international)
    if country.code == "1":
        return _north_american(digits)
    if country.national and digits.startswith(country.national):
        return f"+{country.code}{digits.removeprefix(country.national)}"
    if not country.national and len(digits) >= _SHORTEST_NATIONAL:
        return f"+{country.code}{digits}"
    return digits


def _north_american(digits: str) -> str:
    """Ten digits are a number with or without the 1 before it."""
    if len(digits) == 11 and digits.startswith("1"):
        return f"+{digits}"
    return f"+1{digits}" if len(digits) == 10 else digits


def _readings(target: str) -> list[str]:
    """The digits that a target may be dialled as. A URI's user may hide them (RFC 3966)."""
    target = target.strip()
    sip, tel = _SIP_URI.fullmatch(target), _TEL_URI.fullmatch(target)
    text = sip[2] if sip else tel[1] if tel else target
    user = unquote(text).partition(";")[0].partition(":")[0]
    if not _NUMBER.fullmatch(user):
        return []
    digits = user.translate(_SEPARATORS)
    plain = digits.lstrip("*#")  # *31#112 only hides the caller's number
    return [digits, *({plain, digits.rpartition("#")[2], digits.rpartition("*")[2]} - {digits, ""})]


def _matched(patterns: Iterable[str], number: str, target: str) -> str | None:
    """The first pattern that names the number, or the URI for patterns of URIs."""
    uri = _normal_uri(target)
    for pattern in patterns:
        if pattern.lower().startswith(("sip:", "sips:")):
            if uri and fnmatchcase(uri, _normal_uri(pattern) or pattern):
                return pattern
        elif number and fnmatchcase(number, pattern):
            return pattern
    return None


def _normal_uri(uri: str) -> str:
    """Scheme and host do not care for case (RFC 3261, 19.1.4); the user part does."""
    scheme, colon, rest = uri.partition(":")
    if not colon:
        return ""
    user, at, host = rest.rpartition("@")
    return f"{scheme.lower()}:{user}{at}{host.lower()}"


def _denied(target: str, number: str, why: str) -> Verdict:
    return Verdict(outcome=Outcome.DENIED, target=target, number=number, why=why)
