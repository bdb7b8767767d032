"""The examples in the guides are configurations that would start."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from services.common.config import ConfigFile
from sip_gateway.config import SipConfig

GUIDE = Path(__file__).parents[2] / "docs" / "telecom-admins.md"
EXAMPLES = re.findall(r"```toml\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=[text.split("\n")[-2] for text in EXAMPLES])
def test_an_example_for_telecom_admins_is_a_configuration(example: str) -> None:
    data = tomllib.loads(example)
    data.setdefault("sip", {}).setdefault("agent", "127.0.0.1:7000")
    assert ConfigFile(GUIDE, data).section("sip", SipConfig).agent.port == 7000


def test_the_guide_has_examples() -> None:
    assert len(EXAMPLES) >= 5
