"""Whisper on CTranslate2: one model on one device, decoding batches.

Everything is read from a folder on this machine; nothing is ever fetched.

Source: CTranslate2 4.8, `ctranslate2.models.Whisper`. It batches prompts in which
<|startoftranscript|> has the same place and the task has as many tokens; prefixes may differ.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import ctranslate2
import numpy as np

from services.common.errors import ConfigError
from services.stt.engine import EngineError
from services.stt.engines.whisper.decoding import DETECT, Decoded, Hypothesis, TokenTime
from services.stt.engines.whisper.mel import pad
from services.stt.engines.whisper.tokens import WhisperTokens

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from services.stt.engines.whisper.decoding import Request
    from services.stt.engines.whisper.mel import Floats

_REQUIRED = ("model.bin", "config.json", "tokenizer.json")
_VOCABULARIES = ("vocabulary.json", "vocabulary.txt")
_MAX_TOKENS = 224  # half of the model's text context
_MS_PER_POSITION = 20  # of the encoder's output
_MEL_SIZES = (80, 128)
_ENCODED_TOGETHER = 4


def check_folder(folder: Path) -> None:
    """ConfigError when a file of the model is missing; the message names it."""
    if not folder.is_dir():
        raise ConfigError(
            f"[stt.whisper] model: there is no folder {folder}; "
            "landline models list shows what there is, landline models pull fetches one"
        )
    missing = [name for name in _REQUIRED if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        missing.append(" or ".join(_VOCABULARIES))
    if missing:
        raise ConfigError(f"the model in {folder} is not complete: {', '.join(missing)} missing")


class CTranslateDecoder:
    """A model loaded on one device (services.stt.engines.whisper.decoding.Decoder).

    As many threads as it has `workers` may use it at a time; they share the weights.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str,
        device_index: int,
        compute_type: str,
        threads: int,
        workers: int = 1,
    ) -> None:
        check_folder(folder)
        try:
            self.model = ctranslate2.models.Whisper(
                str(folder),
                device=device,
                device_index=device_index,
                compute_type=compute_type,
                intra_threads=threads,
                inter_threads=workers,
            )
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"the model in {folder} cannot be loaded: {error}") from error
        self.on_cpu = device == "cpu"
        self._mels = int(self.model.n_mels)
        if self._mels not in _MEL_SIZES:
            raise ConfigError(f"the model in {folder} takes {self._mels} mel bands, not 80 or 128")
        self._tokens = WhisperTokens(
            folder / "tokenizer.json", multilingual=self.model.is_multilingual
        )

    @property
    def tokens(self) -> WhisperTokens:
        return self._tokens

    @property
    def mels(self) -> int:
        return self._mels

    def decode(self, requests: Sequence[Request]) -> list[Decoded]:
        try:
            return self._decode(requests)
        except (RuntimeError, ValueError, MemoryError) as error:
            raise EngineError(f"CTranslate2 failed: {error}") from error

    def _decode(self, requests: Sequence[Request]) -> list[Decoded]:
        features = np.stack([pad(request.features, request.frames) for request in requests])
        encoded = self._encode(features)
        languages = self._languages(requests, encoded)
        prompts = [
            self._with_language(request, language).tokens
            for request, language in zip(requests, languages, strict=True)
        ]
        limits = [self._limit(request) for request in requests]
        results = self.model.generate(
            encoded,
            prompts,
            beam_size=requests[0].beam,
            num_hypotheses=requests[0].hypotheses,
            # CTranslate2 halves it, and counts the prefix.
            max_length=2 * max(limits),
            return_scores=True,
            return_no_speech_prob=True,
            suppress_blank=not any(request.prompt.prefix for request in requests),
        )
        decoded = [
            self._decoded(result, limit, language)
            for result, limit, language in zip(results, limits, languages, strict=True)
        ]
        return self._aligned(requests, encoded, decoded)

    def _encode(self, features: Floats) -> Any:
        """The encoder gains nothing from batches on a processor, and loses its cache in large ones:
        there it is run in small ones."""
        view = ctranslate2.StorageView.from_array
        if not self.on_cpu or len(features) <= _ENCODED_TOGETHER:
            return self.model.encode(view(features))
        starts = range(0, len(features), _ENCODED_TOGETHER)
        pieces = (features[at : at + _ENCODED_TOGETHER] for at in starts)
        encoded = [np.array(self.model.encode(view(piece))) for piece in pieces]
        return view(np.concatenate(encoded))

    def _limit(self, request: Request) -> int:
        return min(len(request.prompt.prefix) + request.max_tokens, _MAX_TOKENS)

    def _languages(self, requests: Sequence[Request], encoded: Any) -> list[str]:
        if all(request.language != DETECT for request in requests):
            return [request.language for request in requests]
        if not self._tokens.multilingual:
            return ["en"] * len(requests)
        found = self.model.detect_language(encoded)
        return [
            request.language or ranked[0][0].strip("<|>")
            for request, ranked in zip(requests, found, strict=True)
        ]

    def _with_language(self, request: Request, language: str) -> Any:
        if request.language != DETECT:
            return request.prompt
        return dataclasses.replace(request.prompt, task=self._tokens.task(language))

    def _decoded(self, result: Any, limit: int, language: str) -> Decoded:
        hypotheses = [
            Hypothesis(
                # What the longest of the batch was allowed is no permission for the others.
                tokens=self._tokens.text_tokens(tokens)[:limit],
                log_probability=float(score),
            )
            for tokens, score in zip(result.sequences_ids, result.scores, strict=True)
        ]
        return Decoded(
            hypotheses=tuple(hypotheses),
            no_speech=float(result.no_speech_prob),
            language=language,
        )

    def _aligned(
        self, requests: Sequence[Request], encoded: Any, decoded: list[Decoded]
    ) -> list[Decoded]:
        """With the times of the tokens where they are wanted; one pass for each language."""
        wanted = [
            request.align and bool(item.hypotheses[0].tokens)
            for request, item in zip(requests, decoded, strict=True)
        ]
        frames = [min(request.features.shape[1], request.frames) for request in requests]
        timed = list(decoded)
        for language in {item.language for item, want in zip(decoded, wanted, strict=True) if want}:
            rows = [
                want and item.language == language
                for item, want in zip(decoded, wanted, strict=True)
            ]
            alignments = self.model.align(
                encoded,
                list(self._tokens.task(language)[:-1]),
                [
                    list(item.hypotheses[0].tokens) if row else []
                    for item, row in zip(decoded, rows, strict=True)
                ],
                frames,
            )
            for index, row in enumerate(rows):
                if row:
                    times = _times(alignments[index], len(decoded[index].hypotheses[0].tokens))
                    timed[index] = dataclasses.replace(decoded[index], times=times)
        return timed


def _times(alignment: Any, tokens: int) -> tuple[TokenTime, ...]:
    """First and last position of each token on the path through the attention."""
    starts: dict[int, int] = {}
    ends: dict[int, int] = {}
    for token, position in alignment.alignments:
        starts.setdefault(token, position)
        ends[token] = position + 1
    return tuple(
        TokenTime(
            starts.get(token, 0) * _MS_PER_POSITION,
            ends.get(token, 0) * _MS_PER_POSITION,
            float(alignment.text_token_probs[token]),
        )
        for token in range(tokens)
    )
