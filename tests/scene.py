"""A small world whose images, depths and poses are exact: a textured road between two textured walls.

Every pixel's ray is intersected with the planes, and brightness is a sum of sinusoids of the surface's own coordinates,
each damped as a Gaussian of 0.6 pixels would damp it. So images hold no resampling and no aliasing, and the only
error of a test is that of the code under test. World axes are OpenCV's: x right, y down, z along the street; the camera
starts at the origin and the road lies ``height_m`` below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from metric_slam.choices import InputFacts
from metric_slam.config.schema import BundleAdjustmentConfig, Config, GlobalBaConfig, SlidingWindowConfig
from metric_slam.correspondence.base import Correspondence, CorrespondenceModel, EdgeQuery
from metric_slam.depth.base import DepthPrior
from metric_slam.disk_store import DiskStore
from metric_slam.factory import build_parts
from metric_slam.frame import CameraMount, Frame
from metric_slam.geometry import lie
from metric_slam.geometry.camera import PinholeCamera
from metric_slam.graph.global_ba import GlobalBundleAdjustment
from metric_slam.graph.keyframes import Keyframe
from metric_slam.graph.slam_map import SlamMap
from metric_slam.odometry.base import EncodedFrame
from metric_slam.odometry.keyframe_prior import KeyframePrior
from metric_slam.odometry.metric_scale import MetricScale
from metric_slam.odometry.moving_cells import MovingCellDetector
from metric_slam.odometry.prior_noise import PriorNoise
from metric_slam.odometry.scale_startup import ScaleStartup
from metric_slam.odometry.sliding_window import ScaleParts, SlidingWindow
from metric_slam.odometry.tracking import TrackedFrame
from metric_slam.optimization.solver import CpuSolver, Solver
from metric_slam.result import SlamResult
from metric_slam.slam import Slam

CAMERA = PinholeCamera(fx=185.0, fy=185.0, cx=159.5, cy=42.0, width=320, height=96)
"""The proportions of KITTI's colour camera."""

HEIGHT_M = 1.65
_PREFILTER_PX = 0.6


@dataclass(frozen=True)
class Plane:
    """Points X with normal . X = distance_m; ``axes`` span it and carry its texture."""

    normal: np.ndarray
    distance_m: float
    axes: np.ndarray
    """float64 [2, 3]."""

    seed: int


@dataclass(frozen=True)
class Street:
    """The world. Planes that are left out leave sky."""

    height_m: float = HEIGHT_M
    half_width_m: float = 6.0
    end_m: float | None = None
    """A wall across the street so far ahead of the origin; None: open."""

    road: bool = True
    walls: bool = True
    seed: int = 0
    waves: int = 20

    def planes(self) -> list[Plane]:
        """All surfaces."""
        x, y, z = np.eye(3)
        found = []
        if self.road:
            found.append(Plane(y, self.height_m, np.array([x, z]), self.seed))
        if self.walls:
            found.append(Plane(x, self.half_width_m, np.array([y, z]), self.seed + 1))
            found.append(Plane(-x, self.half_width_m, np.array([y, z]), self.seed + 2))
        if self.end_m is not None:
            found.append(Plane(z, self.end_m, np.array([x, y]), self.seed + 3))
        return found

    def render(self, T_world_cam: np.ndarray, camera: PinholeCamera = CAMERA) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 [H, W, 3] and depth along z in metres, float32 [H, W], 0 in the sky; both read-only."""
        return _rendered(self, np.asarray(T_world_cam, np.float64).tobytes(), camera)

    def _render(self, T_world_cam: np.ndarray, camera: PinholeCamera) -> tuple[np.ndarray, np.ndarray]:
        rays = camera.rays() @ T_world_cam[:3, :3].T
        origin = T_world_cam[:3, 3]
        nearest = np.full(rays.shape[:2], np.inf)
        grey = np.full(rays.shape[:2], 190.0)
        for plane in self.planes():
            slope = rays @ plane.normal
            depth = (plane.distance_m - plane.normal @ origin) / np.where(slope > 1e-4, slope, np.nan)
            depth = np.where(depth > 0.05, depth, np.nan)
            where_m = plane.axes @ origin + depth[..., None] * (rays @ plane.axes.T)
            in_front = depth < nearest
            grey[in_front] = _brightness(where_m, in_front, plane.seed, self.waves)
            nearest = np.where(in_front, depth, nearest)
        image = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
        return np.repeat(image[..., None], 3, axis=-1), np.where(np.isfinite(nearest), nearest, 0.0).astype(np.float32)


@lru_cache(maxsize=400)
def _rendered(street: Street, pose_bytes: bytes, camera: PinholeCamera) -> tuple[np.ndarray, np.ndarray]:
    """Many tests look at the same world from the same places."""
    image, depth_m = street._render(np.frombuffer(pose_bytes).reshape(4, 4), camera)
    image.flags.writeable = depth_m.flags.writeable = False
    return image, depth_m


def _brightness(where_m: np.ndarray, chosen: np.ndarray, seed: int, waves: int) -> np.ndarray:
    """Grey levels [P] of the P chosen pixels; surface coordinates [H, W, 2]."""
    random = np.random.default_rng(seed)
    length_m = np.geomspace(0.08, 4.0, waves)
    angle = random.uniform(0, np.pi, waves)
    phase = random.uniform(0, 2 * np.pi, waves)
    where, per_row, per_column = (a[chosen] for a in (where_m, *np.gradient(where_m, axis=(0, 1))))
    total = np.zeros(len(where))
    for k in range(waves):
        wave = 2 * np.pi / length_m[k] * np.array([np.cos(angle[k]), np.sin(angle[k])])
        per_px = (per_row @ wave) ** 2 + (per_column @ wave) ** 2  # squared phase per pixel
        damping = np.nan_to_num(np.exp(-0.5 * _PREFILTER_PX**2 * per_px))
        total += np.sqrt(length_m[k]) * damping * np.cos(where @ wave + phase[k])
    return 120.0 + 95.0 * np.tanh(total / np.sqrt(length_m.sum() / 2) / 1.2)


def rotation(pitch_rad: float = 0.0, roll_rad: float = 0.0, yaw_rad: float = 0.0) -> np.ndarray:
    """R_world_cam of a camera that looks up by pitch, has the road's normal at roll, and is turned right by yaw."""
    cp, sp, cr, sr, cy, sy = (f(a) for a in (pitch_rad, roll_rad, yaw_rad) for f in (np.cos, np.sin))
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1.0]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return about_y @ about_z @ about_x


def pose(x_m: float = 0.0, z_m: float = 0.0, *, y_m: float = 0.0, R: np.ndarray | None = None) -> np.ndarray:
    """T_world_cam, float64 [4, 4]."""
    T = np.eye(4)
    T[:3, 3] = x_m, y_m, z_m
    if R is not None:
        T[:3, :3] = R
    return T


def relative(T_world_first: np.ndarray, T_world_second: np.ndarray) -> np.ndarray:
    """T_second_first [4, 4]."""
    return np.linalg.inv(T_world_second) @ T_world_first


@dataclass
class Drive:
    """Frames along a path through one or more streets; follows :class:`metric_slam.datasets.base.Dataset`."""

    street: Street
    path: Sequence[np.ndarray]
    """T_world_cam [4, 4] of every frame."""

    with_depth: bool = False
    images: dict[int, np.ndarray] = field(default_factory=dict)
    """Images that replace rendered ones."""

    streets: dict[int, Street] = field(default_factory=dict)
    """From which frame on another world is seen."""

    name: str = "scene"
    camera: PinholeCamera = CAMERA
    mount: CameraMount | None = CameraMount(HEIGHT_M)

    @property
    def times_s(self) -> np.ndarray:
        """Ten frames a second."""
        return 0.1 * np.arange(len(self.path))

    @property
    def T_cam_ref(self) -> np.ndarray:
        """Identity."""
        return np.eye(4)

    @property
    def T_world_cam_true(self) -> np.ndarray:
        """Poses relative to the first, float64 [N, 4, 4]."""
        return np.linalg.inv(self.path[0]) @ np.stack(self.path)

    def __len__(self) -> int:
        return len(self.path)

    def __getitem__(self, index: int) -> Frame:
        street = self.street
        for first, other in sorted(self.streets.items()):
            street = other if index >= first else street
        image, depth_m = street.render(self.path[index], self.camera)
        return Frame(
            index=index,
            time_s=float(self.times_s[index]),
            image=self.images.get(index, image),
            camera=self.camera,
            depth_m=depth_m if self.with_depth else None,
        )


def straight(frames: int, step_m: float, *, R: np.ndarray | None = None, start_m: float = 0.0) -> list[np.ndarray]:
    """Straight ahead along the street."""
    return [pose(z_m=start_m + step_m * i, R=R) for i in range(frames)]


def grid_depth_m(street: Street, T_world_cam: np.ndarray, camera: PinholeCamera = CAMERA) -> np.ndarray:
    """Depth at the centres of the grid cells, float64 [h, w]; 0 in the sky."""
    return street.render(T_world_cam, camera.grid())[1].astype(np.float64)


def exact_matches(
    street: Street, T_world_a: np.ndarray, T_world_b: np.ndarray, camera: PinholeCamera = CAMERA
) -> tuple[np.ndarray, np.ndarray]:
    """Where the cells of a lie in b, float64 [h, w, 2] in cells, and whether they are seen there, bool [h, w]."""
    grid = camera.grid()
    depth_a, depth_b = grid_depth_m(street, T_world_a, camera), grid_depth_m(street, T_world_b, camera)
    T = relative(T_world_a, T_world_b)
    X = (grid.rays() * depth_a[..., None]) @ T[:3, :3].T + T[:3, 3]
    front = (depth_a > 0) & (X[..., 2] > 0.2)
    target = np.where(front[..., None], grid.project(np.where(front[..., None], X, 1.0)), -1e3)
    u, v = np.rint(target[..., 0]).astype(int), np.rint(target[..., 1]).astype(int)
    inside = front & (u >= 0) & (v >= 0) & (u < grid.width) & (v < grid.height)
    seen_m = depth_b[np.where(inside, v, 0), np.where(inside, u, 0)]
    return target, inside & (np.abs(seen_m - X[..., 2]) < 0.15 * X[..., 2] + 0.5)


class ExactMatching:
    """A correspondence model that knows the world: its features are the true poses."""

    name = "exact"
    recurrent = False

    def __init__(self, street: Street) -> None:
        self._street = street

    def encode(self, image: np.ndarray, camera: PinholeCamera) -> np.ndarray:
        """Images tell nothing; tests hand poses in as features."""
        raise AssertionError("features are T_world_cam")

    def track(self, edges: list[EdgeQuery]) -> list[Correspondence]:
        """True matches, confidence 1 where the point is seen in the target."""
        found = [exact_matches(self._street, e.source, e.target) for e in edges]
        return [Correspondence(target, seen.astype(np.float64)) for target, seen in found]


def pose_vec(T_world_cam: np.ndarray) -> np.ndarray:
    """T_cam_world as (t, q_xyzw), float64 [7]."""
    return lie.matrix_to_pose_vec(np.linalg.inv(T_world_cam))


def keyframe_at(
    street: Street,
    T_world_cam: np.ndarray,
    *,
    features: object = None,
    depth_scale: float = 1.0,
    camera: PinholeCamera = CAMERA,
) -> Keyframe:
    """A keyframe with the true pose and the true depth times ``depth_scale``; sky is 500 m away."""
    depth_m = grid_depth_m(street, T_world_cam, camera)
    inv_depth = 1.0 / (np.where(depth_m > 0, np.minimum(depth_m, 500.0), 500.0) * depth_scale)
    image = street.render(T_world_cam, camera)[0]
    no_prior = (np.zeros_like(depth_m) for _ in range(4))
    return Keyframe(0, 0.0, image, features, None, pose_vec(T_world_cam), inv_depth, *no_prior)


def make_map(
    model: CorrespondenceModel,
    *,
    camera: PinholeCamera = CAMERA,
    solver: Solver | None = None,
    scale_sigma: float = 0.0,
    disk: DiskStore | None = None,
) -> SlamMap:
    """An empty map; solved on the CPU with default settings where no solver is given."""
    return SlamMap(camera, model, solver or CpuSolver(BundleAdjustmentConfig()), scale_sigma=scale_sigma, disk=disk)


def nowhere(index: int) -> tuple[object, object]:
    """Features and prior state of a frame that is restored, where nobody looks at them."""
    return None, None


class Start:
    """A sliding window that is fed frames at true poses, with exact matches."""

    def __init__(
        self, prior: DepthPrior, *, street: Street | None = None, with_depth: bool = False, **config: int
    ) -> None:
        self.street, self.prior, self.with_depth = street or Street(), prior, with_depth
        self.model = ExactMatching(self.street)
        settings = SlidingWindowConfig(**config)
        self.map = make_map(self.model, scale_sigma=prior.scale_sigma)
        self.depth = KeyframePrior(prior, CAMERA)
        self.scale = MetricScale(self.map, prior, self.depth)
        self.startup = ScaleStartup(self.map, prior, self.scale, settings.warm_up)
        self.moving = MovingCellDetector(self.map, prior, self.scale)
        noise = PriorNoise(self.map, self.depth.cell_sigma)
        parts = ScaleParts(self.depth, self.scale, self.startup, self.moving, noise)
        self.window = SlidingWindow(self.map, parts, settings)
        self.global_ba = GlobalBundleAdjustment(self.map, GlobalBaConfig())
        self.count = 0

    def frame(self, T_world_cam: np.ndarray) -> EncodedFrame:
        """What the window gets of a frame."""
        image, depth_m = self.street.render(T_world_cam)
        frame = Frame(self.count, 0.1 * self.count, image, CAMERA, depth_m=depth_m if self.with_depth else None)
        self.count += 1
        return EncodedFrame(frame, image, T_world_cam, None)

    def start(self, T_world_cam: np.ndarray, at: np.ndarray | None = None) -> None:
        """The first keyframe of a submap; the map puts it ``at`` T_cam_world [4, 4], None: at the origin."""
        frame = self.frame(T_world_cam)
        self.window.begin(frame, self.depth.prepare(frame.frame), np.eye(4) if at is None else at)

    def add(self, T_world_cam: np.ndarray, guess: np.ndarray | None = None) -> bool:
        """A further keyframe, tracked to be at ``guess`` T_cam_world [4, 4], None: at the origin."""
        last = self.map[-1].features
        forward, backward = self.model.track([EdgeQuery(last, T_world_cam), EdgeQuery(T_world_cam, last)])
        frame, guess = self.frame(T_world_cam), np.eye(4) if guess is None else guess
        tracked = TrackedFrame(forward, backward, guess, 9.0, 0.9, True)
        return self.window.add(frame, self.depth.prepare(frame.frame), tracked)

    def follow(self, path: Sequence[np.ndarray]) -> None:
        """Keyframes at all of a path, which goes on from the last one; each starts where the last one is."""
        for T_world_cam in path:
            assert self.add(T_world_cam, self.last_pose)

    @property
    def last_pose(self) -> np.ndarray:
        """T_cam_world [4, 4] of the last keyframe."""
        return self.map[-1].T_cam_world

    def finish(self) -> None:
        """The last optimisation of everything."""
        self.global_ba.finish(self.scale)

    def steps_m(self) -> np.ndarray:
        """Distances between neighbouring keyframes of the map."""
        return np.linalg.norm(np.diff(self.map.T_world_cam()[:, :3, 3], axis=0), axis=1)


def slam_of(
    config: Config,
    prior: DepthPrior,
    model: CorrespondenceModel,
    disk: DiskStore | None = None,
    *,
    camera: PinholeCamera = CAMERA,
    solver: Solver | None = None,
) -> Slam:
    """The whole system around a prior and a model that are given."""
    facts = InputFacts(None, lambda: False)
    return Slam.from_parts(
        camera, build_parts(config, camera, facts, prior=prior, model=model, solver=solver, disk=disk)
    )


def feed(slam: Slam, drive: Drive, frames: range | None = None) -> None:
    """Frames of a drive, all of them by default."""
    for index in range(len(drive)) if frames is None else frames:
        slam.process_frame(drive[index])


def run(drive: Drive, *, coarse: bool = False, **settings: object) -> SlamResult:
    """The whole system on a drive; ``settings`` are those of :class:`metric_slam.config.schema.Config`.

    ``coarse``: flow at half resolution, for a quarter of the time and two or three per cent of scale.
    """
    if coarse:
        settings = {"dis": {"finest_scale": 1}, **settings}
    slam = Slam.for_dataset(drive, Config.model_validate(settings))
    feed(slam, drive)
    return slam.finish()
