from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from services.common import config

EXAMPLES = Path(__file__).parents[2] / "services" / "agent" / "examples"


@pytest.fixture
def stack_config(tmp_path: Path) -> Path:
    """The example configuration with its clinic, in a folder of its own."""
    shutil.copytree(EXAMPLES / "clinic", tmp_path / "agents" / "clinic")
    path = tmp_path / "landline.toml"
    text = (EXAMPLES / "landline.toml").read_text()
    path.write_text(text.replace('"127.0.0.1:5060"', '"127.0.0.1:0"'))
    return path


@pytest.fixture
def stack_file(stack_config: Path) -> config.ConfigFile:
    return config.load(stack_config)
