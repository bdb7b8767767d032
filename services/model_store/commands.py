"""`landline models`: what there is, fetch, check, take in."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Column, Table

from services.common import config
from services.common.errors import LandlineError
from services.model_store import manifest
from services.model_store.manifest import ALLOWED_LICENCES
from services.model_store.store import FileState, Store, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import TaskID

    from services.model_store.manifest import Manifest, Model

app = typer.Typer(help="Models on this machine: list, fetch, check, take in.", no_args_is_help=True)
console = Console()
_FALLBACK = Path("var/models")

FolderOption = Annotated[
    Path | None,
    typer.Option("--folder", help="Where models are kept; left out: data_dir/models."),
]
ManifestOption = Annotated[
    Path | None, typer.Option("--manifest", help="Another manifest than Landline's own.")
]
ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The landline.toml to use.")]
LicenceOption = Annotated[
    list[str] | None,
    typer.Option("--allow-licence", metavar="SPDX", help="Take models under this licence too."),
]
NameArgument = Annotated[str, typer.Argument(help="A name from landline models list.")]
DEFAULT_CONFIG = Path("landline.toml")


@app.command("list")
def list_models(
    folder: FolderOption = None,
    manifest_path: ManifestOption = None,
    config_path: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """List the models that the manifest knows, and which of them are here.

    Example: landline models list
    """
    store, known = _open(folder, manifest_path, config_path)
    if as_json:
        print(json.dumps([_facts(store, model) for model in known.model]))
        return
    table = Table(Column("model", no_wrap=True), "for", "size", "licence", "here", "about")
    for model in known.model:
        here = "yes" if store.is_complete(model) else "no"
        table.add_row(
            model.name, model.kind, _megabytes(model.size), model.licence, here, model.about
        )
    console.print(table)


@app.command()
def pull(
    name: NameArgument,
    folder: FolderOption = None,
    manifest_path: ManifestOption = None,
    config_path: ConfigOption = DEFAULT_CONFIG,
    licences: LicenceOption = None,
) -> None:
    """Fetch a model from its source; a fetch that was broken off goes on where it stopped.

    Example: landline models pull whisper-base
    """
    from services.model_store.fetch import pull as fetch_model

    store, known = _open(folder, manifest_path, config_path, licences)
    model = known.find(name)
    with _progress() as show:
        fetched = fetch_model(store, model, show)
    console.print(f"{name}: {len(fetched)} files fetched, all checked")
    _say_how_to_use(store, model)


@app.command()
def verify(
    name: Annotated[str | None, typer.Argument(help="Left out: every model that is here.")] = None,
    folder: FolderOption = None,
    manifest_path: ManifestOption = None,
    config_path: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Hash the files of models. Exit code 1: one is not what it should be.

    Example: landline models verify whisper-base
    """
    store, known = _open(folder, manifest_path, config_path)
    chosen = [known.find(name)] if name else [m for m in known.model if store.path(m).is_dir()]
    if not chosen:
        raise LandlineError(f"there is no model in {store.folder}")
    wrong = 0
    for model in chosen:
        for report in store.verify(model):
            wrong += report.state is not FileState.OK
            console.print(f"{model.name}/{report.path}: {report.state.value}", highlight=False)
    if wrong:
        raise StoreError(f"{wrong} files are not what they should be")


@app.command("import")
def import_model(
    name: NameArgument,
    source: Annotated[Path, typer.Argument(help="The folder with the model's files.")],
    folder: FolderOption = None,
    manifest_path: ManifestOption = None,
    config_path: ConfigOption = DEFAULT_CONFIG,
    licences: LicenceOption = None,
) -> None:
    """Take in a model that was carried here; files without a known hash are pinned as they are.

    Example: landline models import whisper-base /media/usb/whisper-base
    """
    store, known = _open(folder, manifest_path, config_path, licences)
    model = known.find(name)
    with _progress() as show:
        store.take_in(model, source, show)
    console.print(f"{name}: {len(model.files)} files taken in, all checked")
    _say_how_to_use(store, model)


def _open(
    folder: Path | None,
    manifest_path: Path | None,
    config_path: Path,
    licences: list[str] | None = None,
) -> tuple[Store, Manifest]:
    if folder is None:
        known = config_path.exists()
        folder = config.load(config_path).shared.data_dir / "models" if known else _FALLBACK
    allowed = ALLOWED_LICENCES | set(licences or ())
    return Store(folder, allowed), manifest.read(manifest_path or manifest.default_path())


def _facts(store: Store, model: Model) -> dict[str, object]:
    return {
        "name": model.name,
        "version": model.version,
        "kind": model.kind,
        "licence": model.licence,
        "source": model.source,
        "bytes": model.size,
        "path": str(store.path(model)),
        "here": store.is_complete(model),
        "pinned": all(item.pinned for item in store.files(model)),
    }


def _say_how_to_use(store: Store, model: Model) -> None:
    if model.kind == "stt":
        console.print("Use it with, in landline.toml:", highlight=False)
        path = store.path(model).resolve()
        lines = ("[stt]", 'engine = "whisper"', "[stt.whisper]", f'model = "{path}"')
        for line in lines:
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def show(path: str, done: int, total: int) -> None:
            if path not in tasks:
                tasks[path] = bars.add_task(path, total=total)
            bars.update(tasks[path], completed=done)

        yield show
