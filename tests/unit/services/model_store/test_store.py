"""Models are fetched in pieces, checked to the last bit, and refused when anything is not right."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.addresses import PublicAddressError
from services.common.errors import ConfigError, LandlineError
from services.model_store import manifest
from services.model_store.fetch import pull
from services.model_store.manifest import ALLOWED_LICENCES, Manifest, Model
from services.model_store.store import FileState, Store, StoreError
from tests.fakes.file_server import FileServer, serving

WEIGHTS = bytes(range(256)) * 4_000
CONFIG = b'{"a": 1}'


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def quiet(path: str, done: int, total: int) -> None:
    assert 0 <= done <= total, path


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving() as started:
        started.files = {"/m/resolve/1/model.bin": WEIGHTS, "/m/resolve/1/config.json": CONFIG}
        yield started


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def model(server: FileServer, **changes: object) -> Model:
    files = [
        {"path": "model.bin", "size": len(WEIGHTS), "sha256": sha256(WEIGHTS)},
        {"path": "config.json", "size": len(CONFIG), "sha256": sha256(CONFIG)},
    ]
    base = {
        "name": "whisper-toy", "version": "1", "kind": "stt", "licence": "MIT",
        "source": f"{server.url}/m", "files": files,
    }  # fmt: skip
    return Model.model_validate({**base, **changes})


def test_a_model_is_fetched_once_and_checked(server: FileServer, store: Store) -> None:
    wanted = model(server)
    seen: list[tuple[str, int, int]] = []
    assert pull(store, wanted, lambda *step: seen.append(step)) == ["model.bin", "config.json"]
    assert (store.path(wanted) / "model.bin").read_bytes() == WEIGHTS
    assert store.is_complete(wanted)
    assert {report.state for report in store.verify(wanted)} == {FileState.OK}
    assert seen[-1] == ("config.json", len(CONFIG), len(CONFIG))
    assert pull(store, wanted, quiet) == []
    assert len(server.asked) == 2


def test_a_broken_fetch_goes_on_where_it_stopped(server: FileServer, store: Store) -> None:
    server.break_after = [300_000, 200_000]
    pull(store, model(server), quiet, pause_s=0.0)
    ranges = [asked for path, asked in server.asked if path.endswith("model.bin")]
    assert ranges == ["", "bytes=300000-", "bytes=500000-"]


def test_what_has_come_is_kept_for_the_next_time(server: FileServer, store: Store) -> None:
    wanted = model(server)
    server.break_after = [100_000, 0, 0, 0, 0]
    with pytest.raises(StoreError, match=r"broke off 5 times.*goes on from there"):
        pull(store, wanted, quiet, pause_s=0.0)
    assert not (store.path(wanted) / "model.bin").exists()
    pull(store, wanted, quiet)
    assert server.asked[-2] == ("/m/resolve/1/model.bin", "bytes=100000-")
    assert store.is_complete(wanted)


def test_a_server_without_ranges_is_asked_for_the_whole(server: FileServer, store: Store) -> None:
    server.ranges = False
    server.break_after = [300_000]
    pull(store, model(server), quiet, pause_s=0.0)
    assert store.is_complete(model(server))


def test_another_file_of_the_same_size_is_refused_and_thrown_away(
    server: FileServer, store: Store
) -> None:
    wanted = model(server)
    server.files["/m/resolve/1/model.bin"] = bytes(len(WEIGHTS))
    with pytest.raises(StoreError, match="not the file that it should be"):
        pull(store, wanted, quiet)
    assert list(store.path(wanted).iterdir()) == []


def test_a_longer_file_is_not_even_written(server: FileServer, store: Store) -> None:
    wanted = model(server)
    server.files["/m/resolve/1/model.bin"] = WEIGHTS * 20
    with pytest.raises(StoreError, match="longer than"):
        pull(store, wanted, quiet)
    assert list(store.path(wanted).iterdir()) == []


def test_a_missing_file_is_named_with_what_the_server_says(
    server: FileServer, store: Store
) -> None:
    del server.files["/m/resolve/1/config.json"]
    with pytest.raises(StoreError, match=r"config\.json answers 404"):
        pull(store, model(server), quiet)


def test_redirects_are_followed_but_not_out_of_the_network_without_tls(
    server: FileServer, store: Store
) -> None:
    server.files["/elsewhere"] = WEIGHTS
    server.redirects["/m/resolve/1/model.bin"] = f"{server.url}/elsewhere"
    pull(store, model(server), quiet)
    assert store.is_complete(model(server))


@pytest.mark.parametrize(
    ("source", "error"),
    [("http://8.8.8.8/m", PublicAddressError), ("ftp://127.0.0.1/m", StoreError)],
)
def test_only_https_or_the_own_network(
    server: FileServer, store: Store, source: str, error: type[LandlineError]
) -> None:
    with pytest.raises(error):
        pull(store, model(server, source=source), quiet)


def test_a_licence_must_be_allowed(server: FileServer, store: Store) -> None:
    wanted = model(server, licence="CC-BY-NC-4.0")
    with pytest.raises(StoreError, match=r"licence CC-BY-NC-4\.0, which is not allowed"):
        pull(store, wanted, quiet)
    assert server.asked == []
    generous = Store(store.folder, ALLOWED_LICENCES | {"CC-BY-NC-4.0"})
    pull(generous, wanted, quiet)


def test_without_a_hash_nothing_is_fetched_until_it_is_pinned(
    server: FileServer, store: Store, tmp_path: Path
) -> None:
    wanted = model(server, files=[{"path": "model.bin"}, {"path": "config.json"}])
    with pytest.raises(StoreError, match=r"pinned the hash of model\.bin, config\.json"):
        pull(store, wanted, quiet)
    assert server.asked == []
    carried = tmp_path / "carried"
    carried.mkdir()
    (carried / "model.bin").write_bytes(WEIGHTS)
    (carried / "config.json").write_bytes(CONFIG)
    store.take_in(wanted, carried, quiet)
    assert {report.state for report in store.verify(wanted)} == {FileState.OK}
    (store.path(wanted) / "model.bin").unlink()
    assert pull(store, wanted, quiet) == ["model.bin"]
    (carried / "model.bin").write_bytes(b"another")
    with pytest.raises(StoreError, match="not the file that it should be"):
        store.take_in(wanted, carried, quiet)
    assert store.is_complete(wanted)


def test_a_folder_that_is_not_complete_or_not_right_is_not_taken_in(
    server: FileServer, store: Store, tmp_path: Path
) -> None:
    wanted = model(server)
    carried = tmp_path / "carried"
    with pytest.raises(StoreError, match="there is no folder"):
        store.take_in(wanted, carried, quiet)
    carried.mkdir()
    (carried / "model.bin").write_bytes(WEIGHTS[:-1] + b"x")
    with pytest.raises(StoreError, match=r"config\.json missing"):
        store.take_in(wanted, carried, quiet)
    (carried / "config.json").write_bytes(CONFIG)
    with pytest.raises(StoreError, match=r"whisper-toy/model\.bin is not the file"):
        store.take_in(wanted, carried, quiet)
    assert not store.is_complete(wanted)


def test_verify_says_what_is_wrong_with_each_file(server: FileServer, store: Store) -> None:
    wanted = model(server)
    pull(store, wanted, quiet)
    folder = store.path(wanted)
    (folder / "model.bin").write_bytes(bytes(len(WEIGHTS)))
    (folder / "config.json").unlink()
    states = {report.path: report.state for report in store.verify(wanted)}
    assert states == {"model.bin": FileState.WRONG_HASH, "config.json": FileState.MISSING}
    (folder / "config.json").write_bytes(b"")
    assert store.verify(wanted)[1].state is FileState.WRONG_SIZE
    assert pull(store, wanted, quiet) == ["model.bin", "config.json"]


def test_two_fetches_at_once_do_not_mix(server: FileServer, store: Store) -> None:
    with store.locked(), pytest.raises(StoreError, match="another process"):
        pull(store, model(server), quiet)


def test_damaged_pins_are_an_error(server: FileServer, store: Store) -> None:
    store.folder.mkdir(parents=True)
    (store.folder / "pins.json").write_text(json.dumps({"whisper-toy": {"model.bin": 7}}))
    with pytest.raises(StoreError, match="damaged"):
        store.files(model(server, files=[{"path": "model.bin"}]))


def test_more_than_the_disk_holds_is_refused_before_it_begins(
    server: FileServer, store: Store
) -> None:
    huge = [{"path": "model.bin", "size": 10**18, "sha256": sha256(b"")}]
    with pytest.raises(StoreError, match="GB are needed"):
        pull(store, model(server, files=huge), quiet)
    assert server.asked == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": [{"path": "../x"}]}, "does not lie inside"),
        ({"files": [{"path": "/etc/passwd"}]}, "does not lie inside"),
        ({"files": [{"path": "a", "sha256": "abc"}]}, "64 lower-case"),
        ({"files": [{"path": "a"}, {"path": "a"}]}, "twice"),
        ({"files": []}, "at least 1"),
        ({"name": "../up"}, "a name is made of"),
        ({"licnce": "MIT"}, "licnce"),
    ],
)
def test_a_wrong_manifest_is_refused(
    server: FileServer, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model(server, **changes)


def test_the_manifest_names_its_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "manifest.toml"
    with pytest.raises(ConfigError, match="cannot read"):
        manifest.read(path)
    path.write_text("[[model]\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        manifest.read(path)
    path.write_text('[[model]]\nname = "x"\n')
    with pytest.raises(ConfigError, match=r"model\.0\.licence"):
        manifest.read(path)


def test_our_own_manifest_is_whole(server: FileServer) -> None:
    known = manifest.read(manifest.default_path())
    assert [item.name for item in known.model][:2] == ["whisper-tiny", "whisper-base"]
    for item in known.model:
        assert item.licence in ALLOWED_LICENCES
        assert all(file.pinned for file in item.files)
        assert item.source.startswith("https://")
        assert len(item.version) == 40
    with pytest.raises(LandlineError, match="knows no model 'nothing'; it knows whisper-tiny"):
        known.find("nothing")
    assert Manifest().model == []
