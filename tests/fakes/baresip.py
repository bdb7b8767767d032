"""A real baresip that places one call, configured in a folder of the test's own."""

from __future__ import annotations

import asyncio
import os
import pty
import wave
from pathlib import Path

_MODULES = Path("/usr/lib/baresip/modules")
_CONFIG = """\
poll_method epoll
sip_listen 127.0.0.1:0
net_interface 127.0.0.1
audio_source aufile,{speech}
audio_player aubridge,heard
audio_alert aubridge,alert
snd_path {folder}
ausrc_srate 8000
auplay_srate 8000
audio_channels 1
module_path {modules}
module stdio.so
module g711.so
module aufile.so
module aubridge.so
module sndfile.so
module srtp.so
module_app account.so
module_app menu.so
"""


class Baresip:
    """Speaks PCM of 8 kHz; `heard` is the WAV file of what it hears."""

    def __init__(self, folder: Path, speech: bytes, *, mediaenc: str = "") -> None:
        """`mediaenc` such as `srtp-mand` encrypts its audio."""
        self._folder = folder
        self._mediaenc = mediaenc
        self._speech = folder / "speech.wav"
        with wave.open(str(self._speech), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(speech)
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._keys = -1
        self.lines: list[str] = []

    async def dial(self, uri: str) -> None:
        """Start it; it dials at once."""
        folder = self._folder / "baresip"
        folder.mkdir()
        (folder / "config").write_text(
            _CONFIG.format(speech=self._speech, folder=folder, modules=_MODULES),
            encoding="utf-8",
        )
        (folder / "accounts").write_text(
            "<sip:bare@127.0.0.1>;regint=0;audio_codecs=PCMA/8000/1"
            + (f";mediaenc={self._mediaenc}\n" if self._mediaenc else "\n"),
            encoding="utf-8",
        )
        (folder / "contacts").write_text("", encoding="utf-8")
        self._keys, keyboard = pty.openpty()
        self._process = await asyncio.create_subprocess_exec(
            *("baresip", "-f", str(folder), "-e", f"/dial {uri}"),
            stdin=keyboard,  # it reads keys from a terminal only
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self._folder,
        )
        os.close(keyboard)
        self._reading = asyncio.create_task(self._read())

    def press(self, key: str) -> None:
        """A key on its keyboard: digits go out as telephone events, `b` hangs up."""
        os.write(self._keys, key.encode())

    @property
    def heard(self) -> Path:
        (path,) = (self._folder / "baresip").glob("dump-*-dec.wav")
        return path

    async def stop(self) -> None:
        if self._process is None or self._reading is None:
            return
        if self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), 5)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        await self._reading
        os.close(self._keys)
        self._process = None

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.lines.append(line.decode(errors="replace").rstrip())
