"""Registry of the released weights of other projects: list, locate, download and verify files.

Nothing is downloaded unless the user asks for it (``metric-slam weights download``), and a run without these networks
needs none of it. Sizes and SHA-256 are those of the Git LFS pointers of the publications: of ``droid.pth`` in the
repository JERRYZFC/DROID-SLAM-Metric3D, of the Metric3D files in huggingface.co/JUGGHM/Metric3D. HI-SLAM2 and
DROID-Splat contain ``droid.pth`` as one and the same Git blob.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from metric_slam.errors import MissingDependencyError, WeightsError

# nothing but the standard library above: the doctor imports this file while other packages may be broken

Progress = Callable[[int, int], None]
"""Called with the bytes received and the bytes expected, 0 where the server does not send the size."""

TIMEOUT_S = 30.0
"""Longest wait for a response of a server, seconds."""

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class ReleasedWeights:
    """One published file."""

    name: str
    """Name on the command line."""

    file_name: str

    sha256: str
    """Lower-case hexadecimal; fewer than 64 digits are a prefix."""

    size_bytes: int | None
    """Size of the file; None: not published."""

    urls: tuple[str, ...]
    """Direct links to the bytes, tried in this order."""

    licence: str

    page: str
    """Web page of the file, for a manual download."""

    used_by: str | None
    """Option that uses it; None: unused in this version."""


@dataclass(frozen=True)
class Verification:
    """Result of the verification of a file."""

    status: Literal["verified", "wrong", "missing"]

    reason: str


def _metric3d(name: str, file_name: str, sha256: str, size_bytes: int) -> ReleasedWeights:
    return ReleasedWeights(
        name=name,
        file_name=file_name,
        sha256=sha256,
        size_bytes=size_bytes,
        urls=(f"https://huggingface.co/JUGGHM/Metric3D/resolve/main/{file_name}",),
        licence="BSD-2-Clause (code; weights: not stated)",
        page="https://huggingface.co/JUGGHM/Metric3D/tree/main",
        used_by="--prior metric3d",
    )


RELEASED: tuple[ReleasedWeights, ...] = (
    ReleasedWeights(
        name="droid",
        file_name="droid.pth",
        sha256="46476ef64cde45a97504910d6f3de2eef7b398ec1c6e4e668815c29076024526",
        size_bytes=16_061_701,
        urls=(
            # the authors' own copy; confirm=t asks for the bytes instead of the page about unscanned files
            "https://drive.usercontent.google.com/download?id=1PpqVt1H4maBa_GbPJp4NwxRsd9jk-elh&export=download&confirm=t",
            "https://raw.githubusercontent.com/Willyzw/HI-SLAM2/main/pretrained_models/droid.pth",
            "https://raw.githubusercontent.com/ChenHoy/DROID-Splat/main/pretrained/droid.pth",
            "https://media.githubusercontent.com/media/JERRYZFC/DROID-SLAM-Metric3D/main/droid.pth",
        ),
        licence="BSD-3-Clause",
        page="https://drive.google.com/file/d/1PpqVt1H4maBa_GbPJp4NwxRsd9jk-elh/view",
        used_by="--correspondence droid",
    ),
    _metric3d(
        "metric3d-convnext-tiny",
        "convtiny_hourglass_v1.pth",
        "bc41f5f919bb0388bbc88fe1d9e60b49b826c620b4acc1b6c10f473f6d4741a5",
        123_851_407,
    ),
    _metric3d(
        "metric3d-convnext-large",
        "convlarge_hourglass_0.3_150_step750k_v1.1.pth",
        "0eaaa2501557ac627ada0070e257c6bc74e3e60b45477b29c2efceb70440cfe8",
        813_150_733,
    ),
    _metric3d(
        "metric3d-vit-small",
        "metric_depth_vit_small_800k.pth",
        "b34b2a2be9148054991cef7e417930e1320602ba7bc503b0ee4e7888543728f6",
        150_120_967,
    ),
    _metric3d(
        "metric3d-vit-large",
        "metric_depth_vit_large_800k.pth",
        "15328ffc42b528b95f188687418f6f03b3f123eb34ccdbd686c112abbea6d972",
        1_647_972_663,
    ),
    _metric3d(
        "metric3d-vit-giant2",
        "metric_depth_vit_giant2_800k.pth",
        "22d64c4dec098fa56eb17b6f22b1fb7d16b4742c66a9c8ee73e7dae61c0d2a1b",
        5_510_989_187,
    ),
)
"""All weights in the registry."""


def released(name: str) -> ReleasedWeights:
    """Return the entry called ``name``, or with that file name. Raises WeightsError for an unknown one."""
    for entry in RELEASED:
        if name in (entry.name, entry.file_name):
            return entry
    raise WeightsError(f"no weights are called '{name}': choose from {', '.join(e.name for e in RELEASED)}")


def weights_folder() -> Path:
    """Return the folder of downloads: $METRIC_SLAM_WEIGHTS, else metric_slam/weights in $XDG_CACHE_HOME or ~/.cache."""
    own = os.environ.get("METRIC_SLAM_WEIGHTS")
    if own:
        return Path(own).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "metric_slam" / "weights"


def find(name: str | Path) -> Path | None:
    """Locate a file by its name in the registry, or by its path; None where there is none.

    A name of the registry is searched in :func:`weights_folder`, then in ./weights.
    """
    for entry in RELEASED:
        if name == entry.name:
            places = [folder / entry.file_name for folder in (weights_folder(), Path("weights"))]
            return next((place for place in places if place.is_file()), None)
    path = Path(name).expanduser()
    return path if path.is_file() else None


def verify(path: Path, entry: ReleasedWeights) -> Verification:
    """Compare size and SHA-256 of a file with those published, which takes about a second per gigabyte."""
    try:
        size = path.stat().st_size
        if entry.size_bytes is not None and size != entry.size_bytes:
            return Verification("wrong", f"{size:,} bytes instead of {entry.size_bytes:,}")
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(_CHUNK_BYTES):
                digest.update(piece)
    except OSError as error:
        return Verification("missing", error.strerror or type(error).__name__)
    found, known = digest.hexdigest(), len(entry.sha256)
    if found[:known] != entry.sha256:
        return Verification("wrong", f"sha256 {found[: max(known, 8)]} instead of {entry.sha256}")
    return Verification("verified", "sha256 agrees" if known == 64 else f"the first {known} digits of sha256 agree")


def download(entry: ReleasedWeights, folder: Path | None = None, progress: Progress | None = None) -> Path:
    """Download a file into ``folder`` (default: :func:`weights_folder`) and return its path.

    A file that exists and passes verification is kept. A download has another name until size and SHA-256 agree, so
    that an incomplete one is never taken for weights. Mirrors are tried in order.

    Raises:
        WeightsError: no mirror delivered the file, or the folder cannot be written.
        MissingDependencyError: the package pooch is absent.
    """
    folder = weights_folder() if folder is None else folder
    place = folder / entry.file_name
    if place.is_file() and verify(place, entry).status == "verified":
        return place
    partial = folder / f".{entry.file_name}.{os.getpid()}.part"
    failures = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial.touch()
        for url in entry.urls:
            failure = _fetch(url, partial, entry, progress)
            if failure is None:
                partial.replace(place)
                return place
            failures.append(f"{urlsplit(url).hostname}: {failure}")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise WeightsError(f"{place} cannot be written ({reason}): set METRIC_SLAM_WEIGHTS to a folder") from error
    finally:
        if partial.is_file():
            partial.unlink()
    raise WeightsError(
        f"{entry.file_name} could not be downloaded ({'; '.join(failures)}): "
        f"get it by hand from {entry.page} and put it at {place}"
    )


def _fetch(url: str, partial: Path, entry: ReleasedWeights, progress: Progress | None) -> str | None:
    """Download ``url`` to ``partial``; None if it passes verification, else the reason."""
    try:
        import pooch
        import requests
    except ImportError as error:
        raise MissingDependencyError("downloading weights needs the package pooch: pip install pooch") from error
    downloader = pooch.HTTPDownloader(
        progressbar=_Bar(progress) if progress is not None else False, chunk_size=_CHUNK_BYTES, timeout=TIMEOUT_S
    )
    try:
        downloader(url, str(partial), None)
    except requests.HTTPError as error:
        return "HTTP error" if error.response is None else f"HTTP {error.response.status_code}"
    except requests.ConnectionError:
        return "no connection"
    except requests.RequestException as error:  # among them timeouts and broken connections
        return type(error).__name__
    checked = verify(partial, entry)
    return None if checked.status == "verified" else checked.reason


class _Bar:
    """Progress bar in the interface of pooch, for a plain function."""

    def __init__(self, report: Progress) -> None:
        self._report = report
        self._done = 0
        self.total = 0

    def update(self, count: int) -> None:
        self._done += count
        self._report(min(self._done, self.total) if self.total else self._done, self.total)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        pass
