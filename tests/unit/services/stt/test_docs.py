"""What docs/speech-recognition.md says about settings is true."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from services.stt.config import SttConfig
from services.stt.engines.whisper.config import WhisperConfig
from services.stt.engines.whisper.guards import GuardConfig

PAGE = (Path(__file__).parents[4] / "docs/speech-recognition.md").read_text(encoding="utf-8")
SETTINGS = re.compile(r"^\| ((?:`\w+`(?:, )?)+) \|([^|]*)\|", re.MULTILINE)


def test_the_example_is_a_valid_configuration() -> None:
    [example] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    config = SttConfig.model_validate(tomllib.loads(example)["stt"])
    assert config.whisper.model == Path("var/models/whisper-base")


def test_every_setting_is_described_with_its_default() -> None:
    described: dict[str, str] = {}
    for names, default in SETTINGS.findall(PAGE):
        found = re.findall(r"\w+", names)
        values = default.strip().split(", ")
        values = values if len(values) == len(found) else [default.strip()] * len(found)
        described |= dict(zip(found, values, strict=True))
    fields = WhisperConfig.model_fields
    assert set(fields) - set(described) == {"guards"}
    defaults = WhisperConfig()
    for name in ("max_batch", "soft_end_ms", "partial_age_ms", "final_deadline_ms", "load_limit"):
        assert float(described[name]) == getattr(defaults, name), name
    for name in ("beam", "slot_beam", "retry_beam", "pre_roll_ms", "tail_ms", "voice_on"):
        assert float(described[name]) == getattr(defaults, name), name
    assert described["short_finals"] == str(defaults.short_finals).lower()
    assert [float(x) for x in described["windows_s"].split(", ")] == defaults.windows_s


def test_the_guard_that_is_turned_off_there_exists() -> None:
    [names] = re.findall(r"`off = (\[.*?\])`", PAGE)
    GuardConfig.model_validate({"off": tomllib.loads(f"x = {names}")["x"]})
