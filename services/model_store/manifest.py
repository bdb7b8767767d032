"""Reads models/manifest.toml: which models there are, and exactly which files they consist of."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path, PurePosixPath

from pydantic import Field, ValidationError, field_validator, model_validator

from services.common.config import Section, explain
from services.common.errors import ConfigError, LandlineError

# Licences that allow business use without further conditions on the owner's own work.
ALLOWED_LICENCES = frozenset(
    "MIT Apache-2.0 BSD-2-Clause BSD-3-Clause ISC CC0-1.0 CC-BY-4.0 Unlicense".split()
)
_HASH = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")


class ModelFile(Section):
    """One file of a model. Without size and hash it is not fetched."""

    path: str
    size: int | None = Field(default=None, ge=0)
    sha256: str | None = None
    url: str = ""  # empty: the model's source, its version and the path

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or "\\" in path:
            raise ValueError(f"{path!r} does not lie inside the model's folder")
        return path

    @field_validator("sha256")
    @classmethod
    def _hexadecimal(cls, value: str | None) -> str | None:
        if value is not None and not _HASH.fullmatch(value):
            raise ValueError("sha256 must be 64 lower-case hexadecimal digits")
        return value

    @property
    def pinned(self) -> bool:
        """Whether it is known exactly which file this is."""
        return self.sha256 is not None and self.size is not None


class Model(Section):
    """One model, in one version."""

    name: str
    version: str
    kind: str  # the service that uses it
    licence: str  # an SPDX identifier
    source: str
    about: str = ""
    files: list[ModelFile] = Field(min_length=1)

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("a name is made of lower-case letters, digits, dots and hyphens")
        return name

    @model_validator(mode="after")
    def _each_once(self) -> Model:
        paths = [item.path for item in self.files]
        if len(set(paths)) != len(paths):
            raise ValueError(f"{self.name} names a file twice")
        return self

    @property
    def size(self) -> int:
        """Bytes of all files whose size is known."""
        return sum(item.size or 0 for item in self.files)

    def url(self, item: ModelFile) -> str:
        """Where a file is fetched from."""
        return item.url or f"{self.source}/resolve/{self.version}/{item.path}"


class Manifest(Section):
    """All models, each name once."""

    model: list[Model] = Field(default_factory=list)

    @model_validator(mode="after")
    def _each_once(self) -> Manifest:
        names = [item.name for item in self.model]
        if len(set(names)) != len(names):
            raise ValueError("two models have the same name")
        return self

    def find(self, name: str) -> Model:
        """The model of this name; LandlineError lists those that there are."""
        for item in self.model:
            if item.name == name:
                return item
        known = ", ".join(item.name for item in self.model) or "none"
        raise LandlineError(f"the manifest knows no model {name!r}; it knows {known}")


def default_path() -> Path:
    """The manifest that came with Landline."""
    installed = Path(__file__).with_name("manifest.toml")
    return installed if installed.exists() else Path(__file__).parents[2] / "models/manifest.toml"


def read(path: Path) -> Manifest:
    """The manifest in this file; ConfigError names every mistake."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        raise ConfigError(explain(str(path), Manifest, error)) from None
