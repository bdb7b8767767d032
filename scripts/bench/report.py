"""What every benchmark shares: the machine it ran on, percentiles, and the JSON file."""

from __future__ import annotations

import argparse
import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


def parser(description: str) -> argparse.ArgumentParser:
    """--quick (ends within 50 s) and --json FILE."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--quick", action="store_true", help="fewer rounds; ends within 50 s")
    made.add_argument("--json", type=Path, help="write the figures to this file")
    return made


def arguments(description: str) -> argparse.Namespace:
    """The command line of a benchmark that takes no more than these."""
    return parser(description).parse_args()


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Rounded to 0.1; None without values."""
    return round(float(np.percentile(values, percent)), 1) if values else None


def machine() -> str:
    """Processor and cores, as Linux names them."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return f"{len(names)} x {names[0] if names else platform.machine()}"


def publish(figures: dict[str, Any], path: Path | None) -> None:
    """Print the figures, and write them with machine and date as one flat object."""
    date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    whole = {"machine": machine(), "date": date, **figures}
    for name, value in whole.items():
        print(f"{name:32} {value}")
    if path is not None:
        path.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
