"""The builder process from outside: it may die, be killed or be interrupted, and nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.engines import PORTABLE, ROOT, family, needs_rtx
from support.exported import export_of

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.core.errors import BuildFailed, ExportError, LitDeployError, MissingDependency, UsageError
from lit_deploy.core.progress import Progress, Step, unseen
from lit_deploy.exporters import engine_process
from lit_deploy.exporters import tensorrt as exporter
from lit_deploy.exporters.engine_process import LAST_LINES
from lit_deploy.exporters.tensorrt import engine_from_onnx
from lit_deploy.machine import native

CheckpointFile = Callable[[str], Path]


# ------------------------------------------------------------------------- a command that is stopped in mid-build


def children(pid: int) -> list[int]:
    """Processes that a process has started, and that live."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, task.read_text().split())
        except OSError:  # it has just ended
            continue
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent to notice does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def wait_until(true: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    """What a condition gives as soon as it holds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := true():
            return value
        time.sleep(0.002)
    pytest.fail(f"{what}: not within {seconds} s")


class Build:
    """``lit-deploy export --format trt`` as a process, whose builder stands still in the middle of its work."""

    def __init__(self, source: Path, folder: Path, *options: str) -> None:
        self.out, self.temporary = folder / "out", folder / "tmp"
        for place in (self.out, self.temporary):
            place.mkdir()
        command = [sys.executable, "-m", "lit_deploy.cli", "export", "--ckpt", str(source), "--format", "trt"]
        command += ["--builder", "tensorrt_rtx", "--no-plugin", "--out", str(self.out / "a.engine"), *options]
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary), "COLUMNS": "200",
            "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        }  # fmt: skip
        self.process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.builder = wait_until(self._at_work, "no builder at work")
        os.kill(self.builder, signal.SIGSTOP)

    def _at_work(self) -> int:
        """The builder's number, once it has TensorRT in memory and has said something."""
        if self.process.poll() is not None:
            pytest.fail(f"ended too early: {self.process.communicate()}")
        for pid in children(self.process.pid):
            try:
                busy = "libtensorrt" in Path(f"/proc/{pid}/maps").read_text() and os.stat(f"/proc/{pid}/fd/2").st_size
            except OSError:
                continue
            if busy and b"tensorrt_builder" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        return 0

    def end(self) -> tuple[int, str, str]:
        """Exit code and output, after which no process and no file of it may be there."""
        out, err = self.process.communicate(timeout=60)
        wait_until(lambda: not alive(self.builder), "the builder lives on", 10)
        assert os.listdir(self.temporary) == []
        return self.process.returncode, out, err


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Build]]:
    """``start(source, *options)`` gives a build that has been stopped in its middle."""
    begun: list[Build] = []

    def begin(source: Path, *options: str) -> Build:
        begun.append(Build(source, tmp_path, *options))
        return begun[-1]

    yield begin
    for build in begun:
        build.process.kill()
        build.process.wait()
        if alive(build.builder):
            os.kill(build.builder, signal.SIGKILL)


@needs_rtx
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_killed_in_mid_build(number: signal.Signals, checkpoint_file: CheckpointFile, start: Any) -> None:
    """No file under any name, nothing in the temporary folder, no process that goes on building.

    SIGKILL hits a build from a checkpoint, whose conversion has used the temporary folder already.
    """
    checkpoint = checkpoint_file("tiny")
    build = start(checkpoint, "--no-verify") if number == signal.SIGKILL else start(export_of(checkpoint))
    assert os.listdir(build.out) == [], "nothing is written before all is done"
    build.process.send_signal(number)
    code, out, err = build.end()
    assert os.listdir(build.out) == []
    assert out == ""
    assert "Traceback" not in err
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code not in (0, 1), "1 means that a gate failed"


@needs_rtx
def test_a_builder_that_aborts(checkpoint_file: CheckpointFile, start: Any) -> None:
    """Exit code 2, one sentence, and the last lines of its log; files from before stay as they are."""
    build = start(export_of(checkpoint_file("tiny")))
    for path in family(build.out / "a.engine"):
        path.write_text("old")
    os.kill(build.builder, signal.SIGABRT)
    os.kill(build.builder, signal.SIGCONT)
    code, out, err = build.end()
    assert (code, out) == (2, "")
    sentence, heading, *log = err.splitlines()
    assert sentence == "error: the TensorRT-RTX builder was ended by SIGABRT"
    assert heading.strip() == "the last lines of the builder:"
    assert any(re.match(r"\[info\] .*ONNX", line) for line in log), err
    assert {path.read_text() for path in family(build.out / "a.engine")} == {"old"}
    assert len(os.listdir(build.out)) == 3


# ------------------------------------------------------------------------------------- a builder made of a script


@pytest.fixture
def scripted(checkpoint_file: CheckpointFile, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``scripted(code, progress)``: an export whose builder process is ``code``."""
    source = export_of(checkpoint_file("tiny"))
    monkeypatch.setattr(exporter.trt, "installed_version", lambda backend: "1.7.1.116")
    monkeypatch.setattr(exporter.trt, "process_environment", lambda backend: dict(os.environ))

    def run(code: str, progress: Progress = unseen, plugin: bool = False) -> Any:
        options = replace(PORTABLE, plugin=plugin)
        monkeypatch.setattr(engine_process, "COMMAND", (sys.executable, "-c", f"import sys, os, signal, json\n{code}"))
        return engine_from_onnx(source.read_bytes(), read_manifest(source), "a.engine", options, progress)

    return run


DEATHS = [
    ("os.kill(os.getpid(), signal.SIGKILL)", "was killed, most often for lack of memory; try a smaller batch"),
    ("os.kill(os.getpid(), signal.SIGSEGV)", "was ended by SIGSEGV"),
    ("os.abort()", "was ended by SIGABRT"),
    ("sys.exit(3)", "ended with exit code 3"),
    ("pass", "ended with exit code 0"),
    ("raise RuntimeError('a bug')", "ended with exit code 1"),
    ("sys.stdin.close(); sys.exit(4)", "ended with exit code 4"),
]


@pytest.mark.parametrize(("code", "words"), DEATHS, ids=[words for _, words in DEATHS])
def test_deaths(code: str, words: str, scripted: Any) -> None:
    with pytest.raises(BuildFailed) as caught:
        scripted(f"print('about to\\n\\n   build  ', file=sys.stderr, flush=True)\n{code}")
    assert str(caught.value) == f"the TensorRT-RTX builder {words}"
    assert caught.value.log[:2] == ("about to", "build"), "lines that say something, without the space around them"
    if "bug" in code:
        assert caught.value.log[-1] == "RuntimeError: a bug"


def test_the_last_lines_of_a_long_log(scripted: Any) -> None:
    with pytest.raises(BuildFailed) as caught:
        scripted(
            "for i in range(5000): print('line', i, '\\u00e4', file=sys.stderr)\nos.write(2, b'\\xff\\n'); os.abort()"
        )
    assert len(caught.value.log) == LAST_LINES
    assert caught.value.log[-2:] == ("line 4999 ä", "\N{REPLACEMENT CHARACTER}")


@pytest.mark.parametrize(
    ("answer", "kind", "log"),
    [
        ({"refused": "TensorRT cannot parse"}, BuildFailed, ("why",)),
        ({"error": "UsageError", "message": "TensorRT cannot load it"}, UsageError, None),
        ({"error": "MissingDependency", "message": "too old"}, MissingDependency, None),
    ],
)
def test_refusals_of_the_builder(
    answer: dict[str, str], kind: type[LitDeployError], log: tuple[str, ...] | None, scripted: Any
) -> None:
    code = f"print('why', file=sys.stderr, flush=True); print(json.dumps({answer!r}), flush=True); sys.stdin.read()"
    with pytest.raises(kind) as caught:
        scripted(code)
    assert str(caught.value) == answer.get("message", answer.get("refused"))
    assert getattr(caught.value, "log", None) == log


def test_a_plugin_that_was_never_configured(scripted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plugin layers in the network are not enough where the plugin's own record says that nobody called it."""
    library = tmp_path / "plugin.so"
    library.write_bytes(b"any")
    monkeypatch.setenv(native.PLUGIN_VARIABLE, str(library))
    inspection = {"source": "network", "products": {"float32": 26}, "plugin_layers": 3, "layers": 99}
    for calls in (0, 1):
        facts = {"inspections": [inspection], "plugin_calls": calls, "inputs": [], "outputs": []}
        code = f"print(json.dumps({{'done': {facts!r}}}), flush=True)"
        if calls:
            _, sidecar = scripted(code, plugin=True)
            assert sidecar.plugin is not None
        else:
            with pytest.raises(
                ExportError, match=r"TensorRT-RTX never configured the plugin of .*plugin\.so, so the eng"
            ):
                scripted(code, plugin=True)


def test_steps_are_passed_on_and_an_interrupt_ends_the_builder(scripted: Any) -> None:
    """What the caller raises while it is told a step comes out, and the builder does not go on alone."""
    steps: list[str] = []

    def stop(step: Step) -> None:
        steps.append(str(step))
        if step.name.startswith("pid"):
            raise KeyboardInterrupt

    code = (
        "for step, fraction in (('begin', 0.01), (f'pid {os.getpid()}', None)):\n"
        "    print(json.dumps({'step': step, 'fraction': fraction}), flush=True)\n"
        "import time; time.sleep(600)"
    )
    with pytest.raises(KeyboardInterrupt):
        scripted(code, stop)
    assert steps[0].startswith("  0 %  start")
    assert steps[1] == "  1 %  begin"
    assert not alive(int(steps[2].split()[1]))
    assert children(os.getpid()) == [] or int(steps[2].split()[1]) not in children(os.getpid())


def test_the_builder_dies_with_a_parent_that_is_gone_already(tmp_path: Path) -> None:
    """A request of a process that is not its parent is not served: nobody would ever end it."""
    request = '{"parent": 1}'
    done = subprocess.run(
        [sys.executable, "-m", "lit_deploy.exporters.tensorrt_builder"], input=request, text=True, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert (done.stdout, done.stderr) == ("", "")


def test_the_builder_imports_no_torch() -> None:
    code = (
        "import sys; import lit_deploy.exporters.tensorrt_builder\n"
        "print([name for name in ('torch', 'onnx', 'onnxruntime', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n", "its start is part of every build"
