"""Reads landline.toml: one typed, frozen object per service, and errors that name the key."""

from __future__ import annotations

import difflib
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from services.common.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SECTIONS = ("landline", "sip", "agent", "stt", "tts", "llm", "audit", "tls")


class Section(BaseModel):
    """Base of every configuration section: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Secret(Section):
    """A secret by reference: it stands in a file or in the environment, never here."""

    file: Path | None = None
    env: str | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Secret:
        if (self.file is None) == (self.env is None):
            raise ValueError('give either file = "..." or env = "..."')
        return self

    def read(self) -> str:
        """The secret itself; ConfigError when it is not there."""
        if self.file is not None:
            try:
                return self.file.read_text(encoding="utf-8").strip()
            except OSError as error:
                raise ConfigError(f"cannot read secret {self.file}: {error.strerror}") from error
        value = os.environ.get(self.env or "")
        if not value:
            raise ConfigError(f"the environment variable {self.env} holds no secret")
        return value


class TlsConfig(Section):
    """[tls]: mutual TLS between services. Without it they speak in plain text on loopback only."""

    ca_file: Path
    cert_file: Path
    key_file: Path


class LandlineConfig(Section):
    """[landline]: what all parts share."""

    data_dir: Path = Path("var")
    region: str = "local"
    agents: list[Path] = Field(default_factory=list)  # agent files; the first is the default
    log_format: str = "console"
    log_level: str = "info"


SectionT = TypeVar("SectionT", bound=Section)


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A parsed landline.toml with `--set` overrides applied."""

    path: Path
    data: Mapping[str, Any]
    overrides: tuple[str, ...] = ()

    def section(self, name: str, model: type[SectionT]) -> SectionT:
        """The section as its typed object; ConfigError lists every mistake in it."""
        try:
            return model.model_validate(self.data.get(name, {}))
        except ValidationError as error:
            raise ConfigError(explain(f"{self.path}: [{name}]", model, error)) from None

    def tls(self) -> TlsConfig | None:
        """The [tls] section, or None when it is absent."""
        return self.section("tls", TlsConfig) if "tls" in self.data else None

    @property
    def shared(self) -> LandlineConfig:
        """The [landline] section with absolute paths."""
        config = self.section("landline", LandlineConfig)
        return config.model_copy(
            update={
                "data_dir": self.resolve(config.data_dir),
                "agents": [self.resolve(path) for path in config.agents],
            }
        )

    def resolve(self, path: Path) -> Path:
        """A path written in the file: relative ones count from the file's folder."""
        return path if path.is_absolute() else (self.path.parent / path).resolve()


def load(path: Path, overrides: Iterable[str] = ()) -> ConfigFile:
    """Read `path` and apply overrides such as `stt.listen=127.0.0.1:0`.

    An override's value is TOML where it parses as such, else a plain string.
    """
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    overrides = tuple(overrides)
    for override in overrides:
        _apply(data, override)
    for name in data:
        if name not in SECTIONS:
            raise ConfigError(f"{path}: unknown section [{name}]{_suggestion(name, SECTIONS)}")
    return ConfigFile(path.resolve(), data, overrides)


def _apply(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.split(".")
    if not separator or len(parts) < 2:
        raise ConfigError(f"--set {override}: write section.key=value")
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    table = data
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override}: {part} is not a table")
    table[parts[-1]] = value


def explain(source: str, model: type[BaseModel], error: ValidationError) -> str:
    """Every mistake on a line of its own, with the key and, for unknown keys, a suggestion."""
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            known = _known_keys(model, item["loc"][:-1])
            what = f"unknown key{_suggestion(str(item['loc'][-1]), known)}"
        else:
            what = str(item["msg"]).removeprefix("Value error, ")
        lines.append(f"{source} {where}: {what}" if where else f"{source}: {what}")
    return "\n".join(lines)


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Field names at a place inside nested sections, for suggestions."""
    current: Any = model
    for part in location:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part) if hasattr(current, "model_fields") else None
        current = _nested_model(field.annotation) if field else None
        if current is None:
            return []
    return list(current.model_fields)


def _nested_model(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _nested_model(argument)
        if found is not None:
            return found
    return None


def _suggestion(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
