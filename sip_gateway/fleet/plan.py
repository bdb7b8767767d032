"""How many workers there are, and which of the gateway's ports is whose. Pure but for one probe."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.common.errors import ConfigError
from sip_gateway.config import PortRange
from sip_gateway.fleet.capacity import conversations_per_worker

if TYPE_CHECKING:
    from sip_gateway.config import SipConfig

# Two for each of PJSIP's four calls, and as many again: PJMEDIA's sockets stay reserved for about
# half a second after a call.
PORTS_PER_WORKER = 16
MOST_WORKERS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """Workers behind an edge; each has a slice of the RTP ports to itself."""

    slots: int  # conversations in each worker
    rtp_ports: tuple[PortRange, ...]

    @property
    def workers(self) -> int:
        return len(self.rtp_ports)


async def plan_for(config: SipConfig) -> FleetPlan | None:
    """The workers that `calls` need; None when this process does alone, without an edge.

    ConfigError when they cannot be had: too few RTP ports, or no Kamailio.
    """
    wants_edge = config.edge.always or config.edge.tls is not None
    if config.worker is not None or (config.calls is None and not wants_edge):
        return None
    slots = await conversations_per_worker()
    calls = config.calls or slots
    if calls <= slots and not wants_edge:
        return None
    require_kamailio(config, calls, slots)
    return FleetPlan(slots=slots, rtp_ports=divide(config.rtp_ports, calls, slots))


def divide(ports: PortRange, calls: int, slots: int) -> tuple[PortRange, ...]:
    """Equal slices that begin with an even port, one for each worker; ConfigError if too small."""
    workers = -(-calls // slots)
    if workers > MOST_WORKERS:
        raise ConfigError(f"[sip] calls = {calls}: at most {MOST_WORKERS * slots} on one machine")
    there, needed = ports.last - ports.first + 1, workers * PORTS_PER_WORKER
    if there < needed:
        raise ConfigError(
            f"[sip] calls = {calls} need {workers} workers with {PORTS_PER_WORKER} RTP ports each, "
            f"{needed} in all; rtp_ports {ports} are {there}: write, for example, "
            f'rtp_ports = "{ports.first}-{ports.first + needed - 1}"'
        )
    size = there // workers // 2 * 2
    return tuple(
        PortRange(ports.first + number * size, ports.first + (number + 1) * size - 1)
        for number in range(workers)
    )


def require_kamailio(config: SipConfig, calls: int, slots: int) -> None:
    """ConfigError that says what to install when the edge's program is not there."""
    if shutil.which(config.edge.kamailio) is not None:
        return
    why = "[sip.edge] is asked for" if calls <= slots else f"[sip] calls = {calls} is"
    if calls > slots:
        why += f" more than the {slots} that one process holds"
    packages = "kamailio kamailio-tls-modules" if config.edge.tls else "kamailio"
    raise ConfigError(
        f"{why}, and {config.edge.kamailio!r}, which stands before the workers, is not installed: "
        f"run  sudo apt-get install {packages}  (and keep its own service stopped: "
        "sudo systemctl disable --now kamailio)"
    )
