"""The report of a finished run made of formulas."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from metric_slam.errors import InputError, OutputError
from metric_slam.evaluation import evaluate
from metric_slam.evaluation.along_path import compare_paths, local_scale
from metric_slam.geometry.camera import PinholeCamera
from metric_slam.report.depth_panels import choose_keyframes, optimised_depth, plot_depth_panels
from metric_slam.report.lookup import branch, lookup, number, significant
from metric_slam.report.page import flatten, headline_cards, png_bytes, write_report
from metric_slam.result import KeyframeResult, ScaleObservation, SlamResult

CAMERA = PinholeCamera(fx=180.0, fy=180.0, cx=159.5, cy=47.5, width=320, height=96)


def curved_path(n_frames: int, step_m: float = 1.0, turn_rad: float = 0.006) -> np.ndarray:
    """``T_world_cam`` [N, 4, 4] of a drive along a circle with small bumps, first pose the identity."""
    heading = turn_rad * np.arange(n_frames)
    T = np.tile(np.eye(4), (n_frames, 1, 1))
    T[:, :3, :3] = Rotation.from_euler("y", heading[:, None]).as_matrix()
    forward = step_m * np.stack([np.sin(heading), 0.02 * np.sin(7 * heading), np.cos(heading)], axis=1)
    T[1:, :3, 3] = np.cumsum(forward[:-1], axis=0)
    return T


def _keyframe(index: int, T_world_cam: np.ndarray, with_prior: bool) -> KeyframeResult:
    grid = CAMERA.grid()
    rays = grid.rays()
    road_m = np.where(rays[..., 1] > 0.05, 1.65 / np.maximum(rays[..., 1], 0.05), 0.0)
    wall_m = 8.0 + 20.0 * np.abs(np.sin(rays[..., 0] + 0.02 * index))
    depth_m = np.where(road_m > 0, np.minimum(road_m, wall_m), wall_m)
    random = np.random.default_rng(index)
    confidence = np.clip(random.uniform(0.3, 1.0, depth_m.shape) - (rays[..., 1] < -0.2), 0.0, 1.0)
    v, u = np.mgrid[0 : CAMERA.height, 0 : CAMERA.width]
    image = np.stack([u * 255 / CAMERA.width, v * 255 / CAMERA.height, 128 + 100 * np.sin(u / 9.0)], axis=-1)
    return KeyframeResult(
        index=index,
        time_s=0.1 * index,
        T_world_cam=T_world_cam,
        camera=CAMERA,
        image=image.astype(np.uint8),
        inv_depth=(1.0 / depth_m).astype(np.float32),
        confidence=confidence.astype(np.float32),
        prior_depth_m=road_m.astype(np.float32) if with_prior else None,
        prior_confidence=(road_m > 0).astype(np.float32) if with_prior else None,
        prior_log_scale=0.02 if with_prior else 0.0,
    )


def fake_run(
    n_frames: int = 300, *, scale_source: str = "ground_plane", n_lost: int = 5
) -> tuple[SlamResult, np.ndarray]:
    """A drifting run and its truth [N, 4, 4], whose first ten rows are unknown (NaN)."""
    truth = curved_path(n_frames)
    estimate = curved_path(n_frames, step_m=0.98, turn_rad=0.0062)
    keyframe_rows = np.arange(0, n_frames, 10)
    random = np.random.default_rng(0)
    scale_known = scale_source != "unknown"
    observations = [
        ScaleObservation(int(row), float(random.normal(0.02, 0.015)), 0.02, used=bool(row % 70))
        for row in keyframe_rows
    ]
    result = SlamResult(
        frame_indices=np.arange(n_frames),
        times_s=0.1 * np.arange(n_frames),
        T_world_cam=estimate,
        is_keyframe=np.isin(np.arange(n_frames), keyframe_rows),
        tracked=np.arange(n_frames) < n_frames - n_lost,
        keyframes=[_keyframe(int(row), estimate[row], scale_known) for row in keyframe_rows],
        scale_source=scale_source,
        scale_observations=observations if scale_known else [],
        solver_status_counts={"converged": 55, "max_iterations": 5},
        timings_s={"correspondence": 21.3, "bundle_adjustment": 9.1, "prior": 4.0, "loop_closure": 0.4},
    )
    truth[:10] = np.nan
    return result, truth


RUN_INFO = {
    "sequence": "kitti/<04>",
    "command": "metric-slam run",
    "warnings": ["No weights: dis correspondence."],
    "config": {"preset": "accurate", "fusion": {"voxel_m": 0.1}},
    "versions": {"numpy": "2"},
    "device": "cpu",
}


def _metrics(result: SlamResult, truth: np.ndarray) -> dict:
    return evaluate(result.T_world_cam, truth, times_s=result.times_s, scale_known=result.scale_source != "unknown")


@pytest.fixture(scope="module")
def full_page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder and page of a run with everything."""
    result, truth = fake_run(150)
    folder = tmp_path_factory.mktemp("results") / "kitti" / "04"
    path = write_report(folder, result, truth, _metrics(result, truth), RUN_INFO)
    return folder, path.read_text(encoding="utf-8")


def test_all_plots_are_on_disk_and_embedded(full_page: tuple[Path, str]) -> None:
    folder, page = full_page
    plots = sorted((folder / "plots").glob("*.png"))
    assert [plot.stem for plot in plots] == ["depth", "drift", "position", "scale", "timings", "trajectory"]
    assert all(plot.read_bytes().startswith(b"\x89PNG") for plot in plots)
    assert page.count("data:image/png;base64,") == len(plots)


def test_the_picture_of_the_map_comes_first(tmp_path: Path) -> None:
    picture = tmp_path / "map.png"
    picture.write_bytes(b"\x89PNG a map")
    result = fake_run(60)[0]
    page = write_report(tmp_path, result, None, None, {}, picture).read_text(encoding="utf-8")
    figures = re.findall(r'<figure id="(\w+)">\s*<img[^>]*base64,([^"]*)"', page)
    assert figures[0] == ("map", base64.b64encode(picture.read_bytes()).decode())
    assert not (tmp_path / "plots" / "map.png").exists()


def test_values_are_written_as_in_a_configuration_file() -> None:
    tree = {"a": None, "b": {"c": True, "d": [0.10000000000000001, 2]}, "e": 1, "f": "x"}
    assert flatten(tree) == [("a", "none"), ("b.c", "true"), ("b.d", "[0.1, 2]"), ("e", "1"), ("f", "x")]


def test_the_page_needs_nothing_else(full_page: tuple[Path, str]) -> None:
    page = full_page[1]
    assert not re.search(r"(src|href)=\"(?!data:)", page) and "<script" not in page and "@import" not in page


def test_the_page_tells_numbers_with_protocol_configuration_and_warnings(full_page: tuple[Path, str]) -> None:
    result, truth = fake_run(150)
    metrics, page = _metrics(result, truth), full_page[1]
    assert f"{metrics['headline']['t_rel_percent']:.2f}<small> %" in page
    assert "KITTI segments 100–800 m, no alignment" in page
    assert "fusion.voxel_m" in page and "No weights: dis correspondence." in page
    assert "5 of 150 frames were not tracked" in page
    assert "kitti/&lt;04&gt;" in page, "names are escaped"


def test_every_accuracy_card_has_count_path_length_and_rotation() -> None:
    result, truth = fake_run(150)
    metrics = _metrics(result, truth)
    cards = {card.label: card for card in headline_cards(result, metrics)}
    segments = metrics["kitti"]["alignments"]["none"]["n_segments"]
    r_rel = f"{metrics['headline']['r_rel_deg_per_100m']:.3f}"
    assert segments > 0 and cards["r_rel"].value == r_rel
    covered = f"n = {segments} segments that cover {significant(metrics['kitti']['alignments']['none']['covered_m'])} m"
    assert covered in cards["t_rel"].note and f"n = {segments} segments" in cards["r_rel"].note
    for label in ("ATE", "fitted scale"):
        assert "n = 140 poses" in cards[label].note
    for label in ("t_rel", "ATE", "fitted scale"):
        assert "path 139 m" in cards[label].note and f"r_rel {r_rel} °/100 m" in cards[label].note


def test_cards_of_a_short_path_have_them_too() -> None:
    result, truth = fake_run(60)
    metrics = _metrics(result, truth)
    cards = {card.label: card for card in headline_cards(result, metrics)}
    short = metrics["short_segments"]["alignments"]["none"]["per_length_m"]["25"]
    r_rel = f"r_rel {short['r_rel_deg_per_100m']:.3f} °/100 m"
    assert f"n = {short['n_segments']} segments" in cards["drift over 25 m"].note
    assert "t_rel" not in cards and f"{r_rel} over 25 m" in cards["ATE"].note and r_rel in cards["drift over 25 m"].note
    assert "only segments of 25 m" in cards["drift over 25 m"].note and "path 49.0 m" in cards["ATE"].note


def test_a_path_on_a_desk_keeps_its_digits() -> None:
    result, truth = fake_run(60)
    T_world_cam, small = result.T_world_cam.copy(), truth.copy()
    T_world_cam[:, :3, 3] *= 0.002
    small[:, :3, 3] *= 0.002
    result = replace(result, T_world_cam=T_world_cam)
    cards = {card.label: card for card in headline_cards(result, _metrics(result, small))}
    assert 0 < float(cards["ATE"].value) < 0.01 and "path 0.0980 m, r_rel – °/100 m" in cards["ATE"].note
    assert cards["path"].value == "0.116"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0.00"), (0.00931, "0.00931"), (1.7, "1.70"), (292.6, "293"), (-12345.6, "-12346")],
)
def test_significant_digits(value: float | None, text: str) -> None:
    assert significant(value) == text


def test_missing_figures_are_none() -> None:
    tree = {"a": {"b": 2, "yes": True, "text": "x"}}
    assert number(tree, "a", "b") == 2.0 and lookup(tree, "a", "text") == "x" and branch(tree, "a") == tree["a"]
    for path in (("c",), ("a", "c"), ("a", "b", "c"), ("a", "text"), ("a", "yes"), ("a",)):
        assert number(tree, *path) is None
    assert branch(tree, "a", "b") == {} and lookup(None, "a") is None


def test_a_truth_of_another_shape_is_refused(tmp_path: Path) -> None:
    result, truth = fake_run(30)
    with pytest.raises(InputError, match=r"truth has shape \(29, 4, 4\)"):
        write_report(tmp_path, result, truth[1:], None, {})


def test_unknown_scale_is_said_and_no_unaligned_metre_is_shown(tmp_path: Path) -> None:
    result, truth = fake_run(150, scale_source="unknown", n_lost=0)
    page = write_report(tmp_path, result, truth, _metrics(result, truth), {}).read_text(encoding="utf-8")
    assert "The scale is unknown" in page and "scale unknown, so Sim(3)-aligned" in page
    assert "not tracked" not in page


def test_without_truth_there_is_no_accuracy(tmp_path: Path) -> None:
    result, _ = fake_run(30)
    page = write_report(tmp_path, result, None, None, {}).read_text(encoding="utf-8")
    assert "No ground truth" in page and "t_rel" not in page
    assert not (tmp_path / "plots" / "drift.png").exists()


def test_a_bare_result_still_gives_a_page(tmp_path: Path) -> None:
    result, _ = fake_run(3)
    bare = replace(result, keyframes=[], timings_s={}, scale_observations=[])
    write_report(tmp_path, bare, np.full((3, 4, 4), np.nan), None, {})
    assert sorted(plot.stem for plot in (tmp_path / "plots").iterdir()) == ["position", "trajectory"]


def test_a_path_of_unknown_scale_that_does_not_move(tmp_path: Path) -> None:
    result, truth = fake_run(30, scale_source="unknown")
    still = replace(result, T_world_cam=np.tile(np.eye(4), (30, 1, 1)))
    page = write_report(tmp_path, still, truth, _metrics(still, truth), {}).read_text(encoding="utf-8")
    assert "does not move" in page


def test_a_short_path_says_why_t_rel_is_missing(tmp_path: Path) -> None:
    result, truth = fake_run(60)
    page = write_report(tmp_path, result, truth, _metrics(result, truth), {}).read_text(encoding="utf-8")
    assert "t_rel and r_rel are undefined: the path is 49.0 m long" in page
    assert "drift over 25 m" in page and "KITTI segments 100–800 m, " not in page


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result, _ = fake_run(3)
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(tmp_path / "file", result, None, None, {})


def test_local_scale_finds_the_factor_and_keeps_quiet_where_truth_is_unknown() -> None:
    result, truth = fake_run(100)
    paths = compare_paths(result.T_world_cam, truth, scale_known=True)
    assert paths is not None
    scale = local_scale(paths.estimate, paths.truth)
    assert np.isnan(scale[:20]).all() and np.isnan(scale[91:]).all()
    np.testing.assert_allclose(scale[20:91], 1 / 0.98, rtol=1e-3)


def test_local_scale_says_nothing_while_standing() -> None:
    T = np.tile(np.eye(4), (40, 1, 1))
    assert np.isnan(local_scale(T, T)).all()


def test_paths_start_together_at_the_first_known_pose() -> None:
    result, truth = fake_run(60)
    paths = compare_paths(result.T_world_cam, truth, scale_known=True)
    assert paths is not None and not paths.fitted
    np.testing.assert_allclose(paths.estimate[10], np.eye(4), atol=1e-12)
    np.testing.assert_allclose(paths.truth[10], np.eye(4), atol=1e-12)


def test_keyframes_of_the_panels_are_spread() -> None:
    keyframes = fake_run(100)[0].keyframes
    assert [keyframe.index for keyframe in choose_keyframes(keyframes)] == [10, 30, 60, 80]
    assert len(choose_keyframes(keyframes[:2])) == 2 and choose_keyframes([]) == []


def test_a_keyframe_without_image_or_prior_has_its_panels() -> None:
    keyframes = fake_run(20)[0].keyframes
    bare = replace(keyframes[1], image=None, prior_depth_m=None, prior_confidence=None)
    figure = plot_depth_panels([keyframes[0], bare], scale_known=True)
    assert figure is not None and png_bytes(figure).startswith(b"\x89PNG")
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["none", "none"]


def test_a_guessed_depth_is_not_shown() -> None:
    keyframe = fake_run(20)[0].keyframes[0]
    depth = optimised_depth(keyframe)
    np.testing.assert_array_equal(np.isnan(depth), keyframe.confidence == 0)
    assert (keyframe.confidence == 0).any()


def test_flatten_keeps_order_and_depth() -> None:
    assert flatten({"b": {"x": 0.5}, "a": [1]}) == [("b.x", "0.5"), ("a", "[1]")]


def test_fake_metrics_are_json() -> None:
    result, truth = fake_run(60)
    json.dumps(_metrics(result, truth), allow_nan=False)
