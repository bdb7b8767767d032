"""Fetches the files of a model, at the owner's command and at no other time.

A fetch that was broken off goes on where it stopped. Nothing is believed about a file but its size
and its hash.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import httpx

from services.common.addresses import HostPort, require_private
from services.model_store.store import FileState, StoreError, hash_of, state_of

if TYPE_CHECKING:
    from pathlib import Path

    from services.model_store.manifest import Model, ModelFile
    from services.model_store.store import Progress, Store

_TRIES = 5
_PAUSE_S = 0.5
_TIMEOUT_S = 30.0
_HTTP_PORT = 80


class _BrokenOffError(Exception):
    """The connection broke; what has come so far is kept."""


def pull(store: Store, model: Model, progress: Progress, *, pause_s: float = _PAUSE_S) -> list[str]:
    """Fetch what is missing of a model; the paths fetched. StoreError says why it cannot be."""
    store.require_allowed(model)
    store.require_pinned(model)
    with store.locked():
        wanted = [
            item
            for item in store.files(model)
            if state_of(store.path(model) / item.path, item) is not FileState.OK
        ]
        store.require_space(sum(_rest(store, model, item) for item in wanted))
        with httpx.Client(follow_redirects=True, timeout=_TIMEOUT_S) as client:
            for item in wanted:
                part = store.part(model, item)
                _fetch(client, model.url(item), item, part, progress, pause_s)
                store.accept(model, item, part, hash_of(part))
    return [item.path for item in wanted]


def _rest(store: Store, model: Model, item: ModelFile) -> int:
    return max((item.size or 0) - _length(store.part(model, item)), 0)


def _fetch(
    client: httpx.Client,
    url: str,
    item: ModelFile,
    part: Path,
    progress: Progress,
    pause_s: float,
) -> None:
    """Until the part is as long as the file should be, in a few tries."""
    reason = ""
    for number in range(_TRIES):
        if part.exists() and _length(part) >= (item.size or 0):
            return
        if number:
            time.sleep(pause_s * 2**number)
        try:
            _continue(client, url, item, part, progress)
        except (httpx.TransportError, _BrokenOffError) as error:
            reason = str(error) or type(error).__name__
        else:
            return
    raise StoreError(
        f"{url} broke off {_TRIES} times, at last with: {reason}. "
        "What has come is kept; the same command goes on from there"
    )


def _continue(
    client: httpx.Client, url: str, item: ModelFile, part: Path, progress: Progress
) -> None:
    _require_safe(httpx.URL(url))
    size = item.size or 0
    have = _length(part)
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with client.stream("GET", url, headers=headers) as response:
        _require_safe(response.url)
        have = _first_byte(response, url, have, part)
        with part.open("ab" if have else "wb") as file:
            for chunk in response.iter_raw():
                have += len(chunk)
                if have > size:
                    part.unlink()
                    raise StoreError(f"{url} is longer than {size} bytes: it is another file")
                file.write(chunk)
                progress(item.path, have, size)
    if have < size:
        raise _BrokenOffError(f"{have} of {size} bytes have come")


def _first_byte(response: httpx.Response, url: str, have: int, part: Path) -> int:
    """Where in the file the answer begins."""
    if response.status_code == httpx.codes.OK:
        return 0  # the server does not go on in the middle
    if response.status_code != httpx.codes.PARTIAL_CONTENT:
        raise StoreError(f"{url} answers {response.status_code} {response.reason_phrase}")
    if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        part.unlink()
        raise _BrokenOffError("the server went on from another place")
    return have


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _require_safe(url: httpx.URL) -> None:
    """Plain HTTP is good enough inside the owner's network only."""
    if url.scheme == "http":
        require_private(HostPort(url.host, url.port or _HTTP_PORT), f"{url} without TLS")
    elif url.scheme != "https":
        raise StoreError(f"{url} cannot be fetched: only https, or http inside your own network")
