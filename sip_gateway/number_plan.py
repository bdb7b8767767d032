"""How numbers are dialled in each country, who answers in an emergency, and what costs too much.

Prefixes and emergency numbers as the national numbering plans publish them at the ITU; RFC 3966
and E.164 for the global form.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Country:
    """`international` and `national` are what is dialled before; an empty `national` is none."""

    code: str
    emergency: tuple[str, ...]
    international: str = "00"
    national: str = "0"


# Known to every mobile phone of the world, whatever the country (3GPP TS 22.101, 10.1).
EVERYWHERE = ("112", "911")

_NORTH_AMERICA = Country(code="1", emergency=("911",), international="011", national="1")

COUNTRIES = {
    "AE": Country(code="971", emergency=("112", "997", "998", "999")),
    "AT": Country(code="43", emergency=("112", "122", "133", "144")),
    "AU": Country(code="61", emergency=("000", "106", "112"), international="0011"),
    "BE": Country(code="32", emergency=("100", "101", "112")),
    "BR": Country(code="55", emergency=("190", "192", "193")),
    "CA": _NORTH_AMERICA,
    "CH": Country(code="41", emergency=("112", "117", "118", "144", "1414")),
    "CN": Country(code="86", emergency=("110", "119", "120", "122")),
    "CZ": Country(code="420", emergency=("112", "150", "155", "156", "158"), national=""),
    "DE": Country(code="49", emergency=("110", "112")),
    "DK": Country(code="45", emergency=("112",), national=""),
    "ES": Country(code="34", emergency=("061", "062", "080", "091", "092", "112"), national=""),
    "FI": Country(code="358", emergency=("112",)),
    "FR": Country(code="33", emergency=("112", "114", "15", "17", "18", "196")),
    "GB": Country(code="44", emergency=("112", "999")),
    "HK": Country(code="852", emergency=("112", "999"), international="001", national=""),
    "IE": Country(code="353", emergency=("112", "999")),
    "IL": Country(code="972", emergency=("100", "101", "102", "112")),
    "IN": Country(code="91", emergency=("100", "101", "102", "108", "112")),
    "IT": Country(code="39", emergency=("112", "113", "115", "118"), national=""),
    "JP": Country(code="81", emergency=("110", "118", "119"), international="010"),
    "KR": Country(code="82", emergency=("112", "119"), international="001"),
    "MX": Country(code="52", emergency=("911",), national=""),
    "NL": Country(code="31", emergency=("112",)),
    "NO": Country(code="47", emergency=("110", "112", "113"), national=""),
    "NZ": Country(code="64", emergency=("111",)),
    "PL": Country(code="48", emergency=("112", "997", "998", "999"), national=""),
    "PT": Country(code="351", emergency=("112",), national=""),
    "SE": Country(code="46", emergency=("112",)),
    "SG": Country(code="65", emergency=("995", "999"), international="001", national=""),
    "TR": Country(code="90", emergency=("112",)),
    "US": _NORTH_AMERICA,
    "ZA": Country(code="27", emergency=("10111", "10177", "112")),
}  # fmt: skip

# Satellite and shared networks, premium rates, and the numbers that look like a neighbour's and
# cost like the moon's: what stolen lines are dialled with. Patterns of E.164 numbers (fnmatch).
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
