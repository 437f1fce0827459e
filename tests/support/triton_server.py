"""A tritonserver for tests, where one is named, and a stand-in for the back end that it may lack."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

VARIABLE = "LIT_DEPLOY_TRITONSERVER"
FOLDER = os.environ.get(VARIABLE)
PYTHON = os.environ.get(f"{VARIABLE}_PYTHON")
"""Folder of the `python3` that models of the python back end run on, with Pillow, ONNX Runtime and NumPy 1, which this
back end needs; the machine's own when not set."""

needs_tritonserver = pytest.mark.skipif(
    FOLDER is None,
    reason=f"no tritonserver: set {VARIABLE} to a folder of bin/tritonserver and backends/ (/opt/tritonserver, or "
    "pytriton/tritonserver of an unpacked nvidia-pytriton wheel)",
)

STAND_IN = """
import os
import numpy as np
import onnxruntime
import triton_python_backend_utils as triton

class TritonPythonModel:
    def initialize(self, args):
        settings = onnxruntime.SessionOptions()
        if {library!r}:
            settings.register_custom_ops_library({library!r})  # by its bare name, as Triton's back end does
        path = os.path.join(args["model_repository"], "1", "model.onnx")
        self.session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        self.names = [value.name for value in self.session.get_outputs()]

    def execute(self, requests):
        answers = []
        for request in requests:
            names = [value.name for value in self.session.get_inputs()]
            given = {{name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in names}}
            values = self.session.run(self.names, given)
            answers.append(triton.InferenceResponse([triton.Tensor(*pair) for pair in zip(self.names, values)]))
        return answers
"""


def with_stand_in(model: Path, library: str | None) -> None:
    """Let the python back end run a packaged ONNX file by ONNX Runtime; everything else of its configuration stays."""
    config, count = re.subn('^backend: "(onnxruntime|openvino)"$', 'backend: "python"',
                            (model / "config.pbtxt").read_text(), flags=re.MULTILINE)  # fmt: skip
    assert count == 1
    (model / "config.pbtxt").write_text(re.sub("^default_model_filename: .*\n", "", config, flags=re.MULTILINE))
    (model / "1" / "model.py").write_text(STAND_IN.format(library=library))


def backends(folder: Path) -> Path:
    """The server's back ends; those of nvidia-pytriton lack a python stub until one is chosen."""
    source = Path(FOLDER or "") / "backends"
    stubs = Path(FOLDER or "") / "python_backend_stubs"
    if not stubs.is_dir():
        return source
    python = folder / "backends" / "python"
    python.mkdir(parents=True)
    stub = stubs / f"{sys.version_info.major}.{sys.version_info.minor}" / "triton_python_backend_stub"
    for file in (*(source / "python").iterdir(), stub):  # links: libraries are found from where the files really are
        (python / file.name).symlink_to(file.resolve())
    return python.parent


class Server:
    """A running server: its HTTP and gRPC addresses, and its log so far."""

    def __init__(self, http: int, grpc: int, log: Path) -> None:
        self.http, self.grpc, self._log = f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", log

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")


@contextmanager
def tritonserver(repository: Path, folder: Path, library_path: Path | None = None) -> Iterator[Server]:
    """Start a server, wait until it is ready or has given up, and end it.

    Args:
        repository: of models; ``folder``: for the log and the back ends.
        library_path: put on LD_LIBRARY_PATH.
    """
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        http, grpc = (one.getsockname()[1] for one in sockets)
    log = folder / "server.log"
    binary = Path(FOLDER or "") / "bin" / "tritonserver"
    command = [
        str(binary), f"--model-repository={repository}", f"--backend-directory={backends(folder)}",
        "--http-address=127.0.0.1", "--grpc-address=127.0.0.1", f"--http-port={http}", f"--grpc-port={grpc}",
        "--allow-metrics=false", "--exit-timeout-secs=5",
    ]  # fmt: skip
    environment = {
        **os.environ,
        "PATH": _joined(PYTHON or "", os.environ["PATH"]),
        "LD_LIBRARY_PATH": _joined(str(library_path or ""), os.environ.get("LD_LIBRARY_PATH", "")),
    }
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=environment)
    try:
        server = Server(http, grpc, log)
        end = time.monotonic() + 120
        while process.poll() is None and not _ready(server.http) and time.monotonic() < end:
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/v2/health/ready", timeout=1) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _joined(*paths: str) -> str:
    return os.pathsep.join(path for path in paths if path)
