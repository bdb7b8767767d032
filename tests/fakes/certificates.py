"""A throwaway certificate authority, made by the openssl command."""

from __future__ import annotations

import subprocess
from pathlib import Path

from services.common.config import TlsConfig


def tls_section(folder: Path) -> tuple[TlsConfig, str]:
    """A certificate for 127.0.0.1, as a configuration object and as [tls] in TOML."""
    ca, key, request, cert = (folder / name for name in ("ca.pem", "key.pem", "req.pem", "c.pem"))
    extensions = folder / "extensions"
    extensions.write_text("subjectAltName = IP:127.0.0.1, DNS:localhost\n")
    for command in (
        f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"
        f" -subj /CN=test-ca -keyout {folder}/ca.key -out {ca}",
        f"req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
        f" -subj /CN=landline -keyout {key} -out {request}",
        f"x509 -req -in {request} -CA {ca} -CAkey {folder}/ca.key -CAcreateserial -days 1"
        f" -extfile {extensions} -out {cert}",
    ):
        subprocess.run(["openssl", *command.split()], check=True, capture_output=True)
    config = TlsConfig(ca_file=ca, cert_file=cert, key_file=key)
    toml = f'[tls]\nca_file = "{ca}"\ncert_file = "{cert}"\nkey_file = "{key}"\n'
    return config, toml
