"""The C library inside the `pocketsphinx` wheel, called without holding Python's global lock.

The wheel's own classes keep that lock while they decode, so threads would take turns; through
ctypes several calls are decoded at once, one Decoder per thread at a time.

Source: include/pocketsphinx.h of PocketSphinx 5.1.
"""

from __future__ import annotations

import ctypes
import weakref
from ctypes import POINTER, byref, c_char_p, c_int, c_int32, c_size_t, c_void_p
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from services.common.errors import ConfigError
from services.stt.engine import EngineError

FRAME_MS = 10
_SIGNATURES = {
    "ps_config_init": (c_void_p, [c_void_p]),
    "ps_config_set_str": (c_void_p, [c_void_p, c_char_p, c_char_p]),
    "ps_config_set_bool": (c_void_p, [c_void_p, c_char_p, c_int]),
    "ps_config_free": (c_int, [c_void_p]),
    "ps_init": (c_void_p, [c_void_p]),
    "ps_free": (c_int, [c_void_p]),
    "ps_add_word": (c_int, [c_void_p, c_char_p, c_char_p, c_int]),
    "ps_add_jsgf_string": (c_int, [c_void_p, c_char_p, c_char_p]),
    "ps_add_allphone_file": (c_int, [c_void_p, c_char_p, c_char_p]),
    "ps_activate_search": (c_int, [c_void_p, c_char_p]),
    "ps_remove_search": (c_int, [c_void_p, c_char_p]),
    "ps_start_stream": (c_int, [c_void_p]),
    "ps_start_utt": (c_int, [c_void_p]),
    "ps_process_raw": (c_int, [c_void_p, c_char_p, c_size_t, c_int, c_int]),
    "ps_end_utt": (c_int, [c_void_p]),
    "ps_get_hyp": (c_char_p, [c_void_p, POINTER(c_int32)]),
    "ps_get_n_frames": (c_int, [c_void_p]),
    "ps_get_cmn": (c_char_p, [c_void_p, c_int]),
    "ps_set_cmn": (c_int, [c_void_p, c_char_p]),
    "ps_seg_iter": (c_void_p, [c_void_p]),
    "ps_seg_next": (c_void_p, [c_void_p]),
    "ps_seg_word": (c_char_p, [c_void_p]),
    "ps_seg_frames": (None, [c_void_p, POINTER(c_int), POINTER(c_int)]),
}


@dataclass(frozen=True, slots=True)
class Segment:
    """A word or filler of the best path; frames of 10 ms, the last one included."""

    word: str
    first_frame: int
    last_frame: int


@cache
def library() -> ctypes.CDLL:
    """The library, with its functions declared; ConfigError where it is not usable."""
    spec = find_spec("pocketsphinx._pocketsphinx")
    if spec is None or spec.origin is None:
        raise ConfigError('PocketSphinx is not installed: pip install "landline[stt]"')
    loaded = ctypes.CDLL(spec.origin)
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(loaded, name, None)
        if function is None:
            raise ConfigError(f"this build of PocketSphinx lacks {name}: install pocketsphinx 5.1")
        function.restype = result
        function.argtypes = arguments
    return loaded


@cache
def model_folder() -> Path:
    """Where the wheel keeps its American English model and dictionary."""
    spec = find_spec("pocketsphinx")
    if spec is None or spec.origin is None:
        raise ConfigError('PocketSphinx is not installed: pip install "landline[stt]"')
    return Path(spec.origin).parent / "model" / "en-us"


class Decoder:
    """One decoder with an empty dictionary. It is used by one thread at a time."""

    def __init__(self) -> None:
        self._c = library()
        config = self._c.ps_config_init(None)
        folder = str(model_folder() / "en-us").encode()
        self._c.ps_config_set_str(config, b"hmm", folder)
        self._c.ps_config_set_str(config, b"loglevel", b"FATAL")
        # A second pass over the lattice takes seconds with a large grammar, and the path that the
        # first pass found is the one whose score can be held against the phone loop's.
        self._c.ps_config_set_bool(config, b"bestpath", 0)
        self._decoder = self._c.ps_init(config)
        self._c.ps_config_free(config)
        if not self._decoder:
            raise EngineError(f"PocketSphinx cannot load its model from {folder.decode()}")
        self._has_decoded = False
        weakref.finalize(self, self._c.ps_free, self._decoder)

    def add_word(self, name: str, phones: str) -> None:
        """A pronunciation in ARPAbet; further ones of a word are named `word(2)` and so on."""
        if self._c.ps_add_word(self._decoder, name.encode(), phones.encode(), 0) < 0:
            raise EngineError(f"PocketSphinx does not take {phones!r} as the sound of {name!r}")

    def add_grammar(self, name: str, jsgf: str) -> None:
        self._check(self._c.ps_add_jsgf_string(self._decoder, name.encode(), jsgf.encode()), name)

    def add_phone_loop(self, name: str) -> None:
        """A search that takes any sequence of phones."""
        self._check(self._c.ps_add_allphone_file(self._decoder, name.encode(), None), name)

    def remove(self, name: str) -> None:
        self._check(self._c.ps_remove_search(self._decoder, name.encode()), name)

    def start(self, name: str, means: bytes) -> None:
        """Begin an utterance with a search and first cepstral means (see `means`)."""
        self._check(self._c.ps_activate_search(self._decoder, name.encode()), name)
        self._has_decoded = True
        self._check(self._c.ps_set_cmn(self._decoder, means), "set_cmn")
        self._start_afresh()

    def process(self, pcm: bytes) -> None:
        """Decode more 16 kHz mono s16le audio."""
        self._process(pcm, search=True)

    def means(self, name: str, pcm: bytes) -> bytes:
        """The cepstral means of this audio, which is not decoded.

        A decoder that has once decoded audio as it came never takes the mean of a whole again
        (feat_cmn in feat.c), only a slow average over all that it ever heard. So one that measures
        must do nothing else.
        """
        if self._has_decoded:
            raise EngineError("a decoder that has decoded cannot measure")
        self._check(self._c.ps_activate_search(self._decoder, name.encode()), name)
        self._start_afresh()
        self._process(pcm, search=False)
        self.end()
        return bytes(self._c.ps_get_cmn(self._decoder, 0))

    def end(self) -> None:
        self._check(self._c.ps_end_utt(self._decoder), "end_utt")

    def best(self) -> tuple[str, int] | None:
        """The best path so far with its log score; None when there is none."""
        score = c_int32()
        text = self._c.ps_get_hyp(self._decoder, byref(score))
        return None if text is None else (text.decode(), score.value)

    def frames(self) -> int:
        """How many were decoded."""
        return int(self._c.ps_get_n_frames(self._decoder))

    def segments(self) -> list[Segment]:
        """The best path in order, fillers included."""
        found = []
        first, last = c_int(), c_int()
        at = self._c.ps_seg_iter(self._decoder)
        while at:
            self._c.ps_seg_frames(at, byref(first), byref(last))
            found.append(Segment(self._c.ps_seg_word(at).decode(), first.value, last.value))
            at = self._c.ps_seg_next(at)
        return found

    def _start_afresh(self) -> None:
        """Without what was learnt of the noise on the line before, which was another call's."""
        self._check(self._c.ps_start_stream(self._decoder), "start_stream")
        self._check(self._c.ps_start_utt(self._decoder), "start_utt")

    def _process(self, pcm: bytes, *, search: bool) -> None:
        # Audio that is only measured is taken as a whole, which is when its mean is exact.
        whole = skip = int(not search)
        done = self._c.ps_process_raw(self._decoder, pcm, len(pcm) // 2, skip, whole)
        self._check(0 if done >= 0 else -1, "process_raw")

    def _check(self, status: int, what: str) -> None:
        if status < 0:
            raise EngineError(f"PocketSphinx failed at {what}")
