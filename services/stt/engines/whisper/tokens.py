"""Whisper's tokens: prompts from what is known, words from what was decoded.

Source: the tokenizer and prompt layout of OpenAI's Whisper; CTranslate2's Whisper interface.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from services.common.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# Prompts of equal length can share a batch, so hints are cut to one of these lengths.
_HINT_TOKENS = (0, 16, 32, 64)
_UNSPACED = frozenset(("zh", "ja", "th", "lo", "my", "yue", "km", "bo"))
_INCOMPLETE = "\ufffd"  # how a decoder shows part of a character


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What the decoder is given: hints, task, and the beginning that it must continue."""

    previous: tuple[int, ...]
    task: tuple[int, ...]
    prefix: tuple[int, ...] = ()

    @property
    def tokens(self) -> list[int]:
        return [*self.previous, *self.task, *self.prefix]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenWord:
    """A word and the tokens that spell it."""

    text: str
    tokens: tuple[int, ...]


class WhisperTokens:
    """The vocabulary of one model. Languages are ISO 639-1 codes, as Whisper knows them."""

    def __init__(self, path: Path, *, multilingual: bool) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            raise ConfigError(f"{path} is no tokenizer: {error}") from error
        self.multilingual = multilingual
        self.end = self._known("<|endoftext|>")
        self.start = self._known("<|startoftranscript|>")
        self._previous = self._known("<|startofprev|>")
        self._no_timestamps = self._known("<|notimestamps|>")
        self._transcribe = self._known("<|transcribe|>")
        self._filler = self._tokenizer.encode(".", add_special_tokens=False).ids[-1:]

    def _known(self, token: str) -> int:
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise ConfigError(f"the tokenizer lacks {token}: it is not Whisper's")
        return int(number)

    def language_token(self, language: str) -> int | None:
        """The token of a language; None when the model does not know it."""
        number = self._tokenizer.token_to_id(f"<|{language}|>")
        return None if number is None else int(number)

    def task(self, language: str) -> tuple[int, ...]:
        """The tokens from the start of the transcript to its first word."""
        if not self.multilingual:
            return (self.start, self._no_timestamps)
        language_token = self.language_token(language)
        if language_token is None:
            raise ConfigError(f"this model does not know the language {language!r}")
        return (self.start, language_token, self._transcribe, self._no_timestamps)

    def hints(self, hotwords: Sequence[str]) -> tuple[int, ...]:
        """Hotwords as text said before, whole ones only, filled up in front to a common length."""
        tokens: list[int] = []
        for number, word in enumerate(hotwords):
            text = f" {word.strip()}" if number == 0 else f", {word.strip()}"
            more = self._tokenizer.encode(text, add_special_tokens=False).ids
            if len(tokens) + len(more) + 1 > _HINT_TOKENS[-1]:
                break
            tokens += more
        if not tokens:
            return ()
        length = next(size for size in _HINT_TOKENS if size >= len(tokens) + 1)
        return (self._previous, *self._filler * (length - len(tokens) - 1), *tokens)

    def begins_word(self, token: int) -> bool:
        """Whether the token starts with a space, as every word but the first does."""
        return self.decode((token,)).startswith(" ")

    def text_tokens(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Without the end of the text and all else that is no text."""
        return tuple(token for token in tokens if token < self.end)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text, with the space in front that Whisper writes."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def words(self, tokens: Sequence[int], language: str) -> list[TokenWord]:
        """Tokens grouped into words; into characters where words are not spaced."""
        found: list[TokenWord] = []
        pending: list[int] = []
        for token in tokens:
            pending.append(token)
            text = self.decode(pending)
            if _INCOMPLETE in text:
                continue
            spaced = text.startswith(" ") or language in _UNSPACED or not found
            if spaced:
                found.append(TokenWord(text=text.strip(), tokens=tuple(pending)))
            else:
                last = found.pop()
                joined = (*last.tokens, *pending)
                found.append(TokenWord(text=last.text + text.strip(), tokens=joined))
            pending = []
        return [word for word in found if word.text]
