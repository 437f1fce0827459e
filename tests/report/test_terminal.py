"""What others wrote is shown and never obeyed, whatever the terminal's encoding; JSON stays JSON."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from rich.console import Group
from rich.table import Table
from rich.text import Text
from support.command import ROOT, Run, assert_one_sentence

from lit_deploy.core.text import printable, shown_name
from lit_deploy.report import terminal
from lit_deploy.report.terminal import as_json, show, text

EVIL = "\x1b]0;owned\x07\x1b[2J\x7f\x9b31m‮[bold red]:bomb:\ud800é日"
SHOWN = "\\x1b]0;owned\\x07\\x1b[2J\\x7f\\x9b31m\\u202e[bold red]:bomb:\\ud800é日"


class Terminal(io.TextIOWrapper):
    """Standard output that is a terminal."""

    def isatty(self) -> bool:
        return True


def shown(what: object, monkeypatch: pytest.MonkeyPatch, encoding: str = "utf-8") -> str:
    """What ``show`` writes to a terminal, without the styles that are ours."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Terminal(raw, encoding=encoding, errors="backslashreplace"))
    monkeypatch.setenv("TERM", "dumb")  # no colours of ours
    monkeypatch.setenv("COLUMNS", "200")
    show(what)  # type: ignore[arg-type]
    sys.stdout.flush()
    return raw.getvalue().decode(encoding)


def test_what_is_printable() -> None:
    assert printable(EVIL) == SHOWN
    assert printable("a\tb\nc\r", lines=True) == "a\tb\nc\\r"
    assert printable("a\tb\nc\u2028") == "a\\tb\\nc\\u2028"
    assert shown_name(os.fsdecode(b"\xff\n.png")) == "\\udcff\\n.png"
    assert printable("plain ünïcode 日本 🙂 \\") == "plain ünïcode 日本 🙂 \\"


def table() -> Table:
    """A table whose maker thought of nothing."""
    made = Table(title=EVIL, caption=EVIL)
    made.add_column(EVIL)
    made.add_row(EVIL)
    return made


@pytest.mark.parametrize(
    "what",
    [EVIL, text(EVIL), Text(EVIL), table(), Group(EVIL, Text(EVIL))],
    ids=["text", "ours", "rich", "table", "group"],
)
def test_nothing_is_obeyed(what: object, monkeypatch: pytest.MonkeyPatch) -> None:
    told = shown(what, monkeypatch)
    assert SHOWN.replace("\\x07", "") in " ".join(told.replace("\\x07", "").split()), "rich leaves out bells"
    assert printable(told, lines=True) == told


def test_a_name_stays_on_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(text("a\nb"), monkeypatch) == "a\\nb\n"


def test_an_encoding_without_the_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    told = shown(text("é日"), monkeypatch, "ascii")
    assert told == "\\xe9\\u65e5\n"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_json_is_json(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As every reader takes it: half a surrogate pair is written in letters."""
    value = {"note": EVIL, EVIL: ["🙂\n", 1, None], "plain": "日本"}
    monkeypatch.setattr(terminal.sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    told = as_json(value)
    told.encode(encoding)
    assert printable(told, lines=True) == told
    read = json.loads(told)
    assert msgspec.json.decode(told) == read
    evil = EVIL.replace("\ud800", "\\ud800")
    assert read == {"note": evil, evil: ["🙂\n", 1, None], "plain": "日本"}
    assert ("日本" in told) == (encoding == "utf-8")


def test_a_sentence_about_an_evil_name(run: Run, tmp_path: Path, exported: Path) -> None:
    path = tmp_path / "a\x1b[31m\n[bold].png"
    path.write_text("no picture")
    outcome = run("predict", exported, path)
    assert_one_sentence(outcome, "a\\x1b[31m\\n[bold].png is not an image")
    outcome = run("--debug", "predict", exported, path)
    assert "\x1b" not in outcome.err
    assert "Traceback" in outcome.err


@pytest.mark.parametrize("settings", [{"PYTHONIOENCODING": "ascii:strict"}, {"LANG": "C", "PYTHONUTF8": "0"}])
def test_no_letter_ends_a_command(settings: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff\xc3\xa9.pth")
    command = [sys.executable, "-m", "lit_deploy.cli", "inspect", path]
    environment = {**os.environ, "LC_ALL": "C", **settings}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: ")
    assert done.stderr.count(b"\n") == 1
