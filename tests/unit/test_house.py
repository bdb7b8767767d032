"""The rules that keep the house as it is drawn: who may import whom, what logic may not do."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path for package in ("services", "sip_gateway") for path in (ROOT / package).rglob("*.py")
)
# Parts that put the others together, or speak to them as a user does.
COMPOSERS = {"cli.py", "stack.py", "eval"}


def imports(path: Path) -> set[str]:
    """Every module that the file imports, TYPE_CHECKING blocks included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def service_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "services" and len(parts) > 1 else None


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_services_know_each_other_only_through_their_protocols(path: Path) -> None:
    top, *rest = path.relative_to(ROOT).parts
    own = rest[0] if top == "services" else None
    if own in COMPOSERS or (own == "agent" and rest[1] == "examples"):
        return
    foreign = {
        module
        for module in imports(path)
        if (service := service_of(module)) is not None and service not in (own, "common")
    }
    assert not foreign
    if top == "services":
        assert not {module for module in imports(path) if module.startswith("sip_gateway")}


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name == "service.py"], ids=str)
def test_services_know_no_grpc_and_no_protobuf(path: Path) -> None:
    assert not {
        module
        for module in imports(path)
        if module.split(".")[0] in ("grpc", "landline", "starlette")
    }


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name == "server.py"], ids=str)
def test_servers_know_no_engines(path: Path) -> None:
    assert not {module for module in imports(path) if ".engines" in module}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_time_and_environment_are_handed_in(path: Path) -> None:
    if path.name in ("clock.py", "config.py"):
        return
    text = path.read_text()
    assert "time.time(" not in text
    assert "os.environ" not in text


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_stay_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 600
