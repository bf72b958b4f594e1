"""The command line: ``metric-slam weights list | verify | download | export``. Released network weights.

Exit codes: 0 done, 1 a file differs from the published one, 2 a mistake of the user.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from metric_slam.errors import ConfigError, OutputError, WeightsError
from metric_slam.weights.released import (
    RELEASED,
    Progress,
    ReleasedWeights,
    download,
    find,
    released,
    verify,
    weights_folder,
)

EXIT_WRONG = 1

weights_app = typer.Typer(help="Weights of the optional networks: list, locate, verify, download and export files.")

NameArgument = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="A name that `weights list` shows.", show_default=False)
]


@weights_app.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_command()


@weights_app.command("list")
def list_command() -> None:
    """List every file with its size, its path or where to put it, and whether it is intact."""
    columns = ("name", "file", "size", "state", "licence", "used by")
    rows = [_row(entry) for entry in RELEASED]
    widths = [max(len(row[k]) for row in [columns, *rows]) for k in range(len(columns))]
    for row in [columns, *rows]:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    print()
    for entry in RELEASED:
        path = find(entry.name)
        place = f"put it at {weights_folder() / entry.file_name}, from {entry.page}" if path is None else f"is {path}"
        print(f"{entry.name:<{widths[0]}}  {place}")


@weights_app.command("verify")
def verify_command(
    name: NameArgument = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="Verify this file instead of the one in the weights folder.")
    ] = None,
) -> None:
    """Compare size and SHA-256 with the published ones; exit code 1 if they differ. Without NAME: every file here."""
    if name is None and file is not None:
        raise WeightsError("--file needs the NAME to compare the file with: see `metric-slam weights list`")
    entries = RELEASED if name is None else (released(name),)
    wrong = False
    for entry in entries:
        path = find(entry.name if file is None else file)
        if path is not None:
            result = verify(path, entry)
            wrong |= result.status != "verified"
            print(f"{result.status:<8}  {path}  {result.reason}")
        elif name is not None:
            place = weights_folder() / entry.file_name if file is None else file
            raise WeightsError(f"no weights at {place}: get them with `metric-slam weights download {entry.name}`")
    if name is None and not any(find(entry.name) for entry in entries):
        print(f"no weights in {weights_folder()} nor in ./weights; nothing needs them")
    if wrong:
        raise typer.Exit(EXIT_WRONG)


@weights_app.command("download")
def download_command(name: NameArgument = None) -> None:
    """Download a file to the weights folder and verify it. Without NAME: droid; depth networks need their NAME."""
    entry = released("droid" if name is None else name)
    with _shown(entry) as progress:
        path = download(entry, progress=progress)
    print(f"{entry.file_name} is at {path} ({verify(path, entry).reason}; licence: {entry.licence})")
    if entry.used_by is None:
        print("no part of this version uses it yet")


@weights_app.command("export")
def export_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of a metric3d network in `weights list`.")],
    onnx: Annotated[Path, typer.Option("--onnx", metavar="FILE", help="Output file, with the suffix .onnx.")],
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="WxH", help="Input size, which is fixed in the file; default: as published."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="Weights to export instead of those in the weights folder.")
    ] = None,
) -> None:
    """Write a depth network as ONNX, for `depth --weights FILE`, `metric3d.weights` and other programs."""
    from metric_slam.cli.depth import network_config
    from metric_slam.depth.metric3d.locate import input_size, located
    from metric_slam.depth.metric3d.specs import SPECS

    entry = released(name)
    spec = next((spec for spec in SPECS.values() if spec.weights == entry.name), None)
    if spec is None:
        raise WeightsError(
            f"{name} is not a depth network: export takes {', '.join(s.weights for s in SPECS.values())}"
        )
    if onnx.suffix.lower() != ".onnx":
        raise ConfigError(f"--onnx {onnx}: give the file the suffix .onnx, by which it is recognised")
    if onnx.exists():
        raise OutputError(f"{onnx} already exists: give another name or delete it")
    config = network_config(spec.name, None if file is None else str(file), size)
    source, size_px = located(config).path, input_size(config, spec)
    from metric_slam.depth.metric3d.onnx_network import export_onnx
    from metric_slam.depth.metric3d.weights import load_metric3d

    export_onnx(load_metric3d(spec, source), onnx, size_px)
    print(f"{onnx}: {spec.name} of {source}, for inputs of {size_px[0]}x{size_px[1]}")


def _row(entry: ReleasedWeights) -> tuple[str, ...]:
    path = find(entry.name)
    state = "not here" if path is None else verify(path, entry).status
    size = "unknown" if entry.size_bytes is None else f"{entry.size_bytes / 1e6:,.1f} MB"
    return entry.name, entry.file_name, size, state, entry.licence, entry.used_by or "not used yet"


@contextmanager
def _shown(entry: ReleasedWeights) -> Iterator[Progress | None]:
    """Show the progress of a download on stderr, if that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(entry.file_name, total=entry.size_bytes)
        yield lambda done, total: bar.update(task, completed=done, total=total or entry.size_bytes)
