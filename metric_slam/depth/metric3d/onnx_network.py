"""Metric3D networks as ONNX files: written from our own networks, and run by onnxruntime instead of torch.

Besides our own files two public kinds are read, recognised by the names of their inputs and outputs. Both take colour
levels 0..255 and normalise them inside:

* onnx-community/metric3d-vit-small, -large and -giant2 on Hugging Face, made as github.com/YvanYin/Metric3D issue 117
  describes; their preprocessor_config.json neither rescales nor normalises. Their outputs are depth, normals and the
  concentration of the normals, but not with a confidence of depth;
* what onnx/metric3d_onnx_export.py of github.com/YvanYin/Metric3D writes: depth alone.

A confidence that a file does not give is 1 everywhere.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from metric_slam.depth.metric3d.canonical import MEAN_RGB, STD_RGB
from metric_slam.depth.metric3d.model import Metric3D, Prediction
from metric_slam.errors import MissingDependencyError, OutputError, WeightsError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

log = logging.getLogger(__name__)

SUFFIX = ".onnx"
"""A weights file with this suffix is a whole network, not named tensors."""

_NETWORK_KEY = "metric_slam.network"
"""Entry of a file's metadata with the name of the network."""

_LARGEST_FILE = 1_900_000_000
"""Bytes of weights up to which they fit into one file: a protobuf ends at 2 GiB."""

_REMEDY = "write one with `metric-slam weights export`"


class _Naming(NamedTuple):
    """Names of the input and of the outputs in one kind of file."""

    images: str
    fields: Mapping[str, str]
    takes_levels: bool


_OURS = _Naming(
    "images", MappingProxyType({"depth": "depth", "confidence": "confidence", "normals": "normals"}), takes_levels=False
)
_NAMINGS = (
    _OURS,
    _Naming(
        "pixel_values",
        MappingProxyType(
            {"predicted_depth": "depth", "predicted_normal": "normals", "normal_confidence": "normal_kappa"}
        ),
        takes_levels=True,
    ),
    _Naming("image", MappingProxyType({"pred_depth": "depth"}), takes_levels=True),
)


class OnnxNetwork:
    """A network in an ONNX file; called like :class:`metric_slam.depth.metric3d.model.Metric3D`."""

    def __init__(self, path: Path, device: str = "cpu") -> None:
        """Read ``path`` for a torch device; without a matching onnxruntime it runs on the CPU.

        Raises:
            MissingDependencyError: onnxruntime is not installed.
            WeightsError: the file is missing, damaged or no Metric3D network.
        """
        self.path = path
        self._session, self._failures = _session(path, device)
        inputs = self._session.get_inputs()
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._naming = _naming([entry.name for entry in inputs], self._outputs, path)
        self._dtype = np.float16 if "float16" in inputs[0].type else np.float32
        height, width = inputs[0].shape[2:]
        self.input_size: tuple[int, int] | None = None
        """The only (width, height) that it takes, in pixels; None: any."""
        if isinstance(height, int) and isinstance(width, int):
            self.input_size = width, height
        self.network_name: str | None = self._session.get_modelmeta().custom_metadata_map.get(_NETWORK_KEY)
        """Name of the network; None where the file does not state it."""

    def __call__(self, images: Tensor) -> Prediction:
        """``images`` normalised float [N, 3, H, W]; the result is on their device.

        Raises WeightsError where onnxruntime cannot run the file.
        """
        levels = images.float().cpu().numpy()
        if self._naming.takes_levels:
            levels = levels * STD_RGB[:, None, None] + MEAN_RGB[:, None, None]
        # one by one: exported files have a batch of one
        found = [self._run(levels[k : k + 1].astype(self._dtype)) for k in range(len(levels))]
        fields = {
            name: torch.from_numpy(np.concatenate([maps[name] for maps in found])).to(images.device)
            for name in found[0]
        }
        fields.setdefault("confidence", torch.ones_like(fields["depth"]))
        return Prediction(**fields)

    def _run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Fields of the prediction, float32 [1, H, W] or [1, 3, H, W], of an input [1, 3, H, W]."""
        try:
            outputs = self._session.run(self._outputs, {self._naming.images: image})
        except self._failures as error:
            raise WeightsError(f"{self.path} does not run ({_line(error)}): {_REMEDY}") from error
        found = {}
        for name, values in zip(self._outputs, outputs, strict=True):
            field = self._naming.fields[name]
            shape = (1, 3) if field == "normals" else (1,)
            found[field] = np.asarray(values, np.float32).reshape(*shape, *values.shape[-2:])
        return found


def export_onnx(network: Metric3D, path: Path, input_size: tuple[int, int]) -> None:
    """Write a network, on the CPU and in evaluation mode, for one image of ``input_size`` (width, height) at a time.

    Weights beyond two gigabytes go into a second file beside it, named like it with ``.data`` added.

    Raises:
        MissingDependencyError: onnx or onnxscript is not installed.
        OutputError: the file cannot be written.
    """
    try:
        import onnx  # noqa: F401  torch's exporter needs both, and its own message is less clear
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise _missing("writing", path, error) from error
    width, height = input_size
    example = torch.zeros(1, 3, height, width)
    names = list(_OURS.fields)[: len(_Maps(network)(example))]
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            _Maps(network), (example,), input_names=[_OURS.images], output_names=names, dynamo=True, verbose=False
        )
    assert program is not None
    program.model.metadata_props[_NETWORK_KEY] = network.spec.name
    size = sum(p.numel() * p.element_size() for p in network.parameters())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        program.save(path, external_data=size > _LARGEST_FILE)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror or type(error).__name__})") from error


class _Maps(nn.Module):
    """A network with a plain tuple as output, in the order of our names."""

    def __init__(self, network: Metric3D) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found = self.network(images)
        maps = (found.depth, found.confidence)
        return maps if found.normals is None else (*maps, found.normals)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which logs its internals and packages that do not matter here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _session(path: Path, device: str) -> tuple[InferenceSession, tuple[type[Exception], ...]]:
    """Open a file in onnxruntime; returns the session and the exceptions that running it may raise."""
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as native
    except ImportError as error:
        raise _missing("running", path, error) from error
    if not path.is_file():
        raise WeightsError(f"no weights at {path}: {_REMEDY}, or give the path of another file")
    # its exceptions have no base of their own
    own = [kind for kind in vars(native).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    failures: tuple[type[Exception], ...] = (*own, RuntimeError, ValueError)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # one setting holds for both libraries
    options.log_severity_level = 3
    providers = _providers(onnxruntime.get_available_providers(), device)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers), failures
    except failures as error:
        raise WeightsError(
            f"{path} is damaged or nothing that onnxruntime can run ({_line(error)}): {_REMEDY}"
        ) from error


def _providers(available: Iterable[str], device: str) -> list[str | tuple[str, dict[str, int]]]:
    """Choose the execution providers, best first; their names begin with those of torch's devices."""
    wanted, on_cpu = torch.device(device), "CPUExecutionProvider"
    if wanted.type == "cpu":
        return [on_cpu]
    fitting = [name for name in available if name.lower().startswith(wanted.type)]
    if not fitting:
        log.warning("this onnxruntime has no provider for %s: it computes on the CPU", device)
    return [*((name, {"device_id": wanted.index or 0}) for name in fitting), on_cpu]


def _naming(inputs: list[str], outputs: list[str], path: Path) -> _Naming:
    """The kind of file that has these names. Raises WeightsError for none."""
    for naming in _NAMINGS:
        depth = next(name for name, field in naming.fields.items() if field == "depth")
        if inputs == [naming.images] and depth in outputs and set(outputs) <= set(naming.fields):
            return naming
    raise WeightsError(
        f"{path} is no Metric3D network that is known here (inputs {', '.join(inputs)}; outputs "
        f"{', '.join(outputs)}): {_REMEDY}"
    )


def _missing(doing: str, path: Path, error: ImportError) -> MissingDependencyError:
    return MissingDependencyError(
        f"{doing} {path} needs another package ({_line(error)}): pip install 'metric-slam[onnx]'"
    )


def _line(error: Exception) -> str:
    """The first line of its message, not too long."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:160]
