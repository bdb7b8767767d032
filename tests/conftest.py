"""Options of our own."""

from __future__ import annotations

import secrets

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-seed", type=int, help="repeat a long fuzz with the seed it printed")


@pytest.fixture
def fuzz_seed(request: pytest.FixtureRequest) -> int:
    """A new one each time, unless the command line names one."""
    named: int | None = request.config.getoption("--fuzz-seed")
    return secrets.randbelow(1 << 32) if named is None else named
