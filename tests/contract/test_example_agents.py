"""Every example agent can be understood: its grammars compile, and its commands are recognised."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from services.common import agent_file, phrases
from services.common.agent_file import YES_NO_SLOT
from services.stt.config import SttConfig
from services.stt.engine import Vocabulary
from services.stt.engines.pocketsphinx import PocketSphinxEngine
from tests.fakes import telephone

EXAMPLES = Path(__file__).parents[2] / "services" / "agent" / "examples"
AGENTS = sorted(
    path for path in EXAMPLES.glob("*/*.toml") if "[speech]" in path.read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def engine() -> PocketSphinxEngine:
    return PocketSphinxEngine(rejection_margin=SttConfig().rejection_margin, pronunciations={})


def test_there_are_examples() -> None:
    assert AGENTS


@pytest.mark.parametrize("path", AGENTS, ids=lambda path: path.stem)
def test_grammars_of_all_questions_compile(engine: PocketSphinxEngine, path: Path) -> None:
    agent = agent_file.load(path)
    recogniser = engine.prepare(
        Vocabulary(language=agent.language, phrase_sets=agent_file.phrase_sets(agent))
    )
    names = (*agent.slots, YES_NO_SLOT)
    for count in (0, 1, 2):
        for slots in itertools.combinations(names, count):
            recogniser.begin(agent_file.expected_sets(agent, slots)).close()


@pytest.mark.parametrize("path", AGENTS, ids=lambda path: path.stem)
def test_commands_are_recognised_over_the_line(engine: PocketSphinxEngine, path: Path) -> None:
    agent = agent_file.load(path)
    recogniser = engine.prepare(
        Vocabulary(language=agent.language, phrase_sets=agent_file.phrase_sets(agent))
    )
    heard: dict[str, str] = {}
    for intent in agent.intents.values():
        for say in intent.say[:2]:
            text = " ".join(max(phrases.expand(phrases.parse(say)), key=len))
            if "<" in text:
                continue
            utterance = recogniser.begin(agent_file.expected_sets(agent, ()))
            utterance.accept(telephone.flite(text))
            heard[text] = utterance.finish().text
            utterance.close()
    right = sum(text == result for text, result in heard.items())
    assert right >= 0.8 * len(heard), {t: r for t, r in heard.items() if t != r}
