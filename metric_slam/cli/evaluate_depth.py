"""The command line: ``metric-slam evaluate-depth``, depth maps against true depth."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from metric_slam.config.metric3d import Metric3DConfig
from metric_slam.errors import ConfigError

if TYPE_CHECKING:
    from metric_slam.evaluation.annotated import ImageMetrics, Predict
    from metric_slam.evaluation.depth import DepthMetrics

_COLUMNS = {
    "abs_rel": "AbsRel",
    "sq_rel_m": "SqRel m",
    "rmse_m": "RMSE m",
    "rmse_log": "RMSElog",
    "log10": "log10",
    "delta1": "d<1.25",
    "delta2": "d<1.25^2",
    "delta3": "d<1.25^3",
    "coverage": "coverage",
}
_MODELS = get_args(get_args(Metric3DConfig.model_fields["model"].annotation)[0])

_PredictionsOption = Annotated[
    Path | None, typer.Option("--predictions", metavar="DIR", help="Folder of depth maps named like the images.")
]
_PngScaleOption = Annotated[
    float, typer.Option("--png-scale", metavar="N", min=1e-6, help="Values per metre in png predictions.")
]
_ModelOption = Annotated[
    str | None, typer.Option("--model", metavar="NAME", help=f"Predict with a Metric3D network: {', '.join(_MODELS)}.")
]
_WeightsOption = Annotated[
    Path | None, typer.Option("--weights", metavar="FILE", help="File of weights; default: see metric-slam weights.")
]
_CropOption = Annotated[
    str, typer.Option("--crop", metavar="none|eigen|garg", help="Part of the image that is evaluated (KITTI's crops).")
]
_AlignOption = Annotated[
    str,
    typer.Option(
        "--align", metavar="none|median|scale", help="Scale factor fitted to each image before the comparison."
    ),
]


def evaluate_depth_command(
    annotations: Annotated[
        Path, typer.Argument(help="JSON file that lists images and their true depth, in Metric3D's format.")
    ],
    predictions: _PredictionsOption = None,
    png_scale: _PngScaleOption = 256.0,
    model: _ModelOption = None,
    weights: _WeightsOption = None,
    device: Annotated[
        str, typer.Option("--device", help="Device of the network: auto, cpu, cuda, cuda:1 ...")
    ] = "auto",
    crop: _CropOption = "none",
    align: _AlignOption = "none",
    min_depth: Annotated[
        float, typer.Option("--min-depth", metavar="M", help="Nearest true depth that is evaluated, metres.")
    ] = 1e-3,
    max_depth: Annotated[
        float,
        typer.Option(
            "--max-depth", metavar="M", help="Farthest true depth that is evaluated, metres: KITTI 80, NYU 10."
        ),
    ] = 80.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures and their protocol as JSON.")] = False,
) -> None:
    """Compare depth maps, or those of a Metric3D network, with true depth: one row per image, and their mean."""
    from metric_slam.datasets.annotations import read_annotations
    from metric_slam.evaluation.annotated import FolderOfDepth, evaluate_images
    from metric_slam.evaluation.depth import DepthProtocol, mean_metrics

    if (predictions is None) == (model is None and weights is None):
        raise ConfigError("give either --predictions DIR or --model NAME as the depth to evaluate")
    protocol = DepthProtocol(min_depth, max_depth, crop, align)  # type: ignore[arg-type]
    images = read_annotations(annotations)
    predict: Predict
    if predictions is not None:
        source, predict = str(predictions), FolderOfDepth(predictions, png_scale)
    else:
        source, predict = _network(model, weights, device)
    results = evaluate_images(images, predict, protocol)
    mean = mean_metrics([result.metrics for result in results])
    if as_json:
        print(json.dumps(_as_tree(annotations, source, results, mean), indent=2, allow_nan=False))
        return
    _print_table(source, results, mean)


def _network(model: str | None, weights: Path | None, device: str) -> tuple[str, Predict]:
    """Description of the network, and its predictions. Raises ConfigError, WeightsError."""
    from metric_slam.choices import resolve_device
    from metric_slam.depth.metric3d.prior import make_predictor
    from metric_slam.evaluation.annotated import from_network

    if model is not None and model not in _MODELS:
        raise ConfigError(f"--model {model}: choose from {', '.join(_MODELS)}")
    config = Metric3DConfig.model_validate({"model": model, "weights": None if weights is None else str(weights)})
    on = resolve_device(device)
    predictor, file = make_predictor(config, on)
    size = "{}x{}".format(*predictor.input_size)
    return f"Metric3D {file.spec.name} at {size} with {file.path}, on {on}", from_network(predictor)


def _as_tree(annotations: Path, source: str, results: list[ImageMetrics], mean: DepthMetrics) -> dict[str, object]:
    """All figures as a tree for JSON, with the protocol once."""

    def figures(metrics: DepthMetrics) -> dict[str, object]:
        return {name: value for name, value in asdict(metrics).items() if name != "protocol"}

    return {
        "annotations": str(annotations),
        "predictions": source,
        "protocol": mean.protocol,
        "mean": figures(mean),
        "images": [{"image": result.name, **figures(result.metrics)} for result in results],
    }


def _print_table(source: str, results: list[ImageMetrics], mean: DepthMetrics) -> None:
    last = f"mean of {mean.images} images"
    names = [*(result.name for result in results), last]
    width = max(len(name) for name in [*names, "image"])
    print("  ".join([f"{'image':<{width}}", f"{'pixels':>8}", *(f"{title:>8}" for title in _COLUMNS.values())]))
    for name, metrics in zip(names, [*(result.metrics for result in results), mean], strict=True):
        figures = [f"{getattr(metrics, key):8.4f}" for key in _COLUMNS]
        print("  ".join([f"{name:<{width}}", f"{metrics.pixels:8d}", *figures]))
    print(f"predictions: {source}")
    print(f"protocol: {mean.protocol}; the mean gives every image the same weight")
