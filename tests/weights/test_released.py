"""The registry of released weights: what is found, what is whole, and downloads from a server of our own."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from metric_slam.errors import WeightsError
from metric_slam.weights import released as weights
from metric_slam.weights.released import RELEASED, ReleasedWeights, download, find, released, verify, weights_folder

CONTENT = bytes(range(251)) * 9000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT, or a mistake by the name of the path."""

    def do_GET(self) -> None:
        asked = self.path.strip("/")
        if asked == "absent":
            self.send_error(404)
            return
        body = {"other": CONTENT[:-1] + b"!", "page": b"<html>too many downloads</html>"}.get(asked, CONTENT)
        self.send_response(200)
        if asked != "short":  # a server that says nothing of the length and stops early
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:1000] if asked in ("truncated", "short") else body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty weights folder, and a working directory without weights."""
    monkeypatch.setenv("METRIC_SLAM_WEIGHTS", str(tmp_path / "kept"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "kept"


@pytest.fixture
def entry(server: str) -> Callable[..., ReleasedWeights]:
    """``entry("good", "absent", ...)``: weights with these mirrors."""

    def make(*mirrors: str, **changes: object) -> ReleasedWeights:
        urls = tuple(m if "://" in m else f"{server}/{m}" for m in mirrors)
        made = ReleasedWeights("toy", "toy.pth", SHA256, len(CONTENT), urls, "CC0", "https://example.org/toy", None)
        return replace(made, **changes)

    return make


# where


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("METRIC_SLAM_WEIGHTS", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert weights_folder() == tmp_path / ".cache" / "metric_slam" / "weights"
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert weights_folder() == Path("/elsewhere/metric_slam/weights")
    monkeypatch.setenv("METRIC_SLAM_WEIGHTS", "~/w")
    assert weights_folder() == tmp_path / "w"


def test_find_looks_into_the_folder_then_beside_then_takes_paths(folder: Path) -> None:
    assert find("droid") is None and find("no/such/file.pth") is None
    beside = Path("weights/droid.pth")
    beside.parent.mkdir()
    beside.touch()
    assert find("droid") == beside
    folder.mkdir()
    (folder / "droid.pth").touch()
    assert find("droid") == folder / "droid.pth"
    assert find(beside) == beside and find(str(beside)) == beside
    assert find(folder) is None, "a folder is no file"


def test_registry_entries_are_complete() -> None:
    assert len({e.name for e in RELEASED}) == len({e.file_name for e in RELEASED}) == len(RELEASED)
    for e in RELEASED:
        assert 8 <= len(e.sha256) <= 64 and set(e.sha256) <= set("0123456789abcdef")
        assert all(url.startswith("https://") for url in (*e.urls, e.page)) and e.urls
        assert released(e.name) is e and released(e.file_name) is e
    droid = released("droid")
    assert droid.size_bytes == 16_061_701 and droid.used_by == "--correspondence droid"
    with pytest.raises(WeightsError, match="choose from droid, metric3d-convnext-tiny"):
        released("driod")


# whole?


def test_verify_compares_size_and_hash(tmp_path: Path, entry: Callable[..., ReleasedWeights]) -> None:
    path, toy = tmp_path / "toy.pth", entry("good")
    assert verify(path, toy).status == "missing"
    path.write_bytes(CONTENT)
    assert verify(path, toy) == weights.Verification("verified", "sha256 agrees")
    assert verify(path, replace(toy, sha256=SHA256[:8], size_bytes=None)).reason == "the first 8 digits of sha256 agree"
    path.write_bytes(CONTENT[:-1])
    assert verify(path, toy).reason == f"{len(CONTENT) - 1:,} bytes instead of {len(CONTENT):,}"
    path.write_bytes(CONTENT[:-1] + b"!")
    for known in (64, 8):
        result = verify(path, replace(toy, sha256=SHA256[:known]))
        assert result.status == "wrong" and f"instead of {SHA256[:known]}" in result.reason


# downloads


def left_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []


def test_a_good_download_arrives_whole_with_progress(folder: Path, entry: Callable[..., ReleasedWeights]) -> None:
    seen: list[tuple[int, int]] = []
    path = download(entry("good"), progress=lambda done, total: seen.append((done, total)))
    assert path == folder / "toy.pth" and path.read_bytes() == CONTENT
    assert left_in(folder) == ["toy.pth"]
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and len(seen) > 2
    assert [done for done, _ in seen[:-1]] == sorted(done for done, _ in seen[:-1])


def test_what_is_there_and_whole_is_not_fetched_again(folder: Path, entry: Callable[..., ReleasedWeights]) -> None:
    folder.mkdir()
    (folder / "toy.pth").write_bytes(CONTENT)
    assert download(entry("absent")) == folder / "toy.pth"
    (folder / "toy.pth").write_bytes(b"damaged")
    assert download(entry("good")).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("mirror", "reason"),
    [
        ("absent", "HTTP 404"),
        ("truncated", "Error"),
        ("short", "1,000 bytes instead of"),
        ("other", f"instead of {SHA256}"),
        ("page", "31 bytes instead of"),
        ("http://127.0.0.1:9/toy.pth", "no connection"),
    ],
)
def test_a_failed_download_leaves_nothing_and_says_what_to_do(
    folder: Path, entry: Callable[..., ReleasedWeights], mirror: str, reason: str
) -> None:
    folder.mkdir()
    (folder / "toy.pth").write_bytes(b"an older file")
    with pytest.raises(WeightsError) as caught:
        download(entry(mirror))
    text = str(caught.value)
    assert reason in text and "\n" not in text
    assert f"get it by hand from https://example.org/toy and put it at {folder / 'toy.pth'}" in text
    assert left_in(folder) == ["toy.pth"] and (folder / "toy.pth").read_bytes() == b"an older file"


def test_mirrors_are_tried_in_order(folder: Path, entry: Callable[..., ReleasedWeights]) -> None:
    path = download(entry("http://127.0.0.1:9/toy.pth", "absent", "other", "good", "page"))
    assert path.read_bytes() == CONTENT
    path.unlink()
    with pytest.raises(WeightsError, match=r"127\.0\.0\.1: HTTP 404; 127\.0\.0\.1: .* bytes instead"):
        download(entry("absent", "page"))


def test_another_folder_and_one_that_cannot_be_written(tmp_path: Path, entry: Callable[..., ReleasedWeights]) -> None:
    assert download(entry("good"), tmp_path / "a" / "b") == tmp_path / "a" / "b" / "toy.pth"
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match="cannot be written .* set METRIC_SLAM_WEIGHTS"):
        download(entry("good"), tmp_path / "file")


def test_an_interrupted_download_leaves_nothing(folder: Path, entry: Callable[..., ReleasedWeights]) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(entry("good"), progress=stop)
    assert left_in(folder) == []
