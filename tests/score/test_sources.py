"""What sources hold, in which order, and the bytes of what they name."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from support.scoring import picture

from lit_deploy.core.errors import ImageError, LitDeployError, MissingDependency, UsageError
from lit_deploy.images.folders import images_in, images_like
from lit_deploy.machine import packages
from lit_deploy.score.reading import Reader
from lit_deploy.score.sources import Entry, Sources
from lit_deploy.score.storage import is_url

fsspec = pytest.importorskip("fsspec", reason="the extra https is not installed")
pyarrow = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
parquet = pytest.importorskip("pyarrow.parquet", reason="the extra parquet is not installed")

CONTENT = [picture(index) for index in range(5)]


def entries(*names: object, column: str | None = None) -> list[Entry]:
    return list(Sources([str(name) for name in names], column).entries())


def read(found: list[Entry]) -> list[bytes]:
    reader = Reader()
    return [reader.content(entry) for entry in found]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Names whose order is not that of their letters once they are joined, links, and what is left out."""
    root = tmp_path / "photos"
    names = ("a/z.png", "a.png", "a b/1.JPG", "b/deep/er/2.png", "b/deep-1.png", ".git/3.png", "b/.4.png", "notes.md")
    for index, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CONTENT[index % 5])
    (root / "again").symlink_to(root / "b")
    (root / "b" / "loop").symlink_to(root)
    return root


def archive(path: Path) -> Path:
    """Pictures as WebDataset has them: a picture and its label by turns."""
    with tarfile.open(path, "w") as tar:
        for index, content in enumerate(CONTENT):
            for name, data in ((f"{'long/' * 30}{index}.png", content), (f"{index}.cls", b"7")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def test_a_folder_is_read_as_predict_reads_it(folder: Path) -> None:
    sources = Sources([str(folder)])
    found = list(sources.entries())
    assert [Path(entry.file) for entry in found] == images_in(folder)
    assert read(found)[:2] == [CONTENT[0], CONTENT[2]]
    assert sources.left_out == {"hidden": 2, ".md": 1, "leading to a folder read already": 2}


@pytest.mark.parametrize("pattern", ["*/*.png", "**/*.png", "*", "b/**", "[ab]*/[!z]*", "b/d*/*/?.png"])
def test_patterns_match_what_those_of_predict_match(pattern: str, folder: Path) -> None:
    (folder / "again").unlink()
    (folder / "b" / "loop").unlink()
    expected = images_like(folder / pattern)
    assert expected
    assert [Path(entry.file) for entry in entries(folder / pattern)] == expected


def test_the_folder_of_results_is_not_read(folder: Path) -> None:
    sources = Sources([str(folder)], leave=str(folder / "b"))
    assert [entry.file for entry in sources.entries()] == [
        str(path) for path in images_in(folder) if "b" not in path.relative_to(folder).parts
    ]


def test_a_list_names_pictures_and_what_holds_them(folder: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    odd.write_bytes(CONTENT[4])
    tar = archive(tmp_path / "shard.tar")
    text = b"\r\n".join([os.fsencode(odd), b"", os.fsencode(tar), b"absent.png"])
    (tmp_path / "list.txt").write_bytes(text)
    found = entries(tmp_path / "list.txt")
    assert [entry.path.rpartition("/")[2] for entry in found] == [
        "\\xff.png", *(f"{index}.png" for index in range(5)), "absent.png"
    ]  # fmt: skip
    assert read(found[:-1]) == [CONTENT[4], *CONTENT]
    with pytest.raises(ImageError, match="cannot be read \\(No such file"):
        read(found[-1:])
    (tmp_path / "wide.txt").write_text("a.png", encoding="utf-16")
    with pytest.raises(ImageError, match="cannot be read \\(embedded null byte"):
        read(entries(tmp_path / "wide.txt"))


def test_archives_and_tables_hold_pictures(tmp_path: Path) -> None:
    tar = archive(tmp_path / "shard.tar")
    kinds = {
        "bytes": pyarrow.array(CONTENT, pyarrow.binary()),
        "large": pyarrow.array(CONTENT, pyarrow.large_binary()),
        "struct": pyarrow.array([{"bytes": content, "path": "x"} for content in CONTENT]),
    }
    for name, column in kinds.items():
        table = pyarrow.table({"image": column, "label": list(range(5)), "note": ["n"] * 5})
        parquet.write_table(table, tmp_path / f"{name}.parquet", row_group_size=2)
    found = entries(tar, *(tmp_path / f"{name}.parquet" for name in kinds))
    assert read(found) == CONTENT * 4
    assert [entry.path for entry in found[5:10]] == [f"{tmp_path}/bytes.parquet#{index}" for index in range(5)]
    assert [entry.path for entry in entries(tmp_path / "*.tar")] == [entry.path for entry in found[:5]]


def test_a_column_of_paths(folder: Path, tmp_path: Path) -> None:
    names = [str(path) for path in images_in(folder)]
    parquet.write_table(pyarrow.table({"where": names, "n": [1] * len(names)}), tmp_path / "t.parquet")
    assert entries(tmp_path / "t.parquet") == entries(folder)
    assert entries(tmp_path / "t.parquet", column="where") == entries(folder)


def test_a_table_written_anew_since_it_was_listed(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"image": CONTENT}), tmp_path / "t.parquet")
    found = entries(tmp_path / "t.parquet")
    for column in ({"image": CONTENT[:1]}, {"other": CONTENT}, {"image": [1] * 5}):
        parquet.write_table(pyarrow.table(column), tmp_path / "t.parquet")
        with pytest.raises(ImageError, match=r"replace the file|the row holds no image"):
            read(found[-1:])


def test_stores_are_read_as_folders_are(folder: Path) -> None:
    """By pyarrow (``file://``) and by fsspec (``local://``, ``memory://``), folders, patterns and files."""
    (folder / "again").unlink()
    (folder / "b" / "loop").unlink()
    expected = [entry.file for entry in entries(folder)]
    (folder.parent / "list.txt").write_text("\n".join(expected))
    for scheme in ("file", "local"):
        found = entries(f"{scheme}://{folder}")
        assert [entry.file for entry in found] == [f"{scheme}://{path}" for path in expected]
        assert read(found) == [Path(path).read_bytes() for path in expected]
        assert entries(f"{scheme}://{folder.parent}/list.txt") == entries(folder)
        matched = entries(f"{scheme}://{folder}/**/*.png")
        assert matched == [entry for entry in found if entry.file.endswith(".png")]
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/x/1.png", CONTENT[1])
    memory.pipe("/bucket/0.png", CONTENT[0])
    found = entries("memory://bucket")
    assert [entry.file for entry in found] == ["memory://bucket/0.png", "memory://bucket/x/1.png"]
    assert read(found) == CONTENT[:2]


class Ranges(SimpleHTTPRequestHandler):
    """Gives parts of files, as web servers but Python's do."""

    def do_GET(self) -> None:
        wanted, path = self.headers.get("Range"), Path(self.translate_path(self.path))
        if wanted is None or not path.is_file():
            super().do_GET()
            return
        first, last = map(int, wanted.removeprefix("bytes=").split("-"))
        content = path.read_bytes()
        part = content[first : last + 1]
        sent = len(part) // 2 if "broken" in path.name else len(part)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part[:sent])

    def end_headers(self) -> None:
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A web server of this machine."""
    with HTTPServer(("127.0.0.1", 0), partial(Ranges, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_web_addresses(server: str, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="the extra https is not installed")
    (tmp_path / "a b.png").write_bytes(CONTENT[0])
    archive(tmp_path / "shard.tar")
    (tmp_path / "broken.png").write_bytes(CONTENT[0])
    names = ("a%20b.png?size=*", "shard.tar", "absent.png", "broken.png")
    found = entries(*(f"{server}/{name}" for name in names))
    assert read(found[:-2]) == [CONTENT[0], *CONTENT]
    for entry in found[-2:]:
        with pytest.raises(ImageError, match="the image cannot be read"):
            read([entry])


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("absent", ImageError, "does not exist"),
        ("empty", ImageError, "empty holds no image \\(left out 1 .tar\\)"),
        ("*.jpeg", ImageError, "holds no image"),
        ("text.tar", UsageError, "no whole tar archive"),
        ("text.parquet", UsageError, "no whole Parquet file"),
        ("text.tar.gz", UsageError, "compressed"),
        ("numbers.parquet", UsageError, "no column 'image' .* it has none; name one with --column"),
        ("two.parquet", UsageError, "it has a, b; name one"),
        ("none://bucket/x.png", UsageError, "none://bucket cannot be opened"),
        ("s3://user:secret@bucket/x.png", UsageError, "a URL of s3:// carries a user or password"),
        ("typo.txt", UsageError, "none://bucket cannot be opened"),
        ("negative.tar", UsageError, "no whole tar archive \\(a member of -512 bytes"),
        ("sparse.tar", UsageError, "damaged or of another kind \\(invalid literal"),
        ("latin.parquet", UsageError, "damaged or of another kind \\('utf-8' codec"),
        ("twice.parquet", UsageError, "has several columns 'image'"),
        ("struct.parquet", UsageError, "no column 'image' .* it has none"),
    ],
)  # fmt: skip
def test_sources_that_are_refused(name: str, kind: type[LitDeployError], words: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for text in ("text.tar", "text.parquet", "text.tar.gz", "empty/x.tar"):
        (tmp_path / text).write_text("text")
    parquet.write_table(pyarrow.table({"a": [1]}), tmp_path / "numbers.parquet")
    parquet.write_table(pyarrow.table({"a": ["1"], "b": ["2"]}), tmp_path / "two.parquet")
    (tmp_path / "typo.txt").write_text("none://bucket/x.png")
    member = tarfile.TarInfo("a.png")
    member.size = -512
    (tmp_path / "negative.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT))
    member.size, member.pax_headers = 0, {"GNU.sparse.size": "x", "GNU.sparse.map": "0,1"}
    (tmp_path / "sparse.tar").write_bytes(member.tobuf(tarfile.PAX_FORMAT))
    latin = pyarrow.Array.from_buffers(
        pyarrow.string(), 1, [None, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0"), pyarrow.py_buffer(b"\xff")]
    )
    for table, columns in (
        ("latin", {"image": latin}), ("struct", {"image": pyarrow.array([{"bytes": "text"}])})
    ):  # fmt: skip
        parquet.write_table(pyarrow.table(columns), tmp_path / f"{table}.parquet")
    parquet.write_table(pyarrow.table([[b"1"], [b"2"]], names=["image", "image"]), tmp_path / "twice.parquet")
    with pytest.raises(kind, match=words) as caught:
        entries(name if is_url(name) else tmp_path / name)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("scheme", "words"), [("https", r"aiohttp, .*'lit-deploy\[https\]'"), ("az", "package .*needs adlfs")]
)
def test_a_package_that_is_missing_is_named(scheme: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(url: str) -> None:
        raise ImportError("it needs adlfs")

    real = packages.installed_version
    monkeypatch.setattr(packages, "installed_version", lambda name: None if name == "aiohttp" else real(name))
    monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
    with pytest.raises(MissingDependency, match=f"reading {scheme}:// needs .*{words}"):
        read(entries(f"{scheme}://absent.invalid/x.png"))
