"""The STT process with the Whisper engine, over gRPC: real format, random weights, hostile input.

Random weights write nonsense, so the guards are off and texts are compared, not read.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from landline.stt.v1 import stt_pb2, stt_pb2_grpc

from services.common.addresses import HostPort, parse_host_port
from services.common.grpc_server import open_channel
from services.stt.engines.whisper.guards import Guard
from tests.fakes import telephone, whisper_model
from tests.fakes.service_process import ROOT, running
from tests.integration.test_stt_server import Stream, audio, begin, end

Request = stt_pb2.TranscribeRequest
HOURS = "what are your opening hours"
RNG = np.random.default_rng(11)


def settings(model: Path) -> str:
    off = ", ".join(f'"{guard.value}"' for guard in Guard)
    return (
        f'[stt]\nengine = "whisper"\nmax_streams = 8\npartial_interval_ms = 200\n'
        f"max_utterance_s = 40\nhealth_interval_s = 0.5\n"
        f'[stt.whisper]\nmodel = "{model}"\nworkers = 1\nthreads = 1\ncompute_type = "int8"\n'
        f"short_finals = true\nfinal_deadline_ms = 20000\n"
        f"[stt.whisper.guards]\noff = [{off}]\n"
    )


@pytest.fixture(scope="module")
def model() -> Path:
    return whisper_model.toy()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[HostPort]:
    """One process for all tests: what one does to it, the next would feel."""
    config = tmp_path_factory.mktemp("stt") / "stt.toml"
    config.write_text(settings(model))
    process = subprocess.Popen(
        [sys.executable, "-m", "services.stt", "--config", str(config)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    yield parse_host_port(process.stdout.readline().split()[2])
    process.terminate()
    assert process.wait(10) == 0
    process.stdout.close()


@pytest.fixture
async def stub(service: HostPort) -> AsyncIterator[stt_pb2_grpc.SpeechToTextStub]:
    async with open_channel(service, None, "test") as channel:
        yield stt_pb2_grpc.SpeechToTextStub(channel)


def configure(**changes: object) -> Request:
    return Request(configure=stt_pb2.Configure(call_id="call-1", language="en", **changes))


def pcm(samples: np.ndarray) -> bytes:
    return np.clip(samples, -32_768, 32_767).astype("<i2").tobytes()


def speech() -> np.ndarray:
    return np.frombuffer(telephone.flite(HOURS), "<i2").astype(np.float64)


async def hear(stub: stt_pb2_grpc.SpeechToTextStub, sound: bytes) -> stt_pb2.Final:
    stream = Stream(stub)
    await stream.send(configure(), begin("1"), *audio(sound), end("1"))
    final = await stream.final()
    assert [item for item in await stream.rest() if item.HasField("final")] == []
    return final


async def test_calls_at_once_hear_what_each_would_hear_alone(
    stub: stt_pb2_grpc.SpeechToTextStub,
) -> None:
    sounds = [pcm(speech() * level) for level in (1.0, 0.5, 0.25, 2.0)]
    alone = [await hear(stub, sound) for sound in sounds]
    together = await asyncio.gather(*(hear(stub, sound) for sound in sounds))
    for one, other in zip(alone, together, strict=True):
        assert one.text
        assert (one.text, one.language) == (other.text, "en")
        assert one.confidence == pytest.approx(other.confidence, abs=1e-3)
        # The attention of random weights is nearly flat: the last bit may move a time a little.
        assert [w.start_ms for w in one.words] == pytest.approx(
            [w.start_ms for w in other.words], abs=100
        )


async def test_partials_come_while_it_lasts_and_the_final_is_there_at_once(
    stub: stt_pb2_grpc.SpeechToTextStub,
) -> None:
    stream = Stream(stub)
    await stream.send(configure(), begin("1", first_sample=500))
    for at, request in enumerate(audio(telephone.flite(HOURS) + bytes(19_200), 500)):
        await stream.send(request)
        await asyncio.sleep(0.02 if at % 2 else 0)
    await asyncio.sleep(0.3)
    await stream.send(end("1"))
    responses = [await stream.receive()]
    while not responses[-1].HasField("final"):
        responses.append(await stream.receive())
    assert len(responses) >= 3
    positions = [item.partial.through_sample for item in responses[:-1]]
    assert positions == sorted(positions)
    assert responses[-1].final.decode_ms < 100


async def test_a_broken_stream_goes_on_in_another(stub: stt_pb2_grpc.SpeechToTextStub) -> None:
    sound = telephone.flite(HOURS)
    middle = len(sound) // 4 * 2
    whole = await hear(stub, sound)
    first = Stream(stub)
    await first.send(configure(resume_ms=5_000), begin("1"), *audio(sound[:middle]))
    await asyncio.sleep(0.3)
    first.drop()
    second = Stream(stub)
    await second.send(configure(resume_ms=5_000))
    resumed = (await second.receive()).resumed
    assert resumed.utterance_id == "1"
    assert 0 < resumed.next_sample <= middle // 2
    # The client may also send all of it again.
    await second.send(begin("1"), *audio(sound), end("1"))
    final = await second.final()
    assert (final.utterance_id, final.text) == ("1", whole.text)


def music() -> np.ndarray:
    time = np.arange(5 * 16_000) / 16_000
    chord = sum(np.sin(2 * np.pi * hertz * time) for hertz in (262, 330, 392, 523))
    return 4_000 * chord * (1 + 0.5 * np.sin(2 * np.pi * 2 * time))


SOUNDS = {
    "silence for minutes": lambda: np.zeros(180 * 16_000),
    "white noise": lambda: RNG.standard_normal(5 * 16_000) * 3_000,
    "music": music,
    "clipping": lambda: speech() * 50,
    "a step of direct current": lambda: np.full(3 * 16_000, 20_000.0),
    "truncated in the first word": lambda: speech()[:9_000],
    "one sample": lambda: np.full(1, 1_000.0),
}


@pytest.mark.parametrize("name", SOUNDS)
async def test_any_sound_gets_one_final_and_disturbs_nobody(
    stub: stt_pb2_grpc.SpeechToTextStub, name: str
) -> None:
    expected = await hear(stub, pcm(speech()))
    strange, other = await asyncio.gather(
        hear(stub, pcm(SOUNDS[name]())), hear(stub, pcm(speech()))
    )
    assert strange.utterance_id == "1"
    assert other.text == expected.text
    if name in ("silence for minutes", "white noise", "one sample", "a step of direct current"):
        assert (strange.text, strange.reason) == ("", "no speech")


async def test_another_sample_rate_is_refused_by_name(
    stub: stt_pb2_grpc.SpeechToTextStub,
) -> None:
    stream = Stream(stub)
    await stream.send(configure(sample_rate_hz=48_000))
    code, details = await stream.error()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "48000 Hz is not taken: send 16000 Hz" in details


async def test_48_khz_that_pretends_to_be_16_is_dropped_by_its_positions(
    stub: stt_pb2_grpc.SpeechToTextStub,
) -> None:
    stream = Stream(stub)
    await stream.send(configure(), begin("1"))
    for frame in range(100):
        chunk = stt_pb2.Audio(first_sample=frame * 320, pcm=bytes(1_920))
        await stream.send(Request(audio=chunk))
    await stream.send(end("1"))
    assert (await stream.final()).reason == "no speech"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hotwords": ["x"] * 201}, "at most 200 hotwords"),
        ({"hotwords": ["x" * 101]}, "of 100 letters"),
    ],
)
async def test_unreasonable_hints_are_refused(
    stub: stt_pb2_grpc.SpeechToTextStub, changes: dict[str, object], message: str
) -> None:
    stream = Stream(stub)
    await stream.send(configure(**changes))
    code, details = await stream.error()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message in details


async def test_an_unknown_language_is_refused(stub: stt_pb2_grpc.SpeechToTextStub) -> None:
    stream = Stream(stub)
    await stream.send(Request(configure=stt_pb2.Configure(call_id="x", language="tlh")))
    code, details = await stream.error()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "does not know the language 'tlh'" in details


async def test_clients_that_never_read_or_send_an_hour_in_a_second_hurt_nobody(
    stub: stt_pb2_grpc.SpeechToTextStub,
) -> None:
    expected = await hear(stub, pcm(speech()))
    deaf, hasty = Stream(stub), Stream(stub)
    await deaf.send(configure())
    for number in range(6):
        await deaf.send(begin(str(number)), *audio(telephone.flite(HOURS)), end(str(number)))
    minute = Request(audio=stt_pb2.Audio(pcm=pcm(np.resize(speech(), 60 * 16_000))))
    await hasty.send(configure(), begin("1"), *[minute] * 60, end("1"))
    assert (await hear(stub, pcm(speech()))).text == expected.text
    async with asyncio.timeout(30):
        assert (await hasty.final()).utterance_id == "1"
    deaf.drop()


async def test_dropped_streams_leave_nothing_behind(tmp_path: Path, model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        metrics = f"127.0.0.1:{free.getsockname()[1]}"
    toml = settings(model).replace("[stt.whisper]\n", f'metrics = "{metrics}"\n[stt.whisper]\n', 1)
    async with running("stt", tmp_path, toml) as service:
        async with open_channel(service.address, None, "test") as channel:
            stub = stt_pb2_grpc.SpeechToTextStub(channel)
            for _ in range(12):
                stream = Stream(stub)
                await stream.send(configure(), begin("1"), *audio(telephone.flite(HOURS)))
                stream.drop()
            await asyncio.sleep(1.0)
            assert (await hear(stub, pcm(speech()))).text
            health = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        page = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://{metrics}").read())
    values = dict(
        line.rsplit(" ", 1) for line in page.decode().splitlines() if not line.startswith("#")
    )
    assert float(values["landline_stt_streams"]) == 0
    assert float(values["landline_stt_queue"]) == 0
    assert float(values["landline_stt_healthy"]) == 1
    assert float(values["landline_stt_batch_size_count"]) > 0
    assert float(values["landline_stt_real_time_factor"]) > 0


async def test_a_model_that_is_not_complete_stops_the_start(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes((model / "config.json").read_bytes())
    config = tmp_path / "stt.toml"
    config.write_text(settings(folder))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.stt", "--config", str(config),
        cwd=ROOT, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 78
    assert "model.bin, tokenizer.json, vocabulary.json or vocabulary.txt missing" in errors.decode()


def test_whisper_without_a_model_is_a_contradiction(tmp_path: Path) -> None:
    config = tmp_path / "stt.toml"
    config.write_text('[stt]\nengine = "whisper"\n')
    process = subprocess.run(
        [sys.executable, "-m", "services.stt", "--config", str(config)],
        cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert process.returncode == 78
    assert "needs whisper.model" in process.stderr


def test_the_engine_loads_without_anything_that_could_fetch(model: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from services.common.clock import SystemClock\n"
        "from services.stt.engines.whisper.config import WhisperConfig\n"
        "from services.stt.engines.whisper.engine import WhisperEngine\n"
        "config = WhisperConfig(workers=1, threads=1, compute_type='int8')\n"
        f"engine = WhisperEngine.load(config, Path({str(model)!r}), SystemClock())\n"
        "engine.check()\n"
        "engine.close()\n"
        "fetchers = {'huggingface_hub', 'requests', 'httpx', 'urllib3', 'faster_whisper'}\n"
        "print(sorted(fetchers & set(sys.modules)))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    assert found.stdout.splitlines()[-1] == "[]"
