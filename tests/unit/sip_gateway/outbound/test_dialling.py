"""What may be dialled: emergency first, then what is denied, then the allow list."""

from __future__ import annotations

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sip_gateway.outbound.dialling import EXPENSIVE, Dialling, DiallingConfig, Outcome, normalised

ROUTE = "sip:reception@192.0.2.10"


def dialling(*, country: str = "DE", **settings: object) -> Dialling:
    return Dialling(DiallingConfig.model_validate(settings), country)


@pytest.mark.parametrize(
    ("country", "dialled", "number"),
    [
        ("DE", "030 12 34-56", "+4930123456"),
        ("DE", "0043 1 58858", "+43158858"),
        ("DE", "+49 (30) 123456", "+4930123456"),
        ("DE", "tel:+49-30-123456", "+4930123456"),
        ("DE", "tel:030123456;phone-context=+49", "+4930123456"),
        ("DE", "sip:%2B4930123456@carrier.example;user=phone", "+4930123456"),
        ("DE", "sip:030123456;phone-context=x@carrier.example", "+4930123456"),
        ("DE", "200", "200"),
        ("US", "(202) 555-0143", "+12025550143"),
        ("US", "1 202 555 0143", "+12025550143"),
        ("US", "011 49 30 123456", "+4930123456"),
        ("US", "5550143", "5550143"),
        ("IT", "06 6982", "+39066982"),
        ("IT", "0669821234", "+390669821234"),
        ("ES", "910123456", "+34910123456"),
        ("AU", "0011 49 30 1", "+49301"),
        ("", "030123456", "030123456"),
    ],
)
def test_a_number_is_understood_as_its_country_dials_it(
    country: str, dialled: str, number: str
) -> None:
    assert dialling(country=country).number_of(dialled) == number


@pytest.mark.parametrize(
    "target", ["reception", "sip:front.desk@pbx.example", "", "tel:", "mailto:x"]
)
def test_what_is_no_number(target: str) -> None:
    assert dialling().number_of(target) is None


def test_nothing_is_dialled_without_an_allow_list() -> None:
    rules = dialling()
    for target in ("030123456", "+4930123456", "sip:200@pbx.example", "200"):
        verdict = rules.check(target)
        assert verdict.outcome is Outcome.DENIED
        assert "allow list" in verdict.why
        assert not verdict.may_dial


@pytest.mark.parametrize(
    "dialled", ["030123456", "0049 30 123456", "+4930123456", "tel:+4930123456"]
)
def test_the_allow_list_names_numbers_by_their_global_form(dialled: str) -> None:
    assert dialling(allow=["+49*"]).check(dialled).outcome is Outcome.ALLOWED
    assert dialling(allow=["+43*"]).check(dialled).outcome is Outcome.DENIED


def test_a_pattern_of_numbers_says_nothing_about_a_host() -> None:
    rules = dialling(allow=["+49*", "sip:2??@PBX.example"])
    assert rules.check("sip:+4930123456@evil.example").outcome is Outcome.DENIED
    assert rules.check("sip:200@pbx.EXAMPLE").outcome is Outcome.ALLOWED
    assert rules.check("sip:2000@pbx.example").outcome is Outcome.DENIED
    assert rules.check("sips:200@pbx.example").outcome is Outcome.DENIED


@pytest.mark.parametrize(
    "target",
    [
        "+881612345678", "00881612345678", "0900 1234567", "+1 900 555 0100", "+1 876 555 0100",
        "+1 202 976 0000", "+4470 1234 5678", "+97912345", "881612345678", "tel:+88212345",
        "sip:00881612345678@carrier.example", "sip:%2B881612345678@carrier.example",
    ],
)  # fmt: skip
def test_what_costs_too_much_is_denied_whatever_is_allowed(target: str) -> None:
    allow = ["*", "sip:*"]
    assert dialling(allow=allow).check(target).outcome is Outcome.DENIED
    assert dialling(allow=allow, deny_expensive=False).check(target).outcome is Outcome.ALLOWED


def test_deny_is_stronger_than_allow() -> None:
    rules = dialling(allow=["+49*"], deny=["+4930*"])
    assert rules.check("030123456").outcome is Outcome.DENIED
    assert rules.check("040123456").outcome is Outcome.ALLOWED


@pytest.mark.parametrize(
    "target",
    [
        "112", "110", "911", "tel:112", "1-1-2", "+49112", "0049110", "sip:112@carrier.example",
        "sip:%31%31%32@carrier.example", "sip:112;phone-context=+49@carrier.example",
        "urn:service:sos", "urn:service:sos.fire", "*31#112", "#31#112", "0112",
        "tel:112;phone-context=+49",
    ],
)  # fmt: skip
def test_emergency_numbers_are_known_however_they_are_written(target: str) -> None:
    rules = dialling(allow=["*", "sip:*"], outside_prefixes=["0"])
    refused = rules.check(target)
    assert refused.outcome is Outcome.EMERGENCY_REFUSED
    assert not refused.may_dial
    routed = dialling(emergency_route=ROUTE, outside_prefixes=["0"]).check(target)
    assert (routed.outcome, routed.target, routed.may_dial) == (Outcome.EMERGENCY, ROUTE, True)


@pytest.mark.parametrize(
    "target", ["030112", "+4930110", "1120", "sip:reception112@x", "3112", "49110"]
)
def test_what_only_looks_like_one(target: str) -> None:
    assert not dialling().is_emergency(target)


@pytest.mark.parametrize(
    ("country", "number"),
    [("US", "911"), ("GB", "999"), ("AU", "000"), ("FR", "15"), ("JP", "119"), ("NZ", "111")],
)
def test_each_country_has_its_own(country: str, number: str) -> None:
    assert dialling(country=country).is_emergency(number)
    code = phonenumbers.country_code_for_region(country)
    assert dialling(country=country).is_emergency(f"+{code}{number}")
    assert dialling(country=country).is_emergency("112")
    assert dialling(country="DK").is_emergency(number) == (number in ("911", "999"))


def test_without_a_country_the_numbers_that_most_have_are_known() -> None:
    rules = dialling(country="", allow=["*"])
    for number in ("112", "911", "999", "+1911"):
        assert rules.is_emergency(number)
    assert rules.check("200").outcome is Outcome.ALLOWED
    assert rules.check("+881612345678").outcome is Outcome.DENIED


def test_numbers_of_the_house_can_be_added() -> None:
    assert dialling(emergency_numbers=["5555"]).is_emergency("5555")


def test_transfers_have_their_own_allow_list_and_the_same_rest() -> None:
    rules = dialling(allow=[], deny=["sip:*@evil.example"])
    assert rules.check_transfer("sip:reception@192.0.2.10").outcome is Outcome.ALLOWED
    assert rules.check_transfer("tel:+4930123456").outcome is Outcome.ALLOWED
    assert rules.check_transfer("sip:x@evil.example").outcome is Outcome.DENIED
    assert rules.check_transfer("tel:+881612345678").outcome is Outcome.DENIED
    assert rules.check_transfer("tel:112").outcome is Outcome.EMERGENCY_REFUSED


@pytest.mark.parametrize("extension", ["449", "3290", "3989", "4470"])
def test_an_extension_is_no_number_that_costs(extension: str) -> None:
    assert dialling(allow=["4*", "3*"]).check(extension).outcome is Outcome.ALLOWED


@pytest.mark.parametrize(
    "target",
    [
        "sip:201@evil.example;x=.pbx.example",
        "sip:201@a.pbx.example;maddr=192.0.2.66",
        "sip:201@a.pbx.example;user=phone;lr",
        "sip:201@a.pbx.example;method=INVITE",
    ],
)
def test_parameters_lead_no_call_past_the_allow_list(target: str) -> None:
    rules = dialling(allow=["sip:2??@*.pbx.example"])
    assert rules.check("sip:201@a.pbx.example;user=phone").outcome is Outcome.ALLOWED
    assert rules.check(target).outcome is Outcome.DENIED
    assert rules.check_transfer(target).outcome is Outcome.DENIED


@pytest.mark.parametrize(
    "target",
    [
        "sip:x@evil.example", "sip:x@EVIL.example", "sip:x@evil.example:5060",
        "sip:x@evil.example;transport=tcp", "sip:90%30@pbx.example", "sip:900@pbx.example:5062",
    ],
)  # fmt: skip
def test_nothing_that_is_written_otherwise_passes_the_deny_list(target: str) -> None:
    rules = dialling(allow=["sip:*"], deny=["sip:*@evil.example", "sip:900@pbx.example"])
    assert rules.check("sip:x@good.example").outcome is Outcome.ALLOWED
    assert rules.check(target).outcome is Outcome.DENIED


@pytest.mark.parametrize(
    "settings",
    [
        {"allow": ["http://x"]},
        {"allow": ["49 30"]},
        {"emergency_route": "112"},
        {"emergency_numbers": ["+112"]},
        {"outside_prefixes": ["x"]},
    ],
)
def test_contradictions_are_named(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        dialling(**settings)


@given(st.text(max_size=30))
def test_no_text_breaks_it_and_none_is_allowed_by_default(text: str) -> None:
    verdict = dialling().check(text)
    assert not verdict.may_dial
    assert verdict.why


@given(st.sampled_from(["DE", "US", "IT", ""]), st.text("0123456789", min_size=1, max_size=15))
def test_normalising_is_stable(country: str, digits: str) -> None:
    once = normalised(digits, country)
    assert normalised(once, country) == once
    assert all(pattern.startswith("+") for pattern in EXPENSIVE)
