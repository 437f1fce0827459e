"""What the sections of the GPU suite share: how they run, are skipped and fail, and what the JSON file says of them.

Whatever touches the GPU runs in a process of its own, so that neither a crash nor an illegal memory access in one
section takes the others, or the report, with it. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lit_deploy.core.errors import LitDeployError
from lit_deploy.core.text import first_line
from lit_deploy.machine import native
from lit_deploy.machine import tensorrt as trt
from lit_deploy.machine.facts import installed_version

ROOT = Path(__file__).resolve().parent.parent
LAUNCHER = "liblit_deploy_cuda.so"
LAUNCHER_VARIABLE = "LIT_DEPLOY_CUDA_LAUNCHER"
"""Names the launcher to the tests, which look in build/native otherwise."""
SKIPPED = "SKIPPED: "
"""A program that prints a line with this word, and ends well, had to leave out what the rest of the line names."""

Status = Literal["run", "failed", "skipped"]
Values = dict[str, Any]


class Skip(Exception):
    """This machine lacks what a section needs; the text names it."""


class SectionFailed(Exception):
    """A gate was not met, or a program did not end well; ``values`` keeps what was measured all the same."""

    def __init__(self, reason: str, values: Values | None = None) -> None:
        super().__init__(reason)
        self.values = values or {}


@dataclass(frozen=True)
class Gpu:
    """The first GPU as nvidia-smi describes it.

    Attributes:
        name: marketing name.
        memory: size with its unit.
        driver: version of the driver.
        compute_capability: e.g. ``9.0``.
    """

    name: str
    memory: str
    driver: str
    compute_capability: str

    @property
    def slug(self) -> str:
        """The name as part of a file name: ``NVIDIA H200`` is ``nvidia_h200``."""
        return re.sub(r"[^a-z0-9]+", "_", self.name.lower()).strip("_")

    @property
    def architecture(self) -> str:
        """The compute capability as CMake and nvcc write it: ``90``."""
        return self.compute_capability.replace(".", "")


@dataclass
class Suite:
    """What a section may use.

    Attributes:
        gpu: the device that is measured.
        native: folder of the compiled libraries.
        given: True if the caller named that folder, which is then used as it is.
        work: existing folder for checkpoints, exports and reports; deleted at the end.
        quick: fewer repetitions.
        deadline: ``time.monotonic()`` at which the budget is spent.
        device: where networks run; the tests of the suite have nothing but a ``cpu``.
        values: what the section that runs now has measured so far; kept however it ends.
        failures: gates that it did not meet so far; it fails at its end, but goes on until then.
    """

    gpu: Gpu
    native: Path
    given: bool
    work: Path
    quick: bool = False
    deadline: float = field(default_factory=lambda: time.monotonic() + 600)
    device: str = "cuda"
    values: Values = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def seconds_left(self) -> float:
        """Seconds of the budget that are left."""
        return self.deadline - time.monotonic()

    def gate(self, name: str, failure: str) -> None:
        """Have the section fail at its end if there is a failure to tell of (empty for none)."""
        if failure:
            self.failures.append(f"{name}: {failure}")

    def built(self, name: str) -> Path:
        """The compiled library or program of that name; Skip where it was not built."""
        found = self.find_built(name)
        if found is None:
            raise Skip(f"{name} is not in {self.native}: it was not built (the section 'build' says why)")
        return found

    def find_built(self, name: str) -> Path | None:
        """The same, or None."""
        return next((path for path in sorted(self.native.rglob(name)) if path.is_file()), None)

    def run(
        self,
        command: Sequence[str | Path],
        seconds: float,
        environment: Mapping[str, str] | None = None,
        stdout: Path | None = None,
    ) -> tuple[int, str]:
        """Run a program in the checkout with the built libraries in place.

        Args:
            command: program and arguments.
            seconds: its limit; what is left of the budget, when that is less.
            environment: further variables.
            stdout: file for standard output alone, where that is JSON to be read.

        Returns:
            Exit code, and standard output and error together (standard error alone with ``stdout``).

        Raises:
            SectionFailed: it was not done in time; it and all that it started are ended then.
            Skip: the same, but only because the budget was spent.
        """
        limit = max(1.0, min(seconds, self.seconds_left()))
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(stdout.open("wb")) if stdout else None
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=ROOT,
                env={**os.environ, **self._environment(), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=file or subprocess.PIPE,
                stderr=subprocess.PIPE if file else subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,  # a group of its own, so that what it starts can be ended with it
            )
        try:
            out, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            ended = f"{Path(command[0]).name} was not done within {limit:.0f} s and was ended"
            if limit < seconds:
                raise Skip(f"{ended}, as the budget of the whole run was spent") from None
            raise SectionFailed(ended) from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):  # a process that the driver holds cannot be killed
                process.wait(10)
        return process.returncode, (out or "") + (errors or "")

    def run_well(
        self, command: Sequence[str | Path], seconds: float, environment: Mapping[str, str] | None = None
    ) -> str:
        """Like ``run``, for a program that must end well: its output.

        Raises:
            SectionFailed: another exit code than 0; its last lines are printed, and the very last one quoted.
            Skip: it says that it left something out.
        """
        code, output = self.run(command, seconds, environment)
        if code != 0:
            print(last_lines(output), flush=True)
            raise SectionFailed(f"{Path(command[0]).name} ended with exit code {code} ({last_lines(output, 1)})")
        if reasons := [line.split(SKIPPED, 1)[1].strip() for line in output.splitlines() if SKIPPED in line]:
            raise Skip("; ".join(reasons))
        return output

    def _environment(self) -> dict[str, str]:
        """This checkout's package before any installed one, and the libraries that were built for this GPU."""
        variables = {
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            "PYTHONUNBUFFERED": "1",
            **rtx_library_path(),
        }
        for name, variable in (
            (native.LIBRARY_NAME, native.ENVIRONMENT_VARIABLE),
            (native.PLUGIN_NAME, native.PLUGIN_VARIABLE),
            (LAUNCHER, LAUNCHER_VARIABLE),
        ):
            if (path := self.find_built(name)) is not None:
                variables[variable] = str(path)
        return variables


@dataclass(frozen=True)
class Section:
    """One part of the suite.

    Attributes:
        name: what ``--only`` calls it.
        what: what it does, in a few words.
        run: does it and returns what the JSON file keeps; raises Skip or SectionFailed.
        seconds: least of the budget that it makes sense to begin with.
    """

    name: str
    what: str
    run: Callable[[Suite], Values]
    seconds: float = 5


@dataclass(frozen=True)
class Outcome:
    """What became of a section; ``reason`` says why it failed or was skipped."""

    name: str
    what: str
    status: Status
    reason: str | None
    seconds: float
    values: Values


def run_section(section: Section, suite: Suite) -> Outcome:
    """Run one section; whatever it raises becomes its outcome, so that the suite goes on."""
    start = time.monotonic()
    status: Status = "run"
    reason: str | None = None
    values: Values = {}
    suite.values, suite.failures = {}, []
    try:
        if suite.seconds_left() < section.seconds:
            raise Skip(
                f"{max(0, suite.seconds_left()):.0f} s of the budget are left, it needs {section.seconds:.0f} s; "
                f"run it alone with --only {section.name}"
            )
        values = section.run(suite)
    except Skip as error:
        status, reason = "skipped", str(error)
    except SectionFailed as error:
        status, reason, values = "failed", str(error), error.values
    except Exception as error:  # the one place where a crash is caught: it belongs to this section alone
        status, reason = "failed", f"{type(error).__name__}: {first_line(error)}"
    if suite.failures:
        status, reason = "failed", "; ".join([*suite.failures, *([reason] if reason else [])])
    seconds = round(time.monotonic() - start, 1)
    return Outcome(section.name, section.what, status, reason, seconds, {**suite.values, **values})


def need(*distributions: str) -> None:
    """Skip, by name, when a package is not installed."""
    missing = [name for name in distributions if installed_version(name) is None]
    if missing:
        raise Skip(f"not installed: {', '.join(missing)}")


@functools.cache
def rtx_library_path() -> dict[str, str]:
    """The library path with which TensorRT-RTX finds itself, where it is installed; see ``trt.process_environment``."""
    if trt.installed_version("tensorrt_rtx") is None:
        return {}
    try:
        path = trt.process_environment("tensorrt_rtx").get("LD_LIBRARY_PATH")
    except (LitDeployError, OSError):  # engines without our plugin run all the same
        return {}
    return {"LD_LIBRARY_PATH": path} if path else {}


def find_tool(name: str) -> str | None:
    """Path of a program: on PATH, beside this Python, or in the CUDA toolkit's folder."""
    folders = [Path(sys.executable).parent]
    folders += [Path(root) / "bin" for root in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if root]
    places = os.pathsep.join([os.environ.get("PATH", os.defpath), *map(str, folders)])
    return shutil.which(name, path=places)


def last_lines(text: str, count: int = 15) -> str:
    """The last lines that hold anything; ``it left no message`` where none does."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-count:]) or "it left no message"
