"""Which libraries the C API loads, where it looks for them, and what it says of those that will not do."""

from __future__ import annotations

import ctypes.util
import shutil
import subprocess
from pathlib import Path

import pytest
from support.exported import needs_library
from support.runtime_library import LIBRARY, needs_runtime
from support.runtime_models import in_new_process, micro, micro_manifest, needs_onnxruntime, opened
from support.runtime_refusals import assert_refused, opens

from lit_deploy.machine.native import find_library, find_onnxruntime_library

pytestmark = [needs_runtime, needs_onnxruntime, pytest.mark.usefixtures("backend")]


def shared_library(folder: Path, code: str) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: apt-get install gcc")
    (folder / "fake.c").write_text(code)
    path = folder / "libfake.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", path, folder / "fake.c"], check=True)
    return path


TOO_OLD = """
static const void* none(unsigned version) { return version > 16 ? 0 : (const void*)1; }
static const char* version(void) { return "1.16.3"; }
static const struct { const void* (*get)(unsigned); const char* (*version)(void); } base = {none, version};
const void* OrtGetApiBase(void) { return &base; }
"""


def test_an_onnxruntime_that_is_too_old(tmp_path: Path) -> None:
    path, fake = micro(tmp_path / "micro.onnx"), shared_library(tmp_path, TOO_OLD)
    assert_refused(
        "LIT_WRONG_VERSION", f"{fake} is ONNX Runtime 1.16.3, which is too old", opens(path, backend_library=fake)
    )


def test_other_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, other = micro(tmp_path / "micro.onnx"), shared_library(tmp_path, "int nothing;")
    assert_refused("LIT_WRONG_VERSION", f"{other} is no ONNX Runtime", opens(path, backend_library=other))
    assert_refused("LIT_WRONG_VERSION", f"cannot load {other}", opens(path, operator_library=other))
    text = tmp_path / "text.so"
    text.write_text("no library")
    assert_refused("LIT_LIBRARY_NOT_FOUND", f"{text}.*(invalid ELF|too short)", opens(path, backend_library=text))
    monkeypatch.setenv("LIT_DEPLOY_LIBRARY", "/nowhere/op.so")
    assert_refused("LIT_LIBRARY_NOT_FOUND", "/nowhere/op.so", opens(path))
    opens(path, operator_library="")()  # left out: nobody looks
    monkeypatch.setenv("LIT_DEPLOY_ONNXRUNTIME", "/nowhere/ort.so")
    assert_refused("LIT_LIBRARY_NOT_FOUND", "/nowhere/ort.so", opens(path, operator_library=""))


@needs_library
def test_the_operator_library_is_found_where_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = micro(tmp_path / "micro.onnx")
    with opened(path, operator_library=find_library()) as model:
        assert model.info.backend.endswith(b"(lit-deploy kernel)")
    monkeypatch.setenv("LIT_DEPLOY_LIBRARY", str(find_library()))
    with opened(path) as model:
        assert model.info.backend.endswith(b"(lit-deploy kernel)")
    with opened(path, operator_library="") as model:
        assert model.info.backend.endswith(b"(built-in function)")
    portable = micro(tmp_path / "portable.onnx", micro_manifest(portable=True))
    with opened(portable) as model:
        assert model.info.backend.endswith(b"(inlined)")


NOTHING_FOUND = """
import sys
from support.runtime_library import Failure
from support.runtime_models import opened
try:
    with opened(sys.argv[1]): print("opened")
except Failure as failure:
    print(failure.status, failure)
"""


def test_no_onnxruntime_at_all(tmp_path: Path) -> None:
    """Beside the library itself, then by the linker; a fresh process, because a loaded one would be found again."""
    if ctypes.util.find_library("onnxruntime"):
        pytest.skip("this system has an ONNX Runtime on the linker's path")
    library, path = tmp_path / LIBRARY.name, micro(tmp_path / "micro.onnx")
    shutil.copy(LIBRARY, library)
    said = in_new_process(NOTHING_FOUND, path, LIT_DEPLOY_RUNTIME=str(library))
    assert said.startswith("LIT_LIBRARY_NOT_FOUND ONNX Runtime could not be loaded (searched ")
    for searched in (tmp_path / "libonnxruntime.so.1", tmp_path / "libonnxruntime.so", " libonnxruntime.so.1:"):
        assert str(searched) in said
    (tmp_path / "libonnxruntime.so.1").symlink_to(str(find_onnxruntime_library()))
    assert in_new_process(NOTHING_FOUND, path, LIT_DEPLOY_RUNTIME=str(library)) == "opened\n"


LINKER = """
import os, sys
os.chdir(sys.argv[2])
from support.runtime_library import Failure
from support.runtime_models import opened
fields = {"backend_library": sys.argv[3]} if len(sys.argv) > 3 else {}
try:
    with opened(sys.argv[1], **fields): print("opened")
except Failure as failure:
    print(failure.status, failure)
"""


@pytest.mark.parametrize("by", ["variable", "option"])
def test_a_bare_name_is_the_linkers_to_find(by: str, tmp_path: Path) -> None:
    """Never a file of the current folder, whoever put it there; what has a slash is a path."""
    path, fake = micro(tmp_path / "micro.onnx"), shared_library(tmp_path, TOO_OLD)

    def said(name: str, **environment: str) -> str:
        option = [name] if by == "option" else []
        named = {"LIT_DEPLOY_ONNXRUNTIME": name} if by == "variable" else {}
        return in_new_process(LINKER, path, tmp_path, *option, **named, **environment)

    assert said(fake.name).startswith("LIT_LIBRARY_NOT_FOUND ONNX Runtime could not be loaded (searched libfake.so:")
    assert said(f"./{fake.name}").startswith("LIT_WRONG_VERSION ./libfake.so is ONNX Runtime 1.16.3")
    assert said(fake.name, LD_LIBRARY_PATH=str(tmp_path)).startswith("LIT_WRONG_VERSION libfake.so is ONNX Runtime")


OPERATORS = """
import os, sys
os.chdir(sys.argv[2])
from support.runtime_library import Failure
from support.runtime_models import opened
try:
    with opened(sys.argv[1], operator_library=sys.argv[3]) as model: print(model.info.backend.decode())
except Failure as failure:
    print(failure.status, failure)
"""


@needs_library
def test_so_is_a_bare_name_of_an_operator_library(tmp_path: Path) -> None:
    path, library = micro(tmp_path / "micro.onnx"), Path(str(find_library()))
    backend = {"LIT_DEPLOY_ONNXRUNTIME": str(find_onnxruntime_library())}
    said = in_new_process(OPERATORS, path, library.parent, library.name, **backend)
    assert said.startswith("LIT_LIBRARY_NOT_FOUND the lit-deploy operator library was not found (searched liblit")
    said = in_new_process(OPERATORS, path, tmp_path, library.name, LD_LIBRARY_PATH=str(library.parent), **backend)
    assert said.endswith("(lit-deploy kernel)\n")


TELEMETRY = """
import os, sys
from support.runtime_models import opened
kept = ("PATH", "HOME", "XDG_CACHE_HOME", "https_proxy", "LIT_DEPLOY_ONNXRUNTIME")
for name in set(os.environ) - set(kept):
    del os.environ[name]  # it is also quiet where a variable speaks of CI
if len(sys.argv) > 2:
    os.environ["ORT_DISABLE_TELEMETRY"] = sys.argv[2]
with opened(sys.argv[1]):
    pass
"""


def test_onnxruntime_writes_no_telemetry(tmp_path: Path) -> None:
    """Of 1.31 an identifier and a database in the user's cache, unless it is told not to; who asks for it gets it."""
    path, written = micro(tmp_path / "micro.onnx"), {}
    for case, setting in {"asked for": ["0"], "left alone": []}.items():
        home = tmp_path / case
        home.mkdir()
        in_new_process(
            TELEMETRY,
            path,
            *setting,
            LIT_DEPLOY_ONNXRUNTIME=str(find_onnxruntime_library()),
            HOME=str(home),
            XDG_CACHE_HOME=str(home / "cache"),
            https_proxy="http://127.0.0.1:9",  # where nobody listens: nothing is sent
        )
        written[case] = [file for file in home.rglob("*") if file.is_file()]
    assert written["left alone"] == []
    if not written["asked for"]:
        pytest.skip("this ONNX Runtime writes no telemetry")
