"""Every command in README.md exists and takes the options it is shown with; the cheap ones are run as they stand."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PROGRAMS = ("metric-slam", "python", "make")
CHEAP = (["metric-slam", "config"], ["metric-slam", "doctor"], ["metric-slam", "--version"])


def commands(text: str) -> list[list[str]]:
    """Command lines in the fenced and indented blocks of a Markdown text, comments and prompts taken off."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    blocks += re.findall(r"(?:^    .+\n)+", text, flags=re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        try:
            words = shlex.split(line.strip().removeprefix("$ "), comments=True)
        except ValueError:
            continue
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words.pop(0)
        if words and words[0] in PROGRAMS and words not in found:
            found.append(words)
    return found


COMMANDS = commands(README.read_text(encoding="utf-8")) if README.is_file() else []


def call(words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command in the checkout, with the programs of this Python."""
    program = {"python": [sys.executable], "metric-slam": [sys.executable, "-m", "metric_slam"]}
    command = [*program.get(words[0], [words[0]]), *words[1:]]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_commands_are_found_in_both_kinds_of_block() -> None:
    text = "x\n```bash\n$ make demo  # all\nKEY=1 python a.py --b \\\n  c\nls\n```\n\n"
    text += "    metric-slam run 'a b'\n\nmake test\n"
    assert commands(text) == [["make", "demo"], ["python", "a.py", "--b", "c"], ["metric-slam", "run", "a b"]]


def test_the_main_commands_are_there() -> None:
    assert README.is_file(), "README.md is missing"
    assert ["make", "demo"] in COMMANDS and ["make", "test"] in COMMANDS
    assert any(words[:2] == ["python", "scripts/run_kitti.py"] for words in COMMANDS)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_command(words: list[str]) -> None:
    if words[0] == "make":
        done = call(["make", "--dry-run", *words[1:]])
    elif any(words[: len(cheap)] == cheap for cheap in CHEAP):
        done = call(words)
    elif words[0] == "python" and not (len(words) > 1 and words[1].startswith("scripts/")):
        pytest.skip("neither a script of ours nor the command line")
    else:
        done = call([*words, "--help"])  # unknown options and commands are refused before the help is shown
    assert done.returncode == 0, done.stderr
