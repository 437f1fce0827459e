"""Files and programs that mean no good: the C runtime refuses them in words, soon, and outlives them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.exported import needs_library
from support.runtime_library import LIBRARY, ROOT, Failure, needs_runtime
from support.runtime_models import in_new_process, micro, needs_onnxruntime, opened

from lit_deploy.machine.native import find_onnxruntime_library

pytestmark = [needs_runtime, needs_onnxruntime, pytest.mark.usefixtures("backend")]

HEADER = ROOT / "plugins" / "runtime" / "include" / "lit_runtime.h"


def refusal(path: Path) -> Failure:
    """How opening a file fails; within ten seconds, whatever is in it."""
    answers: list[Failure] = []

    def open_it() -> None:
        try:
            with opened(path):
                pass
        except Failure as failure:
            answers.append(failure)

    thread = threading.Thread(target=open_it, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "it is still being opened"
    return answers[0]


def test_another_rank_than_declared(tmp_path: Path) -> None:
    """ONNX Runtime does not hold a graph to the rank it declares, where the rank depends on data."""

    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        for name, value in {"shape": [0, 0, 1], "ones": [1, 1, 1]}.items():
            graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [3], value))
        output = graph.node.pop().output[0]
        graph.node.extend(
            [
                helper.make_node("Shape", ["images"], ["sizes"]),
                helper.make_node("Gather", ["sizes", "zero"], ["count"]),
                helper.make_node("Mul", ["ones", "count"], ["mask"]),
                helper.make_node("NonZero", ["mask"], ["found"]),  # all three, which nobody knows beforehand
                helper.make_node("Squeeze", ["found", "zero"], ["indices"]),
                helper.make_node("Gather", ["shape", "indices"], ["wanted"]),
                helper.make_node("Reshape", ["first", "wanted"], [output]),
            ]
        )

    with opened(micro(tmp_path / "micro.onnx", change=change)) as model, model.context() as context:
        with pytest.raises(Failure, match="results of another size") as failure:
            context.run(np.zeros((2, 3, 4, 4), np.float32))
        assert failure.value.status == "LIT_RUN_FAILED"


@pytest.mark.parametrize("unit", ["[", "[0,", '{"a":'])
def test_a_manifest_of_megabytes_is_not_parsed(unit: str, tmp_path: Path) -> None:
    """Nested lists of 60 MiB would take gigabytes."""

    def change(model: onnx.ModelProto) -> None:
        model.metadata_props[0].value = unit * (5 * 2**20 // len(unit))

    failure = refusal(micro(tmp_path / "micro.onnx", change=change))
    assert failure.status == "LIT_BAD_MODEL"


@pytest.mark.parametrize(
    "label", ["", "  ", "a\nb", "\x1b[31mred", "\x7f", "a\x9b31m", "a\u2028b", "\u202egnp", "a\u2066"]
)
def test_labels_that_command_a_terminal(label: str, tmp_path: Path) -> None:
    """The rule is that of lit-deploy, which refuses them, too."""

    def change(model: onnx.ModelProto) -> None:
        document = json.loads(model.metadata_props[0].value)
        document["labels"][0] = label
        model.metadata_props[0].value = json.dumps(document)

    failure = refusal(micro(tmp_path / "micro.onnx", change=change))
    assert (failure.status, "a label is blank or has control characters" in str(failure)) == ("LIT_BAD_MODEL", True)


def test_millions_of_fields(tmp_path: Path) -> None:
    path = tmp_path / "fields.onnx"
    path.write_bytes(b"\x08\x00" * 2**23)
    assert refusal(path).status == "LIT_BAD_MODEL"


@pytest.mark.parametrize("name", ["pipe.onnx", "pipe.engine"])
def test_a_pipe_is_no_file(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    assert refusal(tmp_path / name).status in ("LIT_FILE_ERROR", "LIT_NOT_SUPPORTED")  # the latter without TensorRT


CANCELLED = r"""
#include <pthread.h>
#include <stdio.h>
#include <lit_runtime.h>

static const char* path;

static void* open_and_close(void* unused) {
  for (;;) {
    lit_model* model = NULL;
    if (lit_model_open(path, NULL, &model) != LIT_OK) return unused;
    lit_model_close(model);
    pthread_testcancel();
  }
}

int main(int count, char** words) {
  path = words[count - 1];
  for (int i = 0; i < 20; ++i) {
    pthread_t thread;
    void* result = NULL;
    pthread_create(&thread, NULL, open_and_close, NULL);
    pthread_cancel(thread);
    pthread_join(thread, &result);
    if (result != PTHREAD_CANCELED) return 1;
  }
  return puts("alive") < 0;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: apt-get install gcc")
def test_a_cancelled_thread_ends_after_the_call(tmp_path: Path) -> None:
    (tmp_path / "cancel.c").write_text(CANCELLED)
    program, folder = tmp_path / "cancel", LIBRARY.resolve().parent
    command = ["cc", f"-I{HEADER.parent}", tmp_path / "cancel.c", "-o", program, "-pthread", f"-L{folder}"]
    subprocess.run([*command, "-llit_deploy_runtime", f"-Wl,-rpath,{folder}"], check=True)
    done = subprocess.run([program, micro(tmp_path / "micro.onnx")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done


UNLOADED = """
import _ctypes, ctypes, os, sys
library = ctypes.CDLL(sys.argv[1])
_ctypes.dlclose(library._handle)
ctypes.CDLL(sys.argv[1], mode=os.RTLD_NOLOAD | os.RTLD_NOW)  # fails if it is gone
"""


def test_the_library_stays_loaded() -> None:
    """What it loads keeps pointers into it."""
    in_new_process(UNLOADED, LIBRARY)


MOVED = """
import os, sys
os.chdir(sys.argv[1])
import support.runtime_library as runtime_library
from pathlib import Path
runtime_library.LIBRARY = Path(sys.argv[2])  # relative, as on a relative LD_LIBRARY_PATH
runtime_library.runtime()
os.chdir("/")
from support.runtime_models import opened
with opened(sys.argv[3]) as model:
    print(model.info.backend.decode())
"""


@needs_library
def test_its_folder_is_where_it_was_loaded_from(tmp_path: Path, checkpoint_file: Callable[[str], Path]) -> None:
    from support.exported import export_of

    file = export_of(checkpoint_file("tiny"))
    folder = LIBRARY.resolve().parent
    said = in_new_process(
        MOVED,
        folder.parent,
        f"{folder.name}/{LIBRARY.name}",
        file,
        LIT_DEPLOY_ONNXRUNTIME=str(find_onnxruntime_library()),
    )
    assert "(lit-deploy kernel)" in said


def test_the_file_name_carries_the_abi() -> None:
    (abi,) = re.findall(r"^#define LIT_ABI_VERSION (\d+)$", HEADER.read_text(), flags=re.MULTILINE)
    assert LIBRARY.with_name(f"{LIBRARY.name}.{abi}").resolve() == LIBRARY.resolve()
