"""The examples for telecom admins are configurations that the gateway takes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from services.common.config import load
from sip_gateway.config import SipConfig

PAGE = Path(__file__).parents[3] / "docs" / "telecom-admins.md"
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_taken(tmp_path: Path, example: str) -> None:
    path = tmp_path / "landline.toml"
    path.write_text(example, encoding="utf-8")
    needed = [] if "agent" in tomllib.loads(example).get("sip", {}) else ["sip.agent=127.0.0.1:1"]
    assert load(path, needed).section("sip", SipConfig)


def test_every_key_of_nat_is_documented() -> None:
    text = PAGE.read_text(encoding="utf-8")
    from sip_gateway.nat.config import Nat

    assert [key for key in Nat.model_fields if f"| `{key}` |" not in text] == []
