"""A process that opens files, one after the other, and says how each ended; the test sees whether it lives.

A line in: ``[target, *arguments]``; a line out: ``{"code", "out", "err", "peak"}``.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from lit_deploy import cli
from lit_deploy.core.errors import LitDeployError
from lit_deploy.core.journal import Key
from lit_deploy.core.specs import InputSpec
from lit_deploy.evaluate.classification import ClassificationEvaluation
from lit_deploy.evaluate.state import open_state
from lit_deploy.images.calibration import calibration_images
from lit_deploy.images.labels import read_labels


def _command(*arguments: str) -> None:
    sys.argv = ["lit-deploy", *arguments]
    cli.main()


def _labels(path: str, count: str) -> None:
    print(json.dumps(read_labels(path, int(count))))


def _calibration(path: str, spec: str) -> None:
    print(calibration_images(path, InputSpec(**json.loads(spec)), 8).count)


def _state(path: str, key: str) -> None:
    """Of an evaluation of a classifier, opened as the evaluation does that goes on."""
    with open_state(Path(path), msgspec.json.decode(key, type=Key), ClassificationEvaluation.RECORD) as state:
        print(json.dumps(len(state.records)))


TARGETS: dict[str, Callable[..., None]] = {
    "command": _command,
    "labels": _labels,
    "calibration": _calibration,
    "state": _state,
}


def _answer(target: str, *arguments: str) -> dict[str, Any]:
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            TARGETS[target](*arguments)
        except SystemExit as end:
            code = end.code or 0
        except LitDeployError as error:
            code = error.exit_code
            print(f"error: {error}", file=sys.stderr)
        except BaseException:
            code = "traceback"
            traceback.print_exc()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"code": code, "out": out.getvalue(), "err": err.getvalue(), "peak": peak}


def main() -> None:
    answers = sys.stdout
    for line in sys.stdin:
        answers.write(json.dumps(_answer(*json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    assert Path(cli.__file__).is_file()
    main()
