"""Names and addresses turned into local files; downloads over the loopback interface only."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from lit_deploy.checkpoints import downloads
from lit_deploy.checkpoints.downloads import download, resolve_checkpoint, split_key
from lit_deploy.checkpoints.load import load_checkpoint
from lit_deploy.core.errors import CheckpointError, UsageError
from lit_deploy.core.files import sha256_of

HTTP = ("http",)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lit-deploy" / "checkpoints"


@pytest.fixture
def server(checkpoint_file: Callable[[str], Path]) -> Iterator[str]:
    """Serves a whole checkpoint, one whose transfer breaks, an HTML page and a redirect to another scheme."""
    content = checkpoint_file("tiny").read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/missing":
                self.send_error(404)
                return
            self.send_response(302 if self.path == "/redirect" else 200)
            if self.path == "/redirect":
                self.send_header("Location", "ftp://127.0.0.1/lit.pth")
            body = b"<html>please log in</html>" if self.path == "/html" else content
            if self.path != "/unsized":
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:5000] if self.path == "/broken" else body)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()
        thread.join()


@pytest.mark.parametrize("page", ["/lit.pth", "/unsized"])
def test_download(server: str, page: str, tmp_path: Path, checkpoint_file: Callable[[str], Path]) -> None:
    target = tmp_path / "new" / "folder" / "lit.pth"
    calls: list[tuple[int, int | None]] = []
    download(server + page, target, lambda *call: calls.append(call), HTTP)
    content = checkpoint_file("tiny").read_bytes()
    assert target.read_bytes() == content
    assert calls[-1] == (len(content), None if page == "/unsized" else len(content))
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ("/broken", "broke after 5000 of"),
        ("/missing", "404|Not Found"),
        ("/html", "an HTML or XML page"),
        ("/redirect", "redirected to ftp://127.0.0.1/lit.pth, which is not https"),
    ],
)
def test_failed_download_leaves_nothing(server: str, page: str, sentence: str, tmp_path: Path) -> None:
    target = tmp_path / "cache" / "lit.pth"
    with pytest.raises(CheckpointError, match=sentence) as caught:
        download(server + page, target, schemes=HTTP)
    assert server + page in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(target.parent.iterdir()) == []


def test_interrupted_download_leaves_nothing(server: str, tmp_path: Path) -> None:
    def interrupt(received: int, expected: int | None) -> None:
        raise KeyboardInterrupt

    target = tmp_path / "cache" / "lit.pth"
    with pytest.raises(KeyboardInterrupt):
        download(server + "/lit.pth", target, interrupt, HTTP)
    assert list(target.parent.iterdir()) == []


def test_no_network(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot download http://127\.0\.0\.1:9/lit\.pth .* by hand"):
        download("http://127.0.0.1:9/lit.pth", tmp_path / "lit.pth", schemes=HTTP)
    with pytest.raises(CheckpointError, match="not an https address"):
        download("http://127.0.0.1:9/lit.pth", tmp_path / "lit.pth")


def test_unwritable_cache(server: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot download"):
        download(server + "/lit.pth", tmp_path / "file" / "lit.pth", schemes=HTTP)


def test_names_and_urls(cache: Path, monkeypatch: pytest.MonkeyPatch, checkpoint_file: Callable[[str], Path]) -> None:
    """Downloads happen once; the second call finds the file. Equal file names of two addresses stay apart."""
    fetched: list[str] = []

    def fake(url: str, target: Path, progress: object = None, **_: object) -> None:
        fetched.append(url)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(checkpoint_file("tiny").read_bytes())

    monkeypatch.setattr(downloads, "download", fake)
    assert resolve_checkpoint("lit_s") == resolve_checkpoint("lit_s") == cache / "lit_s.pth"
    first, second = (resolve_checkpoint(f"https://example.org/{folder}/a.pth?x=1") for folder in "ab")
    assert first != second
    assert first.parent == cache
    assert first.name.endswith("-a.pth")
    assert fetched == [
        "https://github.com/ziplab/LIT/releases/download/v1.0/lit_s.pth",
        "https://example.org/a/a.pth?x=1",
        "https://example.org/b/a.pth?x=1",
    ]


def test_local_file_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lit_s").write_bytes(b"mine")
    assert resolve_checkpoint("lit_s") == Path("lit_s")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("http://example.org/lit.pth", "begins with http://, expected https://"),
        ("s3://bucket/lit.pth", "begins with s3://, expected https://"),
        ("lit_x", r"there is no file lit_x \(did you mean lit_\w+\?\)"),
        ("models/nothing.pth", "expected a checkpoint file, one of lit_ti, lit_s, lit_m, lit_b, retinanet_lit_ti"),
        ("a" * 5000, "there is no file"),
        ("a\0b", "there is no file"),
    ],
)
def test_unusable_sources(source: str, sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        resolve_checkpoint(source)


def test_malformed_url() -> None:
    with pytest.raises(CheckpointError, match="is not a URL"):
        resolve_checkpoint("https://[::1/lit_s.pth")


# ------------------------------------------------------------------------------------------- what is not taken


class Served(NamedTuple):
    """What a server says, and how much of it was asked for."""

    address: str
    sent: list[int]


@pytest.fixture
def endless(request: pytest.FixtureRequest) -> Iterator[Served]:
    """Sends ``request.param`` and then zeros, until the other side has heard enough; at most 64 MiB."""
    head, length = request.param
    sent: list[int] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            if length is not None:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            try:
                self.wfile.write(head)
                for _ in range(64):
                    self.wfile.write(bytes(1 << 20))
                    sent.append(1)
            except OSError:
                pass

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.daemon_threads = True
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield Served(f"http://127.0.0.1:{httpd.server_address[1]}/lit.pth", sent)
        httpd.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("endless", "sentence"),
    [
        ((b"PK\x03\x04", None), "expected at most 1048576"),
        ((b"PK\x03\x04", 1 << 40), f"sends {1 << 40} bytes, expected at most 1048576"),
        ((b"<!DOCTYPE html>" + b" " * 600, None), "an HTML or XML page"),
        ((b"\x1f\x8b\x08" + b"x" * 600, None), "a gzip archive; unpack it first"),
        ((b'{"weight_map": {' + b" " * 600, None), "the index of several files"),
    ],
    indirect=["endless"],
    ids=["endless", "announced", "html", "gzip", "index"],
)
def test_a_download_stops_when_it_is_wrong(endless: Served, sentence: str, tmp_path: Path) -> None:
    """At its first bytes, or at the limit; neither the disk nor an hour is filled with it."""
    with pytest.raises(CheckpointError, match=sentence):
        download(endless.address, tmp_path / "lit.pth", schemes=HTTP, limit=1 << 20)
    assert list(tmp_path.iterdir()) == []
    assert len(endless.sent) < 64


def test_limits_follow_from_what_a_network_weighs(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []
    monkeypatch.setattr(downloads, "download", lambda *_, limit, **__: limits.append(limit))
    for source in ("lit_ti", "lit_b", "https://example.org/a.pth"):
        resolve_checkpoint(source)
    small, large, any_other = limits
    assert 16 * 19e6 < small < large < any_other == downloads.MAX_BYTES
    assert 16 * 86e6 < large < 2e9


def test_a_known_hash(server: str, tmp_path: Path, checkpoint_file: Callable[[str], Path]) -> None:
    """Of a local file, of a download and of what lies in the cache; digits of either case."""
    path = checkpoint_file("tiny")
    right = sha256_of(path)
    wrong = "0" * 64
    assert resolve_checkpoint(path, sha256=right.upper()) == path
    with pytest.raises(CheckpointError, match=f"has the SHA-256 {right}, expected {wrong}"):
        resolve_checkpoint(path, sha256=wrong)
    with pytest.raises(UsageError, match="expected 64 hexadecimal digits"):
        resolve_checkpoint(path, sha256="abc")
    with pytest.raises(CheckpointError, match=f"sent has the SHA-256 {right}, expected {wrong}"):
        download(server + "/lit.pth", tmp_path / "lit.pth", schemes=HTTP, sha256=wrong)
    assert list(tmp_path.iterdir()) == []
    download(server + "/lit.pth", tmp_path / "lit.pth", schemes=HTTP, sha256=right)


def test_what_lies_in_the_cache_is_compared(cache: Path, checkpoint_file: Callable[[str], Path]) -> None:
    """Any LIT would load; under an official name only the published network does."""
    cache.mkdir(parents=True)
    (cache / "lit_s.pth").write_bytes(checkpoint_file("tiny").read_bytes())
    with pytest.raises(CheckpointError, match=r"downloaded as lit_s is custom for 7 classes .*; delete the file"):
        load_checkpoint("lit_s")
    with pytest.raises(CheckpointError, match="has the SHA-256"):
        resolve_checkpoint("lit_s", sha256="0" * 64)
    (cache / "lit_s.pth").write_bytes(checkpoint_file("lit_s").read_bytes())
    assert load_checkpoint("lit_s").spec.name == "lit_s"


@pytest.mark.parametrize("source", ["a.pth#ema", "lit_s#ema", "https://example.org/a.pth#model.ema"])
def test_a_key_behind_a_source(source: str) -> None:
    place, _, key = source.partition("#")
    assert split_key(source) == (place, key)
    assert split_key(place) == (place, None)
    assert split_key(place + "#") == (place + "#", None)
