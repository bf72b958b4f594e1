"""The command line: ``metric-slam depth`` and ``metric-slam measure``, metres from one image.

Heavy libraries are imported inside the commands. Exit codes: 0 done, 2 a mistake of the user.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from pydantic import ValidationError

from metric_slam.config.metric3d import Metric3DConfig
from metric_slam.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from metric_slam.depth.metric3d.predictor import ImageDepth
    from metric_slam.single_image.camera import FocalOptions
    from metric_slam.single_image.measure import DepthView, Measurement

_MODELS = "|".join(get_args(get_args(Metric3DConfig.model_fields["model"].annotation)[0]))

FocalOption = Annotated[
    float | None, typer.Option("--focal", metavar="PX", help="Focal length in pixels, at the size of the image file.")
]
CameraOption = Annotated[
    str | None,
    typer.Option("--camera", metavar="FX,FY,CX,CY", help="Intrinsics in pixels, at the size of the image file."),
]
ExifOption = Annotated[bool, typer.Option("--exif", help="Read the focal length from the EXIF data of the file.")]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar=_MODELS, help="Network; default: the best one with weights on this machine."),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights", metavar="FILE", help="File of weights, or an .onnx file; default: see metric-slam weights."
    ),
]
SizeOption = Annotated[
    str | None, typer.Option("--size", metavar="WxH", help="Input size of the network; smaller is faster.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="Device of the network: auto, cpu, cuda, cuda:1 ...")]


def depth_command(
    images: Annotated[list[Path], typer.Argument(help="Images of one camera, png or jpg.")],
    focal: FocalOption = None,
    camera: CameraOption = None,
    exif: ExifOption = False,
    model: ModelOption = None,
    weights: WeightsOption = None,
    size: SizeOption = None,
    device: DeviceOption = "auto",
    batch: Annotated[
        int, typer.Option("--batch", min=1, help="Images per pass of the network; more is faster on a GPU.")
    ] = 1,
    out: Annotated[Path, typer.Option("--out", help="Results folder.")] = Path("results/depth"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")] = False,
) -> None:
    """Compute metric depth of images: png (256 per metre), npy, picture, point cloud, and normals if available."""
    from metric_slam.choices import resolve_device
    from metric_slam.single_image import depth as single_image

    config = network_config(model, weights, size)
    inputs = single_image.collect_inputs(images, _focal_options(focal, camera, exif))
    single_image.refuse_existing(out, inputs, overwrite)
    predict, what = single_image.load_predictor(config, resolve_device(device), inputs)
    print(f"network: {what}")
    for item, image, found in single_image.predicted(predict, inputs, batch):
        outputs = single_image.write_outputs(out, item.path.stem, image, item.camera, found)
        print(f"{item.path}: {_depth_line(found)}; fx {item.camera.fx:.1f} px from {item.camera_source}")
        print("  " + ", ".join(path.name for path in outputs.paths))
    print(f"results in {out}")


def measure_command(
    path: Annotated[Path, typer.Argument(help="An image, or with --keyframe the results folder of a run.")],
    first: Annotated[str, typer.Argument(metavar="X1,Y1", help="First pixel, x to the right and y down from 0,0.")],
    second: Annotated[str, typer.Argument(metavar="X2,Y2", help="Second pixel.")],
    keyframe: Annotated[
        int | None,
        typer.Option("--keyframe", metavar="N", min=0, help="Frame number of a keyframe in the results folder."),
    ] = None,
    focal: FocalOption = None,
    camera: CameraOption = None,
    exif: ExifOption = False,
    model: ModelOption = None,
    weights: WeightsOption = None,
    size: SizeOption = None,
    device: DeviceOption = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Picture of the measurement.", show_default="results/measure/NAME.png"
        ),
    ] = None,
) -> None:
    """Measure the distance in metres between two pixels, with its uncertainty, in one image or in the map of a run."""
    from metric_slam.single_image.depth import measurement_picture, write_picture
    from metric_slam.single_image.measure import measure

    ends = _pixel(first), _pixel(second)
    options = _focal_options(focal, camera, exif)
    if path.is_dir():
        surplus = [name for name, value in (("--model", model), ("--weights", weights), ("--size", size)) if value]
        view, background, name = _keyframe(path, keyframe, options, surplus)
    elif keyframe is not None:
        raise ConfigError(f"--keyframe needs a results folder, and {path} is a file: leave it out")
    else:
        view, background, name = _image(path, options, network_config(model, weights, size), device)
    found = measure(view, *ends)
    out = out or Path("results/measure") / f"{name}_{'_'.join(f'{v:g}' for end in ends for v in end)}.png"
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out {out}: the picture is a png file, give it the suffix .png")
    write_picture(out, measurement_picture(background, found))
    _show(view, found, out)


def register(app: typer.Typer) -> None:
    """Add both commands to ``app``."""
    app.command("depth")(depth_command)
    app.command("measure")(measure_command)


def _image(path: Path, options: FocalOptions, config: Metric3DConfig, device: str) -> tuple[DepthView, np.ndarray, str]:
    """Depth to measure in, an image to draw on, and a name for the picture."""
    from metric_slam.choices import resolve_device
    from metric_slam.single_image import depth as single_image
    from metric_slam.single_image.measure import network_view

    inputs = single_image.collect_inputs([path], options)
    predict, what = single_image.load_predictor(config, resolve_device(device), inputs)
    print(f"network: {what}")
    print(f"fx {inputs[0].camera.fx:.1f} px from {inputs[0].camera_source}")
    image = single_image.read_image(path)
    found = predict(image, inputs[0].camera)
    return network_view(found.depth_m, found.confidence, inputs[0].camera, config), image, path.stem


def _keyframe(
    folder: Path, index: int | None, options: FocalOptions, surplus: list[str]
) -> tuple[DepthView, np.ndarray, str]:
    """Depth of a keyframe, a picture of it to draw on (the image stays in the data set), and a name for the picture."""
    import cv2

    from metric_slam.single_image.depth import depth_picture
    from metric_slam.single_image.measure import keyframe_view

    if index is None:
        raise ConfigError(f"{folder} is a folder: choose one of its keyframes with --keyframe N")
    surplus += [f"--{name}" for name, value in vars(options).items() if value]
    if surplus:
        name = surplus[0].replace("_px", "")
        raise ConfigError(f"a results folder has its own camera and depth: leave {name} out")
    view = keyframe_view(folder, index)
    known = view.inv_depth > 0
    picture = depth_picture(1.0 / view.inv_depth.clip(min=1e-12) * known)
    picture = cv2.resize(picture, view.image_size, interpolation=cv2.INTER_NEAREST)
    return view, picture, f"{folder.resolve().name}_{index:06d}"


def _show(view: DepthView, found: Measurement, picture: Path) -> None:
    from metric_slam.single_image.measure import describe

    for line in describe(view, found):
        print(line)
    print(f"picture: {picture}")


def _depth_line(found: ImageDepth) -> str:
    import numpy as np

    known = found.depth_m[found.depth_m > 0]
    if known.size == 0:
        return "no depth: every pixel is sky or beyond the range"
    low, middle, high = np.percentile(known, [1, 50, 99])
    sky = 100.0 * (1.0 - known.size / found.depth_m.size)
    return f"{low:.2f} to {high:.2f} m, median {middle:.2f} m, {sky:.0f} % sky"


def _focal_options(focal: float | None, camera: str | None, exif: bool) -> FocalOptions:
    from metric_slam.single_image.camera import FocalOptions

    return FocalOptions(focal, camera, exif)


def network_config(model: str | None, weights: str | None, size: str | None) -> Metric3DConfig:
    """Build section ``metric3d`` from options of the command line. Raises ConfigError that names the option."""
    try:
        return Metric3DConfig.model_validate({"model": model, "weights": weights, "input_size": size})
    except ValidationError as error:
        wrong = error.errors()[0]
        option = {"input_size": "--size"}.get(str(wrong["loc"][0]), f"--{wrong['loc'][0]}")
        raise ConfigError(f"{option} {wrong['input']}: {wrong['msg'].removeprefix('Value error, ')}") from error


def _pixel(text: str) -> tuple[float, float]:
    try:
        x, y = (float(number) for number in text.split(","))
    except ValueError as error:
        raise ConfigError(f"'{text}' is not a pixel: write it as X,Y, e.g. 320,96") from error
    return x, y
