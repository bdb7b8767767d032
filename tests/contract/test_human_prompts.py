"""Grammar recognition of a human voice over G.711: right, falsely rejected, falsely accepted."""

from __future__ import annotations

import random

import pytest

from services.common.phrases import PhraseSet
from services.stt.config import SttConfig
from services.stt.engine import Recognition, Vocabulary
from services.stt.engines.pocketsphinx import GrammarRecogniser, PocketSphinxEngine
from tests.fakes import telephone

IN_GRAMMAR = 48
OUTSIDE = 72


def listen(recogniser: GrammarRecogniser, pcm: bytes) -> Recognition:
    utterance = recogniser.begin(())
    for at in range(0, len(pcm), 3_200):
        utterance.accept(pcm[at : at + 3_200])
    heard = utterance.finish()
    utterance.close()
    return heard


def test_a_human_reader_is_understood_and_strange_speech_mostly_rejected(
    capsys: pytest.CaptureFixture[str],
) -> None:
    levels = random.Random(4)
    chosen = telephone.prompts(range(2, 11))
    levels.shuffle(chosen)
    inside, outside = chosen[:IN_GRAMMAR], chosen[IN_GRAMMAR : IN_GRAMMAR + OUTSIDE]
    assert len(outside) == OUTSIDE
    engine = PocketSphinxEngine(rejection_margin=SttConfig().rejection_margin, pronunciations={})
    phrase_sets = (PhraseSet(name="prompt", phrases=tuple(text for text, _ in inside)),)
    recogniser = engine.prepare(Vocabulary(language="en-US", phrase_sets=phrase_sets))

    def hear(item: tuple[str, object]) -> Recognition:
        path = dict(chosen)[item[0]]
        return listen(recogniser, telephone.read_prompt(path, gain_db=levels.uniform(-18, 3)))

    heard = [(text, hear((text, path))) for text, path in inside]
    right = sum(result.text == text for text, result in heard)
    rejected = sum(result.rejected for _, result in heard)
    accepted = sum(bool(hear(item).text) for item in outside)
    with capsys.disabled():
        print(
            f"\nhuman prompts, G.711, levels -18 to +3 dB: right {right}/{IN_GRAMMAR}, "
            f"falsely rejected {rejected}/{IN_GRAMMAR}, confused {IN_GRAMMAR - right - rejected}; "
            f"outside the grammar falsely accepted {accepted}/{OUTSIDE}"
        )
    assert right >= 0.85 * IN_GRAMMAR
    assert rejected <= 0.15 * IN_GRAMMAR
    assert accepted <= 0.20 * OUTSIDE
