from __future__ import annotations

from pathlib import Path

import pytest

from services.cli import write_example
from services.common import config


@pytest.fixture
def stack_config(tmp_path: Path) -> Path:
    """The example configuration with its clinic, in a folder of its own."""
    path = write_example(tmp_path)
    path.write_text(path.read_text().replace('"127.0.0.1:5060"', '"127.0.0.1:0"'))
    return path


@pytest.fixture
def stack_file(stack_config: Path) -> config.ConfigFile:
    return config.load(stack_config)
