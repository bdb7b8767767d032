"""How many workers, whose ports, and the sum of what they count."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from services.common.errors import ConfigError
from sip_gateway.config import PortRange
from sip_gateway.fleet.metrics import FleetMetrics, merged
from sip_gateway.fleet.plan import PORTS_PER_WORKER, divide
from sip_gateway.fleet.worker_status import WorkerStatus, parse_status


@given(st.integers(1, 120), st.integers(1, 8), st.integers(0, 900))
def test_slices_are_disjoint_even_and_large_enough(calls: int, slots: int, spare: int) -> None:
    workers = -(-calls // slots)
    ports = PortRange(20_000, 20_000 + workers * PORTS_PER_WORKER + spare - 1)
    slices = divide(ports, calls, slots)
    assert len(slices) == workers
    assert slices[0].first == ports.first
    assert slices[-1].last <= ports.last
    for one, following in itertools.pairwise(slices):
        assert one.last < following.first
    for one in slices:
        assert one.first % 2 == 0
        assert one.last - one.first + 1 >= PORTS_PER_WORKER


def test_too_few_ports_are_told_with_a_range_that_would_do() -> None:
    with pytest.raises(ConfigError, match='rtp_ports = "20000-20223"'):
        divide(PortRange(20_000, 20_099), 40, 3)
    assert len(divide(PortRange(20_000, 20_223), 40, 3)) == 14


def test_more_than_a_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most 600"):
        divide(PortRange(1024, 65_535), 5000, 3)


def families(text: str) -> list[Metric]:
    return list(text_string_to_metric_families(text))


def test_counters_of_workers_are_added_by_label() -> None:
    one = families(
        "# TYPE landline_sip_refused counter\n"
        'landline_sip_refused_total{reason="full"} 2\n'
        'landline_sip_refused_created{reason="full"} 5\n'
        "# TYPE landline_sip_active_calls gauge\nlandline_sip_active_calls 3\n"
    )
    other = families(
        "# TYPE landline_sip_refused counter\n"
        'landline_sip_refused_total{reason="full"} 1\n'
        'landline_sip_refused_total{reason="stopping"} 4\n'
        "# TYPE landline_sip_active_calls gauge\nlandline_sip_active_calls 2\n"
    )
    samples = {
        (sample.name, sample.labels.get("reason", "")): sample.value
        for family in merged([*one, *other])
        for sample in family.samples
    }
    assert samples == {
        ("landline_sip_refused_total", "full"): 3,
        ("landline_sip_refused_total", "stopping"): 4,
        ("landline_sip_active_calls", ""): 5,
    }


def test_a_status_is_read_as_it_was_told_and_other_lines_are_none() -> None:
    status = WorkerStatus(slots=3, legs=2, open=True, metrics_port=9100)
    assert parse_status(status.line()) == status
    assert parse_status("LISTENING sip_gateway 127.0.0.1:5060") is None


def test_workers_that_ended_are_kept_as_one_sum() -> None:
    registry = CollectorRegistry()
    Counter("landline_sip_refused", "Refused.", registry=registry).inc(2)
    Gauge("landline_sip_active_calls", "Live.", registry=registry).set(1)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    ports: dict[str, int] = {}
    fleet = FleetMetrics(CollectorRegistry(), lambda: dict(ports))
    try:
        for number in range(3):  # a worker that ends again and again, under another name each time
            ports.clear()
            ports[f"w1-{number}"] = server.server_port
            totals = {sample.name: sample.value for f in fleet.collect() for sample in f.samples}
            assert totals["landline_sip_refused_total"] == 2 * (number + 1)
            assert totals["landline_sip_active_calls"] == 1
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert len(fleet._last) == 1
