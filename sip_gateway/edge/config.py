"""[sip.edge]: the Kamailio that stands before several workers, and what a worker is told of it."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

from pydantic import Field, field_validator

from services.common.addresses import Address, HostPort
from services.common.config import Section
from services.common.errors import ConfigError


class EdgeTls(Section):
    """[sip.edge.tls]: SIP over TLS, ended at the edge (RFC 5630)."""

    listen: Address = HostPort("0.0.0.0", 5061)
    cert_file: Path  # the chain, ours first
    key_file: Path
    ca_file: Path | None = None  # when given, callers must show a certificate of these

    def check(self) -> None:
        """ConfigError unless the files are there and belong together."""
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.cert_file, self.key_file, password=_no_password)
            if self.ca_file is not None:
                context.load_verify_locations(self.ca_file)
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            files = f"{self.cert_file}, {self.key_file}"
            raise ConfigError(f"[sip.edge.tls] cannot use {files}: {error}") from None


class EdgeConfig(Section):
    """The edge. It runs when one process cannot hold `calls`, or when TLS is wanted."""

    always: bool = False  # also before a single worker
    kamailio: str = "kamailio"  # the program: a name on PATH, or where it is
    tls: EdgeTls | None = None
    invites_per_s: int = Field(default=20, ge=1, le=9000)  # of one source; more get 503
    stranger_requests_per_s: int = Field(default=5, ge=1, le=9000)  # answered with 403; more: not
    ban_after: int = Field(default=20, ge=1)  # refused requests within a minute
    ban_s: int = Field(default=600, ge=1)
    scanners: list[str] = Field(default_factory=list)  # more words in User-Agent that ban at once

    @field_validator("scanners")
    @classmethod
    def _plain_words(cls, words: list[str]) -> list[str]:
        for word in words:
            if not re.fullmatch(r"[\w .-]+", word, re.ASCII):
                raise ValueError(f"{word!r}: letters, digits, dots, dashes and spaces only")
        return words


class WorkerPlace(Section):
    """[sip.worker]: what the supervisor tells a worker behind the edge. Never written by hand."""

    name: str
    contact: str  # our Contact, a URI of the edge that leads to this worker
    media_host: str  # where RTP is received: the address that the edge listens on


def _no_password() -> str:
    raise ValueError("the key is encrypted; give one without a password, readable by us alone")
