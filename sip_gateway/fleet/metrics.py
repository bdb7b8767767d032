"""One /metrics for all workers: their counters added up, those of workers that ended included."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections import defaultdict
from typing import TYPE_CHECKING, TypeAlias

import structlog
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client import CollectorRegistry

_OURS = "landline_"
_ANSWER_S = 1.0
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_log = structlog.get_logger()

Labels: TypeAlias = tuple[tuple[str, str], ...]
Sample: TypeAlias = tuple[str, Labels]


class FleetMetrics(Collector):
    """The supervisor's own metrics with the workers' added to them.

    `ports()` gives each worker's name and metrics port. A worker is asked when Prometheus asks us.
    What a worker counted before it ended stays in the sums, as it was last asked, so that they
    never go down; its gauges go with it. Used on the metrics server's threads.
    """

    def __init__(self, own: CollectorRegistry, ports: Callable[[], Mapping[str, int]]) -> None:
        self._own = own
        self._ports = ports
        self._last: dict[str, list[Metric]] = {}
        self._ended: list[Metric] = []  # one sum, however many workers have ended
        self._one_at_a_time = threading.Lock()  # two may ask us at once

    def collect(self) -> Iterable[Metric]:
        with self._one_at_a_time:
            return self._collected()

    def _collected(self) -> list[Metric]:
        ports = self._ports()
        for name, port in ports.items():
            families = _scrape(port)
            if families is not None:
                self._last[name] = families
        for name in self._last.keys() - ports.keys():
            counted = [family for family in self._last.pop(name) if family.type != "gauge"]
            self._ended = merged([*self._ended, *counted])
        live = (family for families in self._last.values() for family in families)
        return merged([*self._own.collect(), *self._ended, *live])


def merged(families: Iterable[Metric]) -> list[Metric]:
    """Families of the same name as one, with samples of the same labels added up."""
    kinds: dict[str, Metric] = {}
    sums: dict[str, dict[Sample, float]] = defaultdict(lambda: defaultdict(float))
    for family in families:
        kinds.setdefault(family.name, Metric(family.name, family.documentation, family.type))
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                labels = tuple(sorted(sample.labels.items()))
                sums[family.name][sample.name, labels] += sample.value
    for name, metric in kinds.items():
        for (sample_name, labels), value in sums[name].items():
            metric.add_sample(sample_name, dict(labels), value)
    return list(kinds.values())


def _scrape(port: int) -> list[Metric] | None:
    """What a worker counts; None when it does not answer."""
    try:
        with _NO_PROXY.open(f"http://127.0.0.1:{port}/metrics", timeout=_ANSWER_S) as answer:
            text = answer.read().decode()
    except (OSError, urllib.error.URLError) as error:
        _log.warning("worker_metrics_missing", port=port, reason=str(error))
        return None
    families = text_string_to_metric_families(text)
    return [family for family in families if family.name.startswith(_OURS)]
