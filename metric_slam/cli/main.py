"""``metric-slam run | evaluate | config | doctor ...``, and the parts that scripts/run_kitti.py is made of.

Only the modules of this folder print. Heavy libraries are imported inside the commands. Exit codes: 0 done, 1 the
doctor found an error, 2 a mistake of the user (one line on stderr), 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Column, Table

from metric_slam import __version__
from metric_slam.cli.depth import register as register_depth
from metric_slam.cli.evaluate_depth import evaluate_depth_command
from metric_slam.cli.options import ConfigFileOption, PresetOption, RunOptions, SetOption, with_run_options
from metric_slam.cli.weights import weights_app
from metric_slam.config.documentation import config_markdown
from metric_slam.config.resolve import Setting, dump_yaml, resolve_config
from metric_slam.errors import ConfigError, MetricSlamError

if TYPE_CHECKING:
    from metric_slam.datasets.base import Dataset
    from metric_slam.run.pipeline import RunSummary

EXIT_BROKEN, EXIT_MISTAKE, EXIT_INTERRUPTED = 1, 2, 130

# typer brings its own copy of click in some versions; the base of its usage errors is in both
_USAGE_ERROR: type[Exception] = next(
    base for base in typer.BadParameter.__mro__ if issubclass(base, Exception) and base.__name__ == "ClickException"
)

app = typer.Typer(add_completion=False, help="Dense monocular SLAM that outputs metres.")
app.add_typer(weights_app, name="weights")
register_depth(app)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        print(f"metric-slam {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command("run")
@with_run_options
def run_command(
    path: Annotated[Path, typer.Argument(help="Folder: KITTI odometry or raw, TUM layout, or plain images.")],
    options: RunOptions,
    seq: Annotated[str | None, typer.Option("--seq", help="Which sequence of a KITTI odometry root.")] = None,
) -> None:
    """Compute the metric trajectory, a map and a report from a sequence of images."""
    from metric_slam.datasets import open_dataset

    run_with_options(lambda _: open_dataset(path, sequence=seq, **options.data_options()), options)


@app.command("evaluate")
def evaluate_command(
    estimate: Annotated[Path, typer.Argument(help="Estimated trajectory, TUM or KITTI format.")],
    reference: Annotated[Path, typer.Argument(help="True trajectory, TUM or KITTI format.")],
    scale_unknown: Annotated[
        bool, typer.Option("--scale-unknown", help="The estimate is not in metres: fit its scale first.")
    ] = False,
    max_difference: Annotated[
        float,
        typer.Option(
            "--max-difference", metavar="S", min=0.0, help="Largest time difference between paired poses, in seconds."
        ),
    ] = 0.02,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures and their protocols as JSON.")] = False,
) -> None:
    """Compare a trajectory with the true one: KITTI drift, ATE and RPE under several alignments, fitted scale."""
    from metric_slam.evaluation import evaluate_files, format_table

    metrics = evaluate_files(estimate, reference, scale_known=not scale_unknown, max_difference_s=max_difference)
    if as_json:
        print(json.dumps(metrics, indent=2, allow_nan=False))
        return
    _stdout().print(format_table(metrics))


app.command("evaluate-depth")(evaluate_depth_command)


@app.command("config")
def config_command(
    preset: PresetOption = None,
    config: ConfigFileOption = None,
    settings: SetOption = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/configuration.md instead.")] = False,
) -> None:
    """Print the resolved configuration as YAML, or the documentation of all options."""
    if markdown:
        print(config_markdown(), end="")
        return
    options = {} if preset is None else {"preset": Setting(preset, "--preset")}
    print(dump_yaml(resolve_config(config, settings or (), options)), end="")


@app.command("doctor")
def doctor_command() -> None:
    """Check Python, libraries, compiled modules, devices and folders; exit code 1 if a required one is missing."""
    from metric_slam.cli.doctor import run_checks

    checks = run_checks()
    width = max(len(check.name) for check in checks)
    for check in checks:
        print(f"{check.status:<8} {check.name:<{width}}  {check.detail}")
    if any(check.status == "error" for check in checks):
        raise typer.Exit(EXIT_BROKEN)


def open_kitti_or_demo(seq: str, data: Path | None, options: RunOptions, console: Console) -> Dataset:
    """Open sequence ``seq`` below ``data`` (default: $KITTI_ODOMETRY, then data/kitti), or render the drive "demo".

    Raises MetricSlamError where the data cannot be used.
    """
    from metric_slam.datasets import open_dataset, resolve_kitti_root

    data_options = options.data_options()
    if seq != "demo":
        return open_dataset(resolve_kitti_root(data), kind="kitti", sequence=seq, **data_options)
    surplus = [name for name, value in {**data_options, "data": data}.items() if value is not None]
    if surplus:
        raise ConfigError(f"--seq demo renders its own data, so the option {surplus[0]} has no effect: leave it out")
    from metric_slam.datasets.synthetic import open_demo
    from metric_slam.run.progress import show_progress

    with show_progress("rendering", 0, console) as progress:
        return open_demo(progress=progress.update)


def run_with_options(open_data: Callable[[Console], Dataset], options: RunOptions, *, step: str = "opening") -> None:
    """Resolve the options, open the data, run, and print a summary; the body of every command that runs the SLAM.

    ``step`` is the name of the opening in the table of seconds at the end.
    """
    console = Console(stderr=True)
    _show_log(console)
    config = options.resolve()
    start = time.perf_counter()
    dataset = open_data(console)
    opened_s = time.perf_counter() - start
    output_dir = options.out if options.out is not None else Path("results") / dataset.name
    from metric_slam.run import pipeline

    summary = pipeline.run(
        config,
        dataset,
        output_dir,
        overwrite=options.overwrite,
        resume=options.resume,
        command=sys.argv,
        console=console,
        steps_before_s={step: opened_s},
    )
    _show_summary(summary)
    if summary.failure is not None:
        raise summary.failure
    if summary.info["interrupted"]:
        raise typer.Exit(EXIT_INTERRUPTED)


def run_script(command: Callable[..., None]) -> NoReturn:
    """Run one typer command as a program of its own (scripts/*.py)."""
    script = typer.Typer(add_completion=False)
    script.command()(command)
    _execute(script)


def main() -> NoReturn:
    """Entry point of ``metric-slam``."""
    _execute(app)


def _execute(program: typer.Typer) -> NoReturn:
    try:
        code = typer.main.get_command(program).main(standalone_mode=False)
    except _USAGE_ERROR as error:
        _fail(f"{error.format_message()} (see --help)", EXIT_MISTAKE)  # type: ignore[attr-defined]
    except MetricSlamError as error:
        _fail(str(error), EXIT_MISTAKE)
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    if code == EXIT_INTERRUPTED:  # what newer versions of typer make of KeyboardInterrupt
        _fail("interrupted; every file in the results folder is complete", EXIT_INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> NoReturn:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


class _ConsoleHandler(logging.Handler):
    """Log lines above the progress bar, unwrapped."""

    def __init__(self, console: Console) -> None:
        super().__init__(level=logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        self._console.print(prefix + record.getMessage(), soft_wrap=True, markup=False, highlight=False)


def _show_log(console: Console) -> None:
    logger = logging.getLogger("metric_slam")
    logger.setLevel(logging.INFO)
    logger.handlers = [_ConsoleHandler(console)]
    logger.propagate = False


def _stdout() -> Console:
    """Tables on stdout; wide enough not to be folded when it is a file or a pipe."""
    return Console() if sys.stdout.isatty() else Console(width=120)


def _show_summary(summary: RunSummary) -> None:
    info = summary.info
    print(
        f"{info['frames']} frames, {info['keyframes']} keyframes, {info['frames_per_s']:.1f} frames/s, "
        f"peak memory {info['peak_rss_mb']:.0f} MB, scale from {info['scale_source']}"
    )
    if summary.metrics is not None:
        from metric_slam.evaluation import format_table

        _stdout().print(format_table(summary.metrics))
    _stdout().print(_step_table(info["steps_s"]))
    report = summary.output_dir / "report.html"
    print(f"results in {summary.output_dir}" + (f", overview in {report}" if report.exists() else ""))


def _step_table(steps_s: Mapping[str, float]) -> Table:
    """Seconds of every step of a run and their share of the total, which is the last row."""
    table = Table(Column("step"), Column("seconds", justify="right"), Column("share", justify="right"))
    total_s = steps_s["total"]
    for name, seconds in steps_s.items():
        share = f"{100 * seconds / total_s:.0f} %" if total_s > 0 else ""
        table.add_row(name, f"{seconds:.1f}", share, style="bold" if name == "total" else None)
    return table
