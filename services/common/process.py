"""How every Landline process starts, says where it listens, and stops."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from services.common import config, logging
from services.common.errors import ConfigError, LandlineError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from services.common.config import ConfigFile

    ServiceMain = Callable[[ConfigFile, "Stop"], Awaitable[None]]

EXIT_CONFIG = 78  # EX_CONFIG of sysexits.h: restarting will not help


class Stop(asyncio.Event):
    """Set when the process is to stop; `now` when it is to stop without finishing its work."""

    def __init__(self) -> None:
        super().__init__()
        self.now = asyncio.Event()

    def ask(self) -> None:
        """A signal came: the first asks, the second insists."""
        if self.is_set():
            self.now.set()
        self.set()

    def insist(self) -> None:
        self.set()
        self.now.set()


def announce(service: str, address: object) -> None:
    """Tell whoever started this process the real address: one line on standard output."""
    print(f"LISTENING {service} {address}", flush=True)


def run(
    service: str,
    main: ServiceMain,
    description: str,
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> None:
    """Parse the command line, then run `main(config, stop)`; SIGTERM and SIGINT set `stop`,
    a second one `stop.now`.

    Exits 0 after a clean stop, 78 when the configuration is wrong, 1 on any other error.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {service}", description=description)
    parser.add_argument("--config", type=Path, default=Path("landline.toml"), help="landline.toml")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one key"
    )
    parser.add_argument(
        "--supervised", action="store_true", help="stop when standard input is closed"
    )
    arguments = parser.parse_args()
    log = structlog.get_logger()
    try:
        file = config.load(arguments.config, arguments.set)
        logging.configure(
            service.rpartition(".")[2],
            level=file.shared.log_level,
            json_lines=file.shared.log_format == "json",
        )
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(_until_signal(main, file, supervised=arguments.supervised))
    except ConfigError as error:
        log.error("configuration_rejected", reason=str(error))
        sys.exit(EXIT_CONFIG)
    except LandlineError as error:
        log.error("stopped_by_error", reason=str(error))
        sys.exit(1)


async def _until_signal(main: ServiceMain, file: ConfigFile, *, supervised: bool) -> None:
    stop = Stop()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.ask)
    if supervised:

        def orphaned() -> None:
            # The supervisor holds the other end: when it dies, however it dies, we stop too.
            loop.remove_reader(sys.stdin.fileno())
            stop.insist()

        loop.add_reader(sys.stdin.fileno(), orphaned)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await main(file, stop)
    finally:
        # All is done: who insists now must not turn a clean end into a killed one.
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
