"""`landline models` as a person uses it, against a file server of our own."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.file_server import serving

COMMAND = [sys.executable, "-m", "services.cli", "models"]
ROOT = Path(__file__).parents[2]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'proto/gen'}", "PATH": "/bin", "COLUMNS": "160"},
    )  # fmt: skip


def test_list_pull_verify_and_import(tmp_path: Path) -> None:
    weights = b"weights" * 1_000
    digest = hashlib.sha256(weights).hexdigest()
    with serving() as server:
        server.files = {"/toy/resolve/1/model.bin": weights}
        (tmp_path / "manifest.toml").write_text(
            f'[[model]]\nname = "toy"\nversion = "1"\nkind = "stt"\nlicence = "MIT"\n'
            f'source = "{server.url}/toy"\n'
            f'files = [{{ path = "model.bin", size = {len(weights)}, sha256 = "{digest}" }}]\n'
        )
        options = ("--manifest", "manifest.toml", "--folder", "models")
        pulled = run("pull", "toy", *options, cwd=tmp_path)
    assert pulled.returncode == 0, pulled.stderr
    assert "toy: 1 files fetched, all checked" in pulled.stdout
    assert f'model = "{tmp_path / "models" / "toy"}"' in pulled.stdout
    [listed] = json.loads(run("list", "--json", *options, cwd=tmp_path).stdout)
    assert (listed["name"], listed["here"], listed["bytes"]) == ("toy", True, len(weights))
    assert "toy/model.bin: ok" in run("verify", *options, cwd=tmp_path).stdout
    (tmp_path / "models/toy/model.bin").write_bytes(b"x" * len(weights))
    damaged = run("verify", "toy", *options, cwd=tmp_path)
    assert damaged.returncode == 1
    assert "toy/model.bin: wrong hash" in damaged.stdout
    (tmp_path / "carried").mkdir()
    (tmp_path / "carried/model.bin").write_bytes(weights)
    taken = run("import", "toy", "carried", *options, cwd=tmp_path)
    assert taken.returncode == 0, taken.stderr
    assert "toy/model.bin: ok" in run("verify", *options, cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pull", "nothing"), "it knows whisper-tiny, whisper-base"),
        (("verify",), "there is no model in"),
        (("import", "whisper-base", "nowhere"), "there is no folder nowhere"),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    failed = run(*arguments, cwd=tmp_path)
    assert failed.returncode == 1
    assert message in failed.stderr
