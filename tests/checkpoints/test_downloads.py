"""Names and addresses turned into local files; downloads over the loopback interface only."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lit_deploy.checkpoints import downloads
from lit_deploy.checkpoints.downloads import download, resolve_checkpoint
from lit_deploy.core.errors import CheckpointError

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
