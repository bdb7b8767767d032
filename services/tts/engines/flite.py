"""Flite: American English voices of 16 kHz from the system's libflite (Debian: libflite1).

Source: include/cst_audio.h, cst_voice.h and doc of Flite 2.2.
"""

from __future__ import annotations

import ctypes
import unicodedata
from ctypes import POINTER, c_char_p, c_float, c_int, c_short, c_void_p
from typing import TYPE_CHECKING, ClassVar

from services.common.errors import ConfigError
from services.tts.engine import EngineError, SpokenWord, UnknownVoiceError, Voice

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.tts.engine import Deliver

# Voices of natural sound, and the gain that brings each to the common level.
GAINS = {"slt": 0.62, "rms": 1.15, "awb": 1.0}
_RATE_HZ = 16_000
_BUFFER_SAMPLES = 1_600
_MAX_PIECE_CHARACTERS = 140
_GO_ON, _STOP = 0, -1
_PUNCTUATION = {
    "\u2018": "'",
    "\u2019": "'",
    "\u201c": '"',
    "\u201d": '"',
    "\u2013": "-",
    "\u2014": ",",
}
_WORD_START = b"R:Token.daughter1.R:SylStructure.daughter1.daughter1.R:Segment.p.end"


class _Wave(ctypes.Structure):
    _fields_: ClassVar = [
        ("type", c_char_p),
        ("sample_rate", c_int),
        ("num_samples", c_int),
        ("num_channels", c_int),
        ("samples", POINTER(c_short)),
    ]


class _StreamingInfo(ctypes.Structure):
    """cst_audio_streaming_info."""

    _fields_: ClassVar = [
        ("min_buffsize", c_int),
        ("asc", c_void_p),
        ("utt", c_void_p),
        ("item", c_void_p),
        ("userdata", c_void_p),
    ]


class _VoiceRecord(ctypes.Structure):
    """The beginning of cst_voice."""

    _fields_: ClassVar = [("name", c_char_p), ("features", c_void_p)]


_CALLBACK = ctypes.CFUNCTYPE(c_int, POINTER(_Wave), c_int, c_int, c_int, POINTER(_StreamingInfo))


class FliteEngine:
    """`default` is the voice where the request names none."""

    def __init__(self, default: str = "slt") -> None:
        self._flite = _load("libflite.so.1")
        self._flite.flite_init()
        self._voices = dict(_voices(self._flite))
        if not self._voices:
            raise ConfigError("Flite has no voices: install the Debian package libflite1")
        self._default = default
        self.voice(default, "en")
        self._callback = _CALLBACK(self._on_audio)
        for record in self._voices.values():
            self._attach(record)
        self._deliver: Deliver | None = None
        self._failure: Exception | None = None
        self._text = ""

    @property
    def voices(self) -> frozenset[str]:
        """Names of the voices that are installed."""
        return frozenset(self._voices)

    def voice(self, name: str, language: str) -> Voice:
        if language.partition("-")[0].lower() not in ("", "en"):
            raise UnknownVoiceError(f"Flite speaks English only, not {language!r}")
        wanted = name or self._default
        if wanted not in self._voices:
            raise UnknownVoiceError(
                f"Flite has no voice {wanted!r}; it has {', '.join(sorted(self._voices))}"
            )
        return Voice(
            name=wanted,
            sample_rate_hz=_RATE_HZ,
            gain=GAINS[wanted],
            max_piece_characters=_MAX_PIECE_CHARACTERS,
        )

    def speak(self, text: str, voice: Voice, rate: float, deliver: Deliver) -> None:
        record = self._voices[voice.name]
        self._flite.flite_feat_set_float(record.features, b"duration_stretch", 1.0 / rate)
        self._deliver, self._failure, self._text = deliver, None, to_ascii(text)
        utterance = self._flite.flite_synth_text(self._text.encode(), ctypes.byref(record))
        self._deliver = None
        if utterance:
            self._flite.delete_utterance(utterance)
        if self._failure is not None:
            raise self._failure
        if not utterance:
            raise EngineError("Flite could not speak the text")

    def _attach(self, record: _VoiceRecord) -> None:
        info = self._flite.new_audio_streaming_info()
        info.contents.min_buffsize = _BUFFER_SAMPLES
        info.contents.asc = ctypes.cast(self._callback, c_void_p)
        value = self._flite.audio_streaming_info_val(info)
        self._flite.feat_set(record.features, b"streaming_info", value)

    def _on_audio(self, wave: object, start: int, size: int, last: int, info: object) -> int:
        """Called by the library with each buffer. An exception must not pass through C."""
        if self._deliver is None:
            return _STOP
        try:
            words = tuple(self._words(info.contents.utt)) if start == 0 else ()  # type: ignore[attr-defined]
            samples = wave.contents.samples  # type: ignore[attr-defined]
            address = ctypes.addressof(samples.contents) + 2 * start
            pcm = ctypes.string_at(address, 2 * size) if size > 0 else b""
            return _GO_ON if self._deliver(pcm, words) else _STOP
        except Exception as error:
            self._failure = error
            return _STOP

    def _words(self, utterance: int) -> Iterator[SpokenWord]:
        """Tokens in order, each found again in the text behind the one before."""
        relation = self._flite.utt_relation(utterance, b"Token")
        item = self._flite.relation_head(relation)
        position = 0
        while item:
            token = self._flite.flite_ffeature_string(item, b"name").decode(errors="replace")
            at = self._text.find(token, position)
            if at >= 0 and token:
                start_s = self._flite.flite_ffeature_float(item, _WORD_START)
                yield SpokenWord(text_offset=at, text_length=len(token), start_ms=start_s * 1000)
                position = at + len(token)
            item = self._flite.item_next(item)


def to_ascii(text: str) -> str:
    """The text in the only letters that Flite knows, each in its old position."""
    return "".join(map(_ascii, text))


def _ascii(character: str) -> str:
    if character.isascii():
        return character
    plain = _PUNCTUATION.get(character) or unicodedata.normalize("NFKD", character)[0]
    return plain if plain.isascii() else " "


def _load(name: str) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise ConfigError(
            'Flite is not installed: apt install libflite1, or set [tts] engine = "espeak"'
        ) from error
    if name == "libflite.so.1":
        _declare(library)
    return library


def _declare(flite: ctypes.CDLL) -> None:
    signatures = {
        "flite_synth_text": (c_void_p, [c_char_p, POINTER(_VoiceRecord)]),
        "delete_utterance": (None, [c_void_p]),
        "flite_feat_set_float": (None, [c_void_p, c_char_p, c_float]),
        "new_audio_streaming_info": (POINTER(_StreamingInfo), []),
        "audio_streaming_info_val": (c_void_p, [POINTER(_StreamingInfo)]),
        "feat_set": (None, [c_void_p, c_char_p, c_void_p]),
        "utt_relation": (c_void_p, [c_void_p, c_char_p]),
        "relation_head": (c_void_p, [c_void_p]),
        "item_next": (c_void_p, [c_void_p]),
        "flite_ffeature_string": (c_char_p, [c_void_p, c_char_p]),
        "flite_ffeature_float": (c_float, [c_void_p, c_char_p]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(flite, name)
        function.restype = result
        function.argtypes = arguments


def _voices(flite: ctypes.CDLL) -> Iterator[tuple[str, _VoiceRecord]]:
    for name in GAINS:
        try:
            library = _load(f"libflite_cmu_us_{name}.so.1")
        except ConfigError:
            continue
        register = getattr(library, f"register_cmu_us_{name}")
        register.restype = POINTER(_VoiceRecord)
        register.argtypes = [c_char_p]
        yield name, register(None).contents
