"""Places that look alike are found, whatever the light."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from metric_slam.errors import InputError
from metric_slam.loops.place_recognition import PlaceIndex


def view(seed: int, shift_px: int = 0, gain: float = 1.0) -> np.ndarray:
    """A picture of blurred noise, moved sideways and lit differently."""
    grey = np.random.default_rng(seed).normal(size=(96, 400)).astype(np.float32)
    grey = cv2.GaussianBlur(grey, (0, 0), 5)
    grey = 120 + 60 * grey / grey.std()
    part = grey[:, 40 + shift_px : 360 + shift_px] * gain
    return np.repeat(np.clip(part, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


@pytest.fixture(scope="module")
def index() -> PlaceIndex:
    filled = PlaceIndex()
    for position in range(60):
        filled.add(position, view(position))
    return filled


@pytest.mark.parametrize("gain", [0.6, 1.0, 1.5])
def test_the_same_place_is_found_from_a_little_aside_in_another_light(gain: float) -> None:
    index = PlaceIndex()
    for position in range(60):
        index.add(position, view(position))
    index.add(60, view(23, shift_px=4, gain=gain))
    best = index.query(60, exclude_after=50, count=3)[0]
    assert best.position == 23 and best.similarity > 0.5


def test_what_is_excluded_is_not_found(index: PlaceIndex) -> None:
    assert all(place.position <= 30 for place in index.query(59, exclude_after=30, count=5))
    assert index.query(59, exclude_after=-1, count=5) == []


def test_places_are_distinct_and_ranked(index: PlaceIndex) -> None:
    places = index.query(40, exclude_after=59, count=4)
    assert places[0].position == 40 and places[0].similarity == pytest.approx(1.0, abs=1e-5)
    positions = [place.position for place in places]
    assert all(abs(a - b) >= 10 for n, a in enumerate(positions) for b in positions[:n])
    similarities = [place.similarity for place in places]
    assert similarities == sorted(similarities, reverse=True)


def test_the_most_alike_of_some_are_chosen() -> None:
    index = PlaceIndex()
    for position in range(30):
        index.add(position, view(position))
    for position, shift_px in ((30, 3), (31, 6), (35, 12)):
        index.add(position, view(7, shift_px))
    among = np.array([3, 4, 5, 30, 31, 35])
    assert index.most_alike(7, among, count=2, apart=4) == [30, 35], "31 is next to 30"
    assert index.most_alike(7, among, count=2, apart=1) == [30, 31]
    assert index.most_alike(7, among[:0], count=2, apart=4) == []


def test_a_query_equals_a_loop_over_all_descriptors() -> None:
    """Also beyond the rows that the matrix begins with, and where many keyframes show nearly the same."""
    index = PlaceIndex()
    for position in range(150):
        index.add(3 * position, view(position // 5, shift_px=2 * (position % 5)))
    state = index.state()
    descriptors = dict(zip(state["positions"].tolist(), state["descriptors"], strict=True))
    assert len(index) == 150 and all(abs(np.linalg.norm(d) - 1.0) < 1e-5 for d in descriptors.values())
    for query, last in ((447, 440), (300, 149), (6, 3)):
        similarity = {p: float(np.dot(d, descriptors[query])) for p, d in descriptors.items() if p <= last}
        expected: list[int] = []
        for position in sorted(similarity, key=lambda p: -similarity[p]):
            if len(expected) < 5 and all(abs(position - other) >= 10 for other in expected):
                expected.append(position)
        found = index.query(query, exclude_after=last, count=5)
        assert [place.position for place in found] == expected
        np.testing.assert_allclose([p.similarity for p in found], [similarity[p] for p in expected], atol=1e-5)


def test_keyframes_that_were_never_added_are_not_compared() -> None:
    index = PlaceIndex()
    for position in (1, 2, 8):
        index.add(position, view(position))
    assert index.most_alike(8, np.array([0, 1, 2, 5]), count=4, apart=1) in ([1, 2], [2, 1])
    with pytest.raises(InputError, match="position 0 was never added"):
        index.query(0, exclude_after=8, count=1)


def test_wrong_arguments_are_refused() -> None:
    index = PlaceIndex()
    index.add(4, view(0))
    with pytest.raises(InputError, match="position 4 must be greater than 4"):
        index.add(4, view(1))
    with pytest.raises(InputError, match=r"image must be uint8 \[H, W, 3\]"):
        index.add(5, np.zeros((96, 320), np.uint8))
    with pytest.raises(InputError, match="size of the images added before"):
        index.add(5, np.zeros((96, 96, 3), np.uint8))


def test_a_checkpoint_gives_the_same_answers(index: PlaceIndex) -> None:
    other = PlaceIndex()
    other.restore(index.state())
    assert other.query(12, exclude_after=59, count=4) == index.query(12, exclude_after=59, count=4)
    other.add(60, view(5))
    assert other.query(60, exclude_after=40, count=1)[0].position == 5


def test_an_empty_image_is_no_special_case() -> None:
    index = PlaceIndex()
    index.add(0, np.zeros((96, 320, 3), np.uint8))
    index.add(1, view(1))
    assert len(index.query(1, exclude_after=0, count=2)) == 1
    empty = PlaceIndex()
    empty.restore(PlaceIndex().state())
    empty.add(0, view(0))
