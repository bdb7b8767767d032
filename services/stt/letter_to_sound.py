# ruff: noqa: RUF001 - these are the letters of the International Phonetic Alphabet
"""Guesses how an English word sounds, with the rules of eSpeak NG.

Source: src/include/espeak-ng/speak_lib.h of eSpeak NG 1.52.
"""

from __future__ import annotations

import ctypes
import re
from functools import cache
from importlib.util import find_spec

_ESPEAK_SYNCHRONOUS = 2
_NO_EXIT_ON_ERROR = 0x8000
_UTF8 = 1
_IPA = 2
# Longest first, so that a diphthong is not read as two vowels.
_ARPABET = {
    "aɪɚ": "AY ER", "aɪə": "AY AH", "tʃ": "CH", "dʒ": "JH", "aʊ": "AW", "aɪ": "AY", "eɪ": "EY",
    "oʊ": "OW", "ɔɪ": "OY", "əl": "AH L", "iə": "IY AH", "ɜː": "ER", "ɑː": "AA", "ɔː": "AO",
    "oː": "AO", "iː": "IY", "uː": "UW", "n̩": "AH N", "l̩": "AH L", "m̩": "AH M",
    "æ": "AE", "a": "AE", "ʌ": "AH", "ə": "AH", "ɐ": "AH", "ɔ": "AO", "ɑ": "AA", "ɒ": "AA",
    "ɛ": "EH", "e": "EH", "ɚ": "ER", "ɜ": "ER", "ɪ": "IH", "ᵻ": "IH", "i": "IY", "ʊ": "UH",
    "u": "UW", "o": "OW", "b": "B", "d": "D", "ð": "DH", "f": "F", "ɡ": "G", "h": "HH",
    "k": "K", "x": "K", "l": "L", "ɫ": "L", "m": "M", "n": "N", "ŋ": "NG", "p": "P", "ɹ": "R",
    "r": "R", "s": "S", "ʃ": "SH", "t": "T", "ɾ": "T", "θ": "TH", "v": "V", "w": "W", "j": "Y",
    "z": "Z", "ʒ": "ZH", "ʔ": "T",
}  # fmt: skip
_SYMBOL = re.compile("|".join(sorted(map(re.escape, _ARPABET), key=len, reverse=True)) + "|.")
_MARKS = re.compile(r"[ˈˌ\s_ː‍-]|\([a-z-]+\)")


def guess(word: str) -> str | None:
    """ARPAbet phones of the word, or None where eSpeak NG is absent or knows no English sound.

    Not safe for several threads at once.
    """
    espeak = _espeak()
    if espeak is None:
        return None
    text = ctypes.c_char_p(word.encode())
    ipa = espeak.espeak_TextToPhonemes(ctypes.byref(text), _UTF8, _IPA)
    return to_arpabet(ipa.decode()) if ipa else None


def to_arpabet(ipa: str) -> str | None:
    """American English IPA as eSpeak writes it; None where a symbol has no counterpart."""
    symbols = _SYMBOL.findall(
        _MARKS.sub("", re.sub(r"(?<=[ɜɑɔoiu])ː", "\0", ipa)).replace("\0", "ː")
    )
    if not symbols or any(symbol not in _ARPABET for symbol in symbols):
        return None
    return " ".join(_ARPABET[symbol] for symbol in symbols)


@cache
def _espeak() -> ctypes.CDLL | None:
    if find_spec("espeakng_loader") is None:
        return None
    import espeakng_loader

    espeak = ctypes.CDLL(espeakng_loader.get_library_path())
    espeak.espeak_TextToPhonemes.argtypes = [
        ctypes.POINTER(ctypes.c_char_p),
        ctypes.c_int,
        ctypes.c_int,
    ]
    espeak.espeak_TextToPhonemes.restype = ctypes.c_char_p
    data = espeakng_loader.get_data_path().encode()
    rate_hz = espeak.espeak_Initialize(_ESPEAK_SYNCHRONOUS, 0, data, _NO_EXIT_ON_ERROR)
    if rate_hz < 0 or espeak.espeak_SetVoiceByName(b"en-us") != 0:
        return None
    return espeak
