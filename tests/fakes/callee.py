"""What tests of calls out share: the settings, a trunk, and the callee's first answer."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.fakes.sip_peer import Dialog, SipMessage, SipPeer

SIP = """\
listen = "127.0.0.1:0"
country = "DE"
codecs = ["PCMU"]
[sip.dialling]
allow = ["+4930*"]
[sip.outbound]
listen = "127.0.0.1:0"
ring_s = 20
"""
NUMBER = "+4930901820"
LANDLINE = (sys.executable, "-m", "services.cli")


def trunk(name: str, peer: SipPeer, more: str = "") -> str:
    """A trunk whose server is `peer`."""
    return _trunk(name, str(peer.port), more)


def _trunk(name: str, port: str, more: str = "") -> str:
    return (
        f'[[sip.trunks]]\nname = "{name}"\nkind = "peer"\n'
        f'allow = ["192.0.2.{len(name)}/32"]\nserver = "127.0.0.1:{port}"\n'
        f'caller_id = "+4930123456"\nqualify_s = 0\nagent = "clinic"\n{more}\n'
    )


TRUNK = _trunk("carrier", "{desk}")  # see tests/e2e/shared.py


async def called(peer: SipPeer) -> tuple[SipMessage, Dialog]:
    """The INVITE that came, with 100 sent."""
    invite = await peer.request("INVITE")
    peer.respond(invite, 100, "Trying")
    return invite, peer.accept(invite)
