"""Voice to voice: how long a caller waits for the answer, and how much of that is Landline's own.

Starts the whole embedded stack, phones it over real SIP and RTP, and asks the same question again
and again. `framework` is what neither the wait for the end of the turn nor an engine accounts for,
from the last speech PCM that enters the agent to the first reply PCM that leaves it; an engine's
time is what the agent waits for it, transport included. `after_endpointing` subtracts no engine.
`voice_to_voice` is RTP edge to RTP edge, as the phone hears it. No peer is measured yet; the
baseline of the same run is the wait for the end of the turn that a fixed 600 ms would have cost.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from report import arguments, percentile, publish

from scripts.demo_call import VOICES, prepare
from services.audit import reader
from services.common import config, logging
from services.common.clock import SystemClock
from services.eval.caller import Caller
from services.stack import Stack
from sip_gateway.softphone import Softphone, read_wav

FIXED_ENDPOINTING_MS = 600


async def ask(uri: str, turns: int) -> list[float]:
    """Delays in milliseconds at the RTP edge."""
    delays: list[float] = []
    question = read_wav(VOICES / "hours.wav")
    async with Softphone() as phone:
        caller = Caller(await phone.dial(uri), SystemClock())
        for _ in range(turns):
            await caller.until_quiet()
            said = await caller.say(question)
            delays.append(await caller.until_voice(after_ms=said.ended_ms) - said.ended_ms)
        await caller.until_quiet()
    return delays


async def main(turns: int) -> dict[str, float | str | None]:
    """One call of `turns` questions on a fresh stack."""
    logging.configure("bench", level="error")
    with tempfile.TemporaryDirectory() as folder:
        path = prepare(Path(folder) / "stack")
        overrides = ("sip.listen=127.0.0.1:0",)
        file = config.load(path, overrides)
        async with Stack(file, overrides) as stack:
            delays = await ask(f"sip:bench@{stack.running['gateway'].address}", turns)
        journal = reader.journal_path(file.shared.data_dir)
        measured = [e.fields for e in reader.events(journal) if e.type == "turn_measured"]
    own = [float(turn["framework_ms"]) for turn in measured]
    after = [float(turn["total_ms"] - turn["endpointing_ms"]) for turn in measured]
    waited = [float(turn["endpointing_ms"]) for turn in measured]
    return {
        "peer": None,
        "turns": len(measured),
        "framework_p50_ms": percentile(own, 50),
        "framework_p95_ms": percentile(own, 95),
        "after_endpointing_p50_ms": percentile(after, 50),
        "after_endpointing_p95_ms": percentile(after, 95),
        "voice_to_voice_p50_ms": percentile(delays, 50),
        "voice_to_voice_p95_ms": percentile(delays, 95),
        "endpointing_p50_ms": percentile(waited, 50),
        "endpointing_ratio_to_fixed600": round(
            (percentile(waited, 50) or 0) / FIXED_ENDPOINTING_MS, 3
        ),
        "stt_p50_ms": percentile([float(turn["stt_ms"]) for turn in measured], 50),
        "llm_p50_ms": percentile([float(turn["llm_ms"]) for turn in measured], 50),
        "tts_p50_ms": percentile([float(turn["tts_ms"]) for turn in measured], 50),
        "peer_framework_p50_ms": None,
        "cpu_ratio_to_peer": None,
    }


if __name__ == "__main__":
    options = arguments(__doc__ or "")
    publish(asyncio.run(main(4 if options.quick else 20)), options.json)
