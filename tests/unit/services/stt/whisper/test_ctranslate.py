"""CTranslate2 with models of true format and random weights: nothing is downloaded."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services.common.clock import SystemClock
from services.common.errors import ConfigError
from services.stt.engine import EngineError, Vocabulary
from services.stt.engines.whisper.config import WhisperConfig
from services.stt.engines.whisper.ctranslate import CTranslateDecoder
from services.stt.engines.whisper.decoding import DETECT, Decoded, Request
from services.stt.engines.whisper.devices import place, trial_request
from services.stt.engines.whisper.engine import WhisperEngine
from services.stt.engines.whisper.guards import Guard, GuardConfig
from services.stt.engines.whisper.tokens import Prompt
from tests.fakes import telephone, whisper_model

ALL_OFF = GuardConfig(off=list(Guard))
RNG = np.random.default_rng(5)


@pytest.fixture(scope="module")
def decoder() -> CTranslateDecoder:
    return load(whisper_model.toy())


def load(folder: Path, compute_type: str = "float32") -> CTranslateDecoder:
    return CTranslateDecoder(
        folder, device="cpu", device_index=0, compute_type=compute_type, threads=1
    )


def request(decoder: CTranslateDecoder, frames: int = 250, **changes: object) -> Request:
    features = RNG.standard_normal((80, frames)).astype(np.float32)
    base = replace(trial_request(decoder), features=features, frames=300, max_tokens=10)
    return replace(base, **changes)


def forced(decoder: CTranslateDecoder, prefix: tuple[int, ...]) -> Prompt:
    return Prompt(previous=(), task=decoder.tokens.task("en"), prefix=prefix)


def same(one: Decoded, other: Decoded) -> None:
    assert [item.tokens for item in one.hypotheses] == [item.tokens for item in other.hypotheses]
    assert one.hypotheses[0].log_probability == pytest.approx(
        other.hypotheses[0].log_probability, abs=1e-3
    )
    assert one.language == other.language
    assert [(t.start_ms, t.end_ms) for t in one.times] == [
        (t.start_ms, t.end_ms) for t in other.times
    ]


@pytest.mark.parametrize("beam", [1, 3])
def test_a_batch_gives_each_what_it_would_get_alone(decoder: CTranslateDecoder, beam: int) -> None:
    requests = [
        request(decoder, 250, beam=beam, align=True),
        request(decoder, 120, beam=beam, align=True),
        request(decoder, 300, beam=beam, prompt=forced(decoder, (1_000, 1_001)), max_tokens=8),
        request(decoder, 30, beam=beam, prompt=forced(decoder, (1_002,)), max_tokens=9, align=True),
    ]
    for together, one in zip(decoder.decode(requests), requests, strict=True):
        same(together, decoder.decode([one])[0])


def test_each_of_a_batch_keeps_its_own_limit(decoder: CTranslateDecoder) -> None:
    requests = [request(decoder, max_tokens=limit) for limit in (3, 10, 7)]
    for together, one in zip(decoder.decode(requests), requests, strict=True):
        alone = decoder.decode([one])[0].hypotheses[0].tokens
        assert together.hypotheses[0].tokens == alone
        assert len(alone) <= one.max_tokens


def test_order_in_the_batch_does_not_matter(decoder: CTranslateDecoder) -> None:
    requests = [request(decoder, frames) for frames in (100, 200, 300)]
    there = decoder.decode(requests)
    back = decoder.decode(requests[::-1])[::-1]
    for one, other in zip(there, back, strict=True):
        same(one, other)


def test_a_forced_prefix_begins_the_text(decoder: CTranslateDecoder) -> None:
    prefix = (1_000, 2_000, 3_000)
    [decoded] = decoder.decode([request(decoder, prompt=forced(decoder, prefix), max_tokens=5)])
    tokens = decoded.hypotheses[0].tokens
    assert tokens[:3] == prefix
    assert len(tokens) <= 8


def test_hints_and_languages_share_batches_of_equal_shape(decoder: CTranslateDecoder) -> None:
    hints = decoder.tokens.hints(("w1", "w2"))
    prompts = [
        Prompt(previous=hints, task=decoder.tokens.task(language)) for language in ("en", "de")
    ]
    requests = [
        request(decoder, prompt=prompt, language=language, align=True)
        for prompt, language in zip(prompts, ("en", "de"), strict=True)
    ]
    assert requests[0].shape == requests[1].shape
    decoded = decoder.decode(requests)
    assert [item.language for item in decoded] == ["en", "de"]
    for together, one in zip(decoded, requests, strict=True):
        same(together, decoder.decode([one])[0])


def test_an_unknown_language_is_detected_and_used(decoder: CTranslateDecoder) -> None:
    one = request(decoder, language=DETECT)
    [found] = decoder.decode([one])
    assert decoder.tokens.language_token(found.language) is not None
    told = replace(
        one,
        language=found.language,
        prompt=Prompt(previous=(), task=decoder.tokens.task(found.language)),
    )
    same(found, decoder.decode([told])[0])


def test_several_guesses_come_best_first(decoder: CTranslateDecoder) -> None:
    [decoded] = decoder.decode([request(decoder, beam=4, hypotheses=4)])
    scores = [item.log_probability for item in decoded.hypotheses]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)


def test_shapes_that_do_not_fit_are_an_error_and_not_the_end(decoder: CTranslateDecoder) -> None:
    hinted = Prompt(previous=decoder.tokens.hints(("w1",)), task=decoder.tokens.task("en"))
    with pytest.raises(EngineError, match="startoftranscript"):
        decoder.decode([request(decoder), request(decoder, prompt=hinted)])
    assert decoder.decode([request(decoder)])


def test_times_lie_within_the_window(decoder: CTranslateDecoder) -> None:
    [decoded] = decoder.decode([request(decoder, 200, align=True)])
    assert len(decoded.times) == len(decoded.hypotheses[0].tokens)
    assert all(0 <= time.start_ms <= time.end_ms <= 2_000 for time in decoded.times)


@pytest.mark.parametrize("missing", ["model.bin", "config.json", "tokenizer.json"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    folder = Path(shutil.copytree(whisper_model.toy(), tmp_path / "model"))
    (folder / missing).unlink()
    with pytest.raises(ConfigError, match=missing):
        load(folder)


def test_a_missing_vocabulary_or_folder_is_named(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whisper_model.toy(), tmp_path / "model"))
    for path in folder.glob("vocabulary.*"):
        path.unlink()
    with pytest.raises(ConfigError, match=r"vocabulary\.json or vocabulary\.txt"):
        load(folder)
    with pytest.raises(ConfigError, match="landline models pull"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["model.bin", "tokenizer.json"])
def test_a_broken_file_is_an_error_that_names_the_folder(tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(whisper_model.toy(), tmp_path / "model"))
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(ConfigError, match=str(folder)):
        load(folder)


def test_the_fastest_form_is_found_by_measuring() -> None:
    placed = place(whisper_model.toy(), WhisperConfig(), SystemClock())
    assert placed.compute_type in ("int8", "float32")
    assert len(placed.decoders) in (1, os.cpu_count())


@pytest.mark.parametrize(
    ("settings", "decoders"), [({"workers": 1, "threads": 1}, 1), ({"workers": 3}, 3)]
)
def test_the_cores_can_be_shared_out_by_hand(settings: dict[str, int], decoders: int) -> None:
    config = WhisperConfig.model_validate({"compute_type": "int8", **settings})
    placed = place(whisper_model.toy(), config, SystemClock())
    assert len(placed.decoders) == decoders
    assert len(set(map(id, placed.decoders))) == 1


def test_workers_that_share_a_model_decode_at_once_and_do_not_mix() -> None:
    decoder = CTranslateDecoder(
        whisper_model.toy(), device="cpu", device_index=0, compute_type="float32", threads=1,
        workers=2,
    )  # fmt: skip
    requests = [request(decoder, frames, align=True) for frames in (60, 120, 180, 240) * 3]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda one: decoder.decode([one])[0], requests))
    for parallel, one in zip(together, requests, strict=True):
        same(parallel, decoder.decode([one])[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"compute_type": "int4"}, "compute_type: 'int4' is not possible on cpu"),
        ({"device": "cuda", "device_indexes": [7]}, "GPU .* found"),
        ({"languages": ["xx"]}, "does not know 'xx'"),
    ],
)
def test_what_this_machine_or_model_cannot_do_is_refused(
    settings: dict[str, object], message: str
) -> None:
    config = WhisperConfig.model_validate({"workers": 1, "threads": 1, **settings})
    with pytest.raises(ConfigError, match=message):
        WhisperEngine.load(config, whisper_model.toy(), SystemClock())


def test_speech_goes_through_voice_detection_and_a_real_model() -> None:
    config = WhisperConfig(
        workers=1,
        threads=1,
        compute_type="int8",
        short_finals=True,
        guards=ALL_OFF,
        final_deadline_ms=20_000,
    )
    engine = WhisperEngine.load(config, whisper_model.toy(), SystemClock())
    engine.check()
    recogniser = engine.prepare(Vocabulary(language="en", phrase_sets=()))
    pcm = telephone.flite("what are your opening hours")

    def hear() -> tuple[str, str]:
        utterance = recogniser.begin(())
        for at in range(0, len(pcm), 3_200):
            utterance.accept(pcm[at : at + 3_200])
        partial = utterance.partial()
        heard = utterance.finish()
        utterance.close()
        assert heard.words
        return partial, heard.text

    first = hear()
    assert first[1]
    assert hear() == first
    silent = recogniser.begin(())
    rng = np.random.default_rng(1)
    silent.accept((rng.standard_normal(48_000) * 300).astype("<i2").tobytes())
    assert silent.finish().reason == "no speech"
    engine.close()
