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
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

import phonenumbers
from phonenumbers import shortnumberinfo
from pydantic import Field, model_validator

from services.common.config import Section

if TYPE_CHECKING:
    from collections.abc import Iterable

# A URI as it may be given by a conversation: no headers, no spaces, no brackets.
_SIP_URI = re.compile(
    r"(sips?):([^\s<>?@\"\x00-\x1f\x7f]+)@([^\s<>?@\"\x00-\x1f\x7f]+)", re.IGNORECASE
)
_TEL_URI = re.compile(r"tel:([+0-9*#][0-9*#().;=a-z+-]*)", re.IGNORECASE)
_NUMBER = re.compile(r"[+0-9*#(][0-9*#(). /-]*")
_SOS = re.compile(r"urn:service:sos(\.[a-z.-]+)?", re.IGNORECASE)  # RFC 5031
_SEPARATORS = str.maketrans("", "", "-.() /")
_PATTERN = re.compile(r"[+0-9*?#\[\]!-]+")
# Known to every mobile phone of the world, whatever the country (3GPP TS 22.101, 10.1), and the
# one that most other countries have.
# What a target's URI may say beside its host: all else could send the call elsewhere (RFC 3261,
# 19.1.1).
_HARMLESS = re.compile(r"user=(?:phone|ip)|transport=(?:udp|tcp|tls)", re.IGNORECASE)
_EVERYWHERE = frozenset({"112", "911", "999"})
# Satellite and shared networks, premium rates, and the islands whose numbers look like those of the
# United States: what stolen lines are dialled with. By prefix, because a carrier may connect
# more digits than a number has; `_EXPENSIVE_TYPES` adds what each country's own plan says.
EXPENSIVE = (
    "+870*", "+878*", "+881*", "+882*", "+883*", "+979*",
    "+1900*", "+1???976*",
    "+1242*", "+1246*", "+1264*", "+1268*", "+1284*", "+1345*", "+1441*", "+1473*", "+1649*",
    "+1658*", "+1664*", "+1721*", "+1758*", "+1767*", "+1784*", "+1809*", "+1829*", "+1849*",
    "+1868*", "+1869*", "+1876*",
    "+31900*", "+31906*", "+31909*", "+3290*", "+3389*", "+34803*", "+34806*", "+34807*",
    "+34905*", "+3989*", "+41900*", "+41901*", "+41906*", "+43900*", "+43901*", "+43930*",
    "+43931*", "+4470*", "+44871*", "+44872*", "+44873*", "+449*", "+46900*", "+46939*",
    "+46944*", "+49900*", "+61190*",
)  # fmt: skip
_SHORTEST_GLOBAL = 8  # digits; what is shorter is an extension, not a number without its plus
_INTERNATIONAL = (
    phonenumbers.CountryCodeSource.FROM_NUMBER_WITH_PLUS_SIGN,
    phonenumbers.CountryCodeSource.FROM_NUMBER_WITH_IDD,
)
_EXPENSIVE_TYPES = (
    phonenumbers.PhoneNumberType.PREMIUM_RATE,
    phonenumbers.PhoneNumberType.PERSONAL_NUMBER,
)


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
    """[sip.dialling]: which numbers may be dialled. `[sip] country` says how they are read."""

    outside_prefixes: list[str] = Field(default_factory=list)  # "9" or "0" to leave the house
    # Numbers by E.164 or as dialled inside the house ("+49*", "2??"), or whole SIP URIs.
    allow: list[str] = Field(default_factory=list)
    deny: list[str] = Field(default_factory=list)
    deny_expensive: bool = True  # premium rates, satellites and what is dialled on stolen lines
    emergency_numbers: list[str] = Field(default_factory=list)  # beside those of the country
    emergency_route: str | None = None  # SIP URI of people who can help

    @model_validator(mode="after")
    def _consistent(self) -> DiallingConfig:
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
    """The rules of one configuration. `country`: ISO 3166; empty when it is not known."""

    def __init__(self, config: DiallingConfig, country: str) -> None:
        self._config = config
        self._country = country
        self._code = phonenumbers.country_code_for_region(country) if country else 0
        self._emergency = _EVERYWHERE | set(config.emergency_numbers)
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
        if leads_elsewhere(target):
            return _denied(target, number or "", f"the parameters of {target} may lead elsewhere")
        number = number or ""
        for form in (number, *_global_forms(target)):
            matched = _matched(self._deny, form, target) or _matched(
                self._deny, form, _without_port(target)
            )
            if matched:
                return _denied(target, number, f"{number or target} is denied by {matched!r}")
        if self._config.deny_expensive and _is_expensive(number):
            return _denied(target, number, f"{number} is a number of premium rate")
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
        leads = (f"+{self._code}", f"00{self._code}", "1", "0111") if self._code else ("+1", "+49")
        for lead in leads if self._code in (0, 1) else leads[:2]:
            forms |= {form.removeprefix(lead) for form in tuple(forms)}
        return any(
            form in self._emergency
            or (self._country and shortnumberinfo.is_emergency_number(form, self._country))
            for form in forms
        )

    def _emergency_verdict(self, target: str, number: str | None) -> Verdict:
        number, route = number or target, self._config.emergency_route
        if route is not None:
            why = f"{number} is an emergency number: it goes to {route}"
            return Verdict(outcome=Outcome.EMERGENCY, target=route, number=number, why=why)
        why = f"{number} is an emergency number, and no emergency_route is configured"
        return Verdict(outcome=Outcome.EMERGENCY_REFUSED, target=target, number=number, why=why)


def normalised(digits: str, country: str) -> str:
    """E.164 with a plus where the digits are a whole number, else the digits as they are.

    Digits without a prefix may as well be an extension: they count when they are a valid number.
    """
    try:
        parsed = phonenumbers.parse(digits, country or None, keep_raw_input=True)
    except phonenumbers.NumberParseException:
        return digits
    international = parsed.country_code_source in _INTERNATIONAL
    if international or phonenumbers.is_valid_number(parsed):
        return phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)
    return digits


def _global_forms(target: str) -> tuple[str, ...]:
    """What a carrier may take the digits for that were meant otherwise."""
    digits = next(iter(_readings(target)), "")
    if len(digits) < _SHORTEST_GLOBAL:
        return ()
    return tuple(f"+{digits.removeprefix(prefix)}" for prefix in ("+", "00", "011"))


def _is_expensive(number: str) -> bool:
    try:
        return phonenumbers.number_type(phonenumbers.parse(number)) in _EXPENSIVE_TYPES
    except phonenumbers.NumberParseException:  # one of the house
        return False


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


def names_uri(pattern: str, uri: str) -> bool:
    """Whether a pattern of URIs (fnmatch) names a URI: scheme, user and host, each by itself.

    Scheme and host do not care for case, and escapes and parameters change neither (RFC 3261,
    19.1.4); the user part cares.
    """
    wanted, given = _uri_parts(pattern), _uri_parts(uri)
    if wanted.scheme != given.scheme:
        return False
    if not wanted.host:  # "sip:*" or "tel:+49*"
        return fnmatchcase(f"{given.user}@{given.host}" if given.host else given.user, wanted.user)
    return fnmatchcase(given.user, wanted.user) and fnmatchcase(given.host, wanted.host)


def leads_elsewhere(uri: str) -> bool:
    """Whether a URI has parameters that may send a call away from its host (RFC 3261, 19.1.1)."""
    parameters = uri.rpartition("@")[2].split(";")[1:]
    sip = uri.lower().startswith(("sip:", "sips:"))
    return sip and not all(_HARMLESS.fullmatch(item) for item in parameters)


def _matched(patterns: Iterable[str], number: str, target: str) -> str | None:
    """The first pattern that names the number, or the URI for patterns of URIs."""
    is_uri = _SIP_URI.fullmatch(target) is not None
    for pattern in patterns:
        if pattern.lower().startswith(("sip:", "sips:")):
            if is_uri and names_uri(pattern, target):
                return pattern
        elif number and fnmatchcase(number, pattern):
            return pattern
    return None


def _without_port(uri: str) -> str:
    return re.sub(r"(@[^:;]*):\d+", r"\1", uri)


class _UriParts(NamedTuple):
    scheme: str
    user: str
    host: str  # with its port


def _uri_parts(uri: str) -> _UriParts:
    scheme, _, rest = uri.partition(":")
    user, at, host = rest.rpartition("@")
    if not at:  # tel, or a pattern of all
        user, host = host, ""
    return _UriParts(scheme.lower(), unquote(user), host.partition(";")[0].lower())


def _denied(target: str, number: str, why: str) -> Verdict:
    return Verdict(outcome=Outcome.DENIED, target=target, number=number, why=why)
