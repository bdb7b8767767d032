"""The gateway's counters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.common import metrics
from services.common.errors import ConfigError
from services.common.metrics import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from services.common.addresses import HostPort

CALLS = Counter(
    "landline_sip_calls", "Calls that were taken, by how they ended", ["result", "reason"]
)
REFUSED = Counter("landline_sip_refused", "INVITEs that were refused", ["reason"])
MALFORMED = Counter("landline_sip_malformed", "Datagrams that are not SIP")
STRANGERS_DROPPED = Counter(
    "landline_sip_strangers_dropped", "Packets from addresses that no trunk names, thrown away"
)
LEDGER_LOST = Counter(
    "landline_sip_ledger_lost", "Calls for which the limits were not known", ["direction"]
)
QUEUED = Gauge("landline_sip_queued_calls", "Callers who hear music until there is a place")
QUEUE_LEFT = Counter("landline_sip_queue_left", "Callers who left the queue", ["outcome"])
EMERGENCY = Counter("landline_sip_emergency_calls", "Emergency numbers dialled to us", ["outcome"])
LEDGER_ERRORS = Counter(
    "landline_sip_ledger_errors", "Lines or writes of the daily totals that failed"
)
ACTIVE = Gauge("landline_sip_active_calls", "Calls in progress")
REGISTERED = Gauge("landline_sip_registered", "1 while the trunk is registered", ["trunk"])
REGISTRATION_FAILURES = Counter(
    "landline_sip_registration_failures", "Registrations that failed", ["trunk", "sip_status"]
)
REACHABLE = Gauge(
    "landline_sip_trunk_reachable", "1 while the trunk's server answers OPTIONS", ["trunk"]
)
TRANSFERS = Counter("landline_sip_transfers", "Transfers asked for, by outcome", ["outcome"])
DIALLED = Counter("landline_sip_dialled", "Calls that we placed, by what became of them", ["state"])
DTMF_IGNORED = Counter(
    "landline_sip_dtmf_ignored",
    "Keys that came twice or in a way the trunk does not use",
    ["method"],
)
PLAYOUT_UNDERRUNS = Counter(
    "landline_sip_playout_underruns", "Gaps inside a piece of speech: it came too slowly"
)
PLAYOUT_DROPPED = Counter(
    "landline_sip_playout_dropped_bytes", "Agent audio that did not fit into the queue"
)
UPLINK_DROPPED = Counter(
    "landline_sip_uplink_dropped_frames", "Caller audio that the agent was too slow to take"
)
JITTER_DISCARDS = Counter(
    "landline_sip_jitter_discards", "Packets that came too late for the jitter buffer"
)
JITTER_EMPTIES = Counter(
    "landline_sip_jitter_empties", "Times at which the jitter buffer had nothing to give"
)
MOS = Histogram(
    "landline_sip_mos",
    "How calls sounded to us from beginning to end (ITU-T G.107, MOS-CQE)",
    ["trunk"],
    buckets=(1.5, 2.0, 2.5, 3.0, 3.5, 3.8, 4.0, 4.2, 4.35, 4.5),
)
ONE_WAY_AUDIO = Counter(
    "landline_sip_one_way_audio", "Calls from whose other side no audio came", ["trunk"]
)
RECORDER_DROPPED = Counter("landline_sip_recorder_dropped_frames", "Frames that were not recorded")
RECORDER_ERRORS = Counter("landline_sip_recorder_errors", "Recordings that failed")
RTP_STRANGERS = Counter(
    "landline_sip_rtp_stranger_packets", "RTP packets from elsewhere than a call's own source"
)
STUN_ANSWERS = Gauge("landline_sip_stun_answers", "1 while a STUN server answers")
ALG_DAMAGE = Counter(
    "landline_sip_alg_damage",
    "Messages that a router has damaged on their way",
    ["trunk", "damage"],
)
RTP_UNGUARDED = Counter(
    "landline_sip_rtp_unguarded_streams", "Streams whose source could not be locked"
)
WORKERS = Gauge("landline_sip_workers", "Worker processes that run")
WORKER_RESTARTS = Counter("landline_sip_worker_restarts", "Workers that ended unasked")
EDGE_RESTARTS = Counter("landline_sip_edge_restarts", "Times that the edge ended unasked")
BANS = Counter("landline_sip_bans", "Sources that were banned, by why", ["reason"])


def serve_metrics(address: HostPort, registry: CollectorRegistry = metrics.REGISTRY) -> int:
    """Serve /metrics for Prometheus; the port. ConfigError when the address cannot be had."""
    try:
        return metrics.serve(address, registry)
    except OSError as error:
        raise ConfigError(
            f"[sip] metrics = {address}: cannot listen there: {error.strerror}"
        ) from None
