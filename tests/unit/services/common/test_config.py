from __future__ import annotations

from pathlib import Path

import pytest

from services.agent.config import AgentConfig
from services.common import config
from services.common.addresses import HostPort
from services.common.config import Secret
from services.common.errors import ConfigError


def load(folder: Path, text: str, *overrides: str) -> config.ConfigFile:
    path = folder / "landline.toml"
    path.write_text(text)
    return config.load(path, overrides)


def test_a_section_is_typed_and_defaults_hold(tmp_path: Path) -> None:
    file = load(tmp_path, '[agent]\nlisten = "127.0.0.1:7000"\n[agent.turn]\nidle_ms = 500\n')
    section = file.section("agent", AgentConfig)
    assert section.listen == HostPort("127.0.0.1", 7000)
    assert section.turn.policy().idle_ms == 500
    assert section.max_calls == AgentConfig().max_calls


def test_paths_count_from_the_folder_of_the_file(tmp_path: Path) -> None:
    shared = load(tmp_path, '[landline]\ndata_dir = "data"\nagents = ["a.toml"]\n').shared
    assert shared.data_dir == tmp_path / "data"
    assert shared.agents == [tmp_path / "a.toml"]


def test_a_wrong_key_is_named_with_a_suggestion(tmp_path: Path) -> None:
    file = load(tmp_path, "[agent]\nmax_call = 3\n[agent.turn]\nidel_ms = 1\n")
    with pytest.raises(ConfigError) as caught:
        file.section("agent", AgentConfig)
    message = str(caught.value)
    assert "[agent] max_call: unknown key; did you mean 'max_calls'?" in message
    assert "turn.idel_ms: unknown key; did you mean 'idle_ms'?" in message


def test_a_wrong_section_is_named_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown section \[agnet\]; did you mean 'agent'"):
        load(tmp_path, "[agnet]\n")


def test_a_wrong_value_says_what_is_wanted(tmp_path: Path) -> None:
    file = load(tmp_path, '[agent]\nlisten = "7000"\n')
    with pytest.raises(ConfigError, match="write host:port"):
        file.section("agent", AgentConfig)


def test_a_missing_or_broken_file_is_a_plain_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        config.load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(tmp_path, "[agent\n")


def test_overrides_are_toml_or_plain_strings(tmp_path: Path) -> None:
    file = load(
        tmp_path, "", "agent.listen=127.0.0.1:0", "agent.max_calls=3", "agent.turn.idle_ms=9"
    )
    section = file.section("agent", AgentConfig)
    assert section.listen.port == 0
    assert section.max_calls == 3
    assert section.turn.idle_ms == 9


@pytest.mark.parametrize("override", ["agent", "agent=3", "listen=x", "landline.region.x=1"])
def test_a_broken_override_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError):
        load(tmp_path, '[landline]\nregion = "x"\n', override)


def test_secrets_are_read_from_file_or_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret"
    path.write_text("s3cret\n")
    monkeypatch.setenv("SIP_PASSWORD", "other")
    assert Secret(file=path).read() == "s3cret"
    assert Secret(env="SIP_PASSWORD").read() == "other"
    with pytest.raises(ConfigError, match="cannot read secret"):
        Secret(file=tmp_path / "none").read()
    with pytest.raises(ConfigError, match="holds no secret"):
        Secret(env="NOT_SET_ANYWHERE").read()
    with pytest.raises(ValueError, match="give either"):
        Secret()
