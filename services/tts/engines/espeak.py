"""eSpeak NG from the `espeakng-loader` wheel, which carries library and data.

The library is one per process and knows one voice at a time, so it is used from one thread.
Markup and phoneme codes in the text are spoken, never interpreted.

Source: src/include/espeak-ng/speak_lib.h of eSpeak NG 1.52.
"""

from __future__ import annotations

import ctypes
import re
from ctypes import POINTER, c_char_p, c_int, c_short, c_ubyte, c_uint, c_void_p
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from services.common.errors import ConfigError
from services.tts.engine import EngineError, SpokenWord, UnknownVoiceError, Voice

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from services.tts.engine import Deliver

_SYNCHRONOUS = 2
_BUFFER_MS = 60
_NO_EXIT_ON_ERROR = 0x8000
_UTF8 = 1
_BY_CHARACTER = 1
_RATE = 1
_NORMAL_WORDS_PER_MINUTE = 160  # a little slower than the library's 175: telephones swallow sounds
_EVENT_END = 0
_EVENT_WORD = 1
_VOICE = re.compile(r"([a-z]{2,3}(?:-[a-z0-9]+)*)(?:\+([A-Za-z0-9_-]+))?")
_GAIN = 1.1
_MAX_PIECE_CHARACTERS = 1_000


class _Event(ctypes.Structure):
    """espeak_EVENT; `id` is a union of eight bytes."""

    _fields_: ClassVar = [
        ("type", c_int),
        ("unique_identifier", c_uint),
        ("text_position", c_int),
        ("length", c_int),
        ("audio_position", c_int),
        ("sample", c_int),
        ("user_data", c_void_p),
        ("id", c_ubyte * 8),
    ]


class _Voice(ctypes.Structure):
    """The beginning of espeak_VOICE."""

    _fields_: ClassVar = [
        ("name", c_char_p),
        ("languages", c_void_p),
        ("identifier", c_char_p),
    ]


_CALLBACK = ctypes.CFUNCTYPE(c_int, POINTER(c_short), c_int, POINTER(_Event))


class EspeakEngine:
    """`defaults` names the voice of a language where the request names none."""

    def __init__(self, defaults: Mapping[str, str] | None = None) -> None:
        self._espeak, data = _load()
        rate_hz = self._espeak.espeak_Initialize(
            _SYNCHRONOUS, _BUFFER_MS, str(data.parent).encode(), _NO_EXIT_ON_ERROR
        )
        if rate_hz <= 0:
            raise ConfigError(f"eSpeak NG cannot read its data in {data}")
        self._rate_hz = int(rate_hz)
        self._identifiers = dict(_languages(self._espeak))
        self._variants = frozenset(path.name for path in (data / "voices" / "!v").iterdir())
        self._defaults = {key.lower(): value for key, value in (defaults or {}).items()}
        for voice in self._defaults.values():
            self.voice(voice, "")
        self._deliver: Deliver | None = None
        self._failure: Exception | None = None
        self._callback = _CALLBACK(self._on_audio)
        self._espeak.espeak_SetSynthCallback(self._callback)
        self._current = ""

    def voice(self, name: str, language: str) -> Voice:
        return Voice(
            name=self._checked(name) if name else self._default(language),
            sample_rate_hz=self._rate_hz,
            gain=_GAIN,
            max_piece_characters=_MAX_PIECE_CHARACTERS,
        )

    def speak(self, text: str, voice: Voice, rate: float, deliver: Deliver) -> None:
        if voice.name != self._current:
            language, plus, variant = voice.name.partition("+")
            identifier = self._identifiers[language] + plus + variant
            if self._espeak.espeak_SetVoiceByName(identifier.encode()) != 0:
                raise EngineError(f"eSpeak NG cannot load its voice {voice.name!r}")
            self._current = voice.name
        self._espeak.espeak_SetParameter(_RATE, round(_NORMAL_WORDS_PER_MINUTE * rate), 0)
        encoded = text.encode() + b"\0"
        self._deliver, self._failure = deliver, None
        status = self._espeak.espeak_Synth(
            encoded, len(encoded), 0, _BY_CHARACTER, 0, _UTF8, None, None
        )
        self._deliver = None
        if self._failure is not None:
            raise self._failure
        if status != 0:
            raise EngineError(f"eSpeak NG failed with status {status}")

    def _on_audio(self, samples: object, count: int, events: object) -> int:
        """Called by the library; 1 stops it. An exception must not pass through C."""
        if self._deliver is None:
            return 1
        try:
            pcm = ctypes.string_at(samples, count * 2) if samples and count > 0 else b""  # type: ignore[arg-type]
            words = tuple(_words(events))
            return 0 if self._deliver(pcm, words) else 1
        except Exception as error:
            self._failure = error
            return 1

    def _checked(self, name: str) -> str:
        match = _VOICE.fullmatch(name)
        if match is None or match[1] not in self._identifiers:
            raise UnknownVoiceError(
                f"eSpeak NG has no voice {name!r}; write a language such as en-us, "
                "or a language and a variant such as en-us+f3"
            )
        if match[2] is not None and match[2] not in self._variants:
            raise UnknownVoiceError(
                f"eSpeak NG has no voice variant {match[2]!r}; it has "
                + ", ".join(sorted(self._variants))
            )
        return name

    def _default(self, language: str) -> str:
        wanted = language.lower().replace("_", "-") or "en-us"
        for candidate in (wanted, wanted.partition("-")[0]):
            if candidate in self._defaults:
                return self._defaults[candidate]
            if candidate in self._identifiers:
                return candidate
        raise UnknownVoiceError(f"eSpeak NG does not speak the language {language!r}")


def _load() -> tuple[ctypes.CDLL, Path]:
    if find_spec("espeakng_loader") is None:
        raise ConfigError('eSpeak NG is not installed: pip install "landline[tts]"')
    import espeakng_loader

    espeak = ctypes.CDLL(espeakng_loader.get_library_path())
    espeak.espeak_Synth.argtypes = [
        c_char_p,
        ctypes.c_size_t,
        c_uint,
        c_int,
        c_uint,
        c_uint,
        c_void_p,
        c_void_p,
    ]
    espeak.espeak_ListVoices.argtypes = [c_void_p]
    espeak.espeak_ListVoices.restype = POINTER(POINTER(_Voice))
    return espeak, Path(espeakng_loader.get_data_path())


def _languages(espeak: ctypes.CDLL) -> Iterator[tuple[str, str]]:
    """Languages and the voice that speaks each; a better voice comes after a worse one.

    A voice lists its languages as a byte (low is better) and a name, ended by a zero byte.
    """
    found: list[tuple[int, str, str]] = []
    voices = espeak.espeak_ListVoices(None)
    index = 0
    while voices[index]:
        voice = voices[index].contents
        at = voice.languages
        while (priority := ctypes.string_at(at, 1)[0]) != 0:
            language = ctypes.string_at(at + 1)
            found.append((priority, language.decode().lower(), voice.identifier.decode()))
            at += len(language) + 2
        index += 1
    for _, language_name, identifier in sorted(found, reverse=True):
        yield language_name, identifier


def _words(events: object) -> Iterator[SpokenWord]:
    index = 0
    while (event := events[index]).type != _EVENT_END:  # type: ignore[index]
        if event.type == _EVENT_WORD:
            yield SpokenWord(
                text_offset=event.text_position - 1,
                text_length=event.length,
                start_ms=float(event.audio_position),
            )
        index += 1
