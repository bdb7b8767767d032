"""Whisper models of true format with random weights: no download, no PyTorch.

The vocabulary is Whisper's in layout (multilingual, 51865 tokens), its words are w0, w1, ...
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from ctranslate2.specs import whisper_spec
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

LANGUAGES = (
    "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th "
    "ur hr bg lt la mi ml cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr "
    "pa si km sn yo so af oc ka be tg sd gu am yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt "
    "haw ln ha ba jw su"
).split()
END_OF_TEXT = 50_257
_TASKS = ["translate", "transcribe", "startoflm", "startofprev", "nocaptions", "notimestamps"]
_WORDS = 50_257
_TIMESTAMPS = 1_501


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """Sizes of a model. `stop`: how readily it ends a text; 0 never does."""

    width: int = 64
    encoder_layers: int = 2
    decoder_layers: int = 2
    heads: int = 2
    mels: int = 80
    stop: float = 0.0


TOY = Dimensions()
TINY = Dimensions(width=384, encoder_layers=4, decoder_layers=4, heads=6)
BASE = Dimensions(width=512, encoder_layers=6, decoder_layers=6, heads=8)
SMALL = Dimensions(width=768, encoder_layers=12, decoder_layers=12, heads=12)
LARGE_V3_TURBO = Dimensions(width=1280, encoder_layers=32, decoder_layers=4, heads=20)


@cache
def toy() -> Path:
    """A model folder of a few megabytes, made once in each test process."""
    return make(Path(tempfile.mkdtemp(prefix="landline-whisper-")) / "toy")


def make(
    folder: Path, size: Dimensions = TOY, *, seed: int = 0, quantization: str = "int8"
) -> Path:
    """Write a model as faster-whisper and CTranslate2 read it; the same seed gives the same one."""
    folder.mkdir(parents=True)
    special = ["<|endoftext|>", "<|startoftranscript|>"]
    special += [f"<|{name}|>" for name in (*LANGUAGES, *_TASKS)]
    words = _words()
    stamps = [f"<|{number * 0.02:.2f}|>" for number in range(_TIMESTAMPS)]
    vocabulary = [*words, *special, *stamps]

    tokenizer = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))

    spec = _spec(size, np.random.default_rng(seed), len(vocabulary))
    spec.config.suppress_ids = []
    spec.config.suppress_ids_begin = [END_OF_TEXT]
    spec.config.lang_ids = list(range(END_OF_TEXT + 2, END_OF_TEXT + 2 + len(LANGUAGES)))
    spec.config.alignment_heads = [[size.decoder_layers - 1, head] for head in range(size.heads)]
    spec.register_vocabulary(vocabulary)
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(str(folder))
    preprocessor = {"feature_size": size.mels, "sampling_rate": 16_000, "hop_length": 160,
                    "chunk_length": 30, "n_fft": 400}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def _words() -> list[str]:
    """All bytes, then words with a space before them, and the empty word at the end.

    `\u0120` is how a byte-level vocabulary writes the space.
    """
    found = sorted(pre_tokenizers.ByteLevel.alphabet())
    found += [f"\u0120w{number}" for number in range(_WORDS - 1 - len(found))]
    return [*found, ""]


def _spec(size: Dimensions, rng: np.random.Generator, tokens: int) -> Any:
    width = size.width

    def random(*shape: int) -> NDArray[np.float32]:
        return (rng.standard_normal(shape, np.float32) * np.float32(0.02)).astype(np.float32)

    def norm(layer: Any) -> None:
        layer.gamma = np.ones(width, np.float32)
        layer.beta = np.zeros(width, np.float32)

    def linear(layer: Any, rows: int, columns: int) -> None:
        layer.weight = random(rows, columns)
        layer.bias = np.zeros(rows, np.float32)

    def attention(layer: Any, *, crossed: bool) -> None:
        norm(layer.layer_norm)
        shapes = [width, 2 * width, width] if crossed else [3 * width, width]
        for part, rows in zip(layer.linear, shapes, strict=True):
            linear(part, rows, width)

    def feed_forward(layer: Any) -> None:
        norm(layer.layer_norm)
        linear(layer.linear_0, 4 * width, width)
        linear(layer.linear_1, width, 4 * width)

    spec = whisper_spec.WhisperSpec(
        size.encoder_layers, size.heads, size.decoder_layers, size.heads
    )
    encoder, decoder = spec.encoder, spec.decoder
    encoder.conv1.weight, encoder.conv1.bias = (
        random(width, size.mels, 3),
        np.zeros(width, np.float32),
    )
    encoder.conv2.weight, encoder.conv2.bias = random(width, width, 3), np.zeros(width, np.float32)
    encoder.position_encodings.encodings = random(1_500, width)
    norm(encoder.layer_norm)
    for layer in encoder.layer:
        attention(layer.self_attention, crossed=False)
        feed_forward(layer.ffn)
    decoder.embeddings.weight = random(tokens, width)
    # The output layer shares these: a larger row makes the end of the text likelier.
    decoder.embeddings.weight[END_OF_TEXT] *= 1 + size.stop
    decoder.position_encodings.encodings = random(448, width)
    decoder.scale_embeddings = False
    norm(decoder.layer_norm)
    decoder.projection.weight = decoder.embeddings.weight
    for layer in decoder.layer:
        attention(layer.self_attention, crossed=False)
        attention(layer.attention, crossed=True)
        feed_forward(layer.ffn)
    return spec
