"""The HTTP service of examples/02_cpp_service: built as its README says, started on a port of its own, asked."""

from __future__ import annotations

import http.client
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from support.documentation import blocks, run_in_shell
from support.runtime_library import LIBRARY

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "02_cpp_service"
BUILD, START, ASK = (block.splitlines() for block in blocks((EXAMPLE / "README.md").read_text(), "sh"))
"""The README's commands: three that build, two that start the service, three that ask it."""

BINARY = "demo/service/lit_service"

BOOST = "libboost1.83-dev"
"""Debian 13's headers; fetched and unpacked for the test where the system has none, as the native build does it."""


class Reply(NamedTuple):
    """What the service answered."""

    status: int
    headers: dict[str, str]
    body: str


class Service:
    """A running service on a port of its own; ``with`` ends it, and checks that it ends well."""

    def __init__(self, binary: Path, model: Path, *options: object) -> None:
        self.binary = binary
        command = [str(binary), "--model", str(model), "--port", "0", *map(str, options)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.log: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log.append(line)
            if found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                return
        pytest.fail("".join(self.log))

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *failure: object) -> None:
        if self.process.poll() is None:
            code = self.stop()
            assert code == 0 or failure[0] is not None, "".join(self.log)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self) -> int:
        """Wait for the end and keep what was printed; a service that hangs is killed and fails the test."""
        try:
            out, _ = self.process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self.log.append(out or "")
        return self.process.returncode

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(self, method: str, path: str, body: bytes | Iterator[bytes] | None = None, **headers: str) -> Reply:
        """One request on a connection of its own."""
        connection = self.connect()
        try:
            return exchange(connection, method, path, body, **headers)
        finally:
            connection.close()

    def classify(self, picture: bytes, top: int = 5) -> Reply:
        return self.ask("POST", f"/v1/classify?top={top}", picture)

    def picture(self, path: str, picture: bytes, accept: str = "image/png") -> Image.Image:
        """The answer to a request that accepts a picture."""
        connection = self.connect()
        try:
            connection.request("POST", path, picture, {"Accept": accept})
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        assert (response.status, response.getheader("content-type")) == (200, "image/png"), data[:500]
        return Image.open(io.BytesIO(data))

    def raw(self, data: bytes, end: bool = True) -> str:
        """Send bytes as they are, and read until the service closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(data)
            if end:
                connection.shutdown(socket.SHUT_WR)
            return connection.makefile("rb").read().decode()

    def deaf(self, requests: bytes) -> socket.socket:
        """A client that asks, and reads no answer: returned when all buffers on the way are full."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.settimeout(60)
        client.connect(("127.0.0.1", self.port))
        client.sendall(requests)
        before, answered = -2.0, 0.0
        while answered > before + 1:  # the one is the answer to this question
            time.sleep(0.02)
            before, answered = answered, self.metrics()["lit_service_responses_total", "200"]
        return client

    def metrics(self) -> dict[tuple[str, str], float]:
        """``{(sample, its one label's value or ""): value}``, of all models; read by Prometheus' own parser."""
        parser = pytest.importorskip("prometheus_client.parser", reason="no Prometheus: pip install prometheus-client")
        text = self.ask("GET", "/metrics").body
        samples = [s for family in parser.text_string_to_metric_families(text) for s in family.samples]
        sums: dict[tuple[str, str], float] = {}
        for sample in samples:
            labels = [value for name, value in sample.labels.items() if name != "model"]
            if len(labels) < 2:
                key = sample.name, "".join(labels)
                sums[key] = sums.get(key, 0) + sample.value
        return sums


def wait_for(running: Service, ready: Callable[[dict[tuple[str, str], float]], bool]) -> None:
    """Until the metrics are so; a service that never gets there fails the test."""
    for _ in range(3000):
        if ready(running.metrics()):
            return
        assert running.process.poll() is None
        time.sleep(0.01)
    pytest.fail(str(running.metrics()))


def sanitized(binary: Path) -> bool:
    return any(name in binary.read_bytes() for name in (b"__asan_init", b"__tsan_init"))


def exchange(connection: http.client.HTTPConnection, method: str, path: str, body: Any = None, **headers: str) -> Reply:
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read().decode())


def boost_root() -> Path | None:
    """None if the system has Boost's headers, or where Debian's were unpacked; skips the tests without either."""
    if Path("/usr/include/boost/asio/any_completion_executor.hpp").exists():
        return None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lit-deploy" / f"debian-trixie-{BOOST}"
    header = "usr/include/boost/asio.hpp"
    if not (cache / header).exists():
        fetch = ["sh", str(ROOT / "plugins/cmake/fetch_debian_package.sh"), str(cache), BOOST, header]
        done = subprocess.run(fetch, capture_output=True, text=True, timeout=180)
        if done.returncode != 0:
            pytest.skip(f"no Boost headers: apt-get install libboost-dev ({done.stderr.strip()[-200:]})")
    return cache / "usr"


def build(folder: Path) -> None:
    """Run the README's commands in ``folder``; skips the tests, by name, where something that they need is missing."""
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}: apt-get install g++ cmake")
    headers = {"jpeglib.h": "libjpeg-dev", "png.h": "libpng-dev", "freetype2/ft2build.h": "libfreetype-dev"}
    for header, package in headers.items():
        source = f"#if !__has_include(<{header}>)\n#error\n#endif\n"  # whatever else it includes
        command = ["c++", "-E", "-x", "c++", "-"]
        if subprocess.run(command, input=source, capture_output=True, text=True).returncode != 0:
            pytest.skip(f"no {header}: apt-get install {package}")
    boost = boost_root()
    (folder / "examples").unlink(missing_ok=True)  # of a build that failed, in another worker
    shutil.rmtree(folder / "build", ignore_errors=True)
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "build").mkdir()
    (folder / "build/native").symlink_to(LIBRARY.parent)
    install, configure, compile_ = BUILD
    run_in_shell(install, folder)
    flags = "-DCMAKE_CXX_FLAGS_RELEASE=-O1"  # half the time to compile
    run_in_shell(f"{configure} {flags}", folder, **({"Boost_ROOT": str(boost)} if boost else {}))
    run_in_shell(compile_, folder)
