# make demo and make test do all their set-up themselves: virtual environment, packages, native library.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TEST_JOBS ?= 2
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
LIBRARY := build/native/liblit_deploy_onnxruntime.so
NATIVE_SOURCES := $(shell find plugins -type f)

.PHONY: help demo test lint native bench gpu docs contract clean
help:
	@echo "make demo    export, verify, evaluate and measure the example models"
	@echo "make test    lint, type check and run every test"
	@echo "make native  build the native libraries and the C++ tests; TensorRT_ROOT=... for the TensorRT plugin"
	@echo "make bench   write benchmarks/results/*"
	@echo "make gpu     run and measure all that this machine's GPU can, with PYTHON=... of a PyTorch for CUDA"
	@echo "make docs    write docs/cli.md from the command line's own help"
	@echo "make contract  write plugins/contract.h and the JSON Schemas from what Python says"
	@echo "make clean   remove what was built"

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip -c constraints.txt
	$(BIN)/python -m pip install --quiet cmake hatch-fancy-pypi-readme ninja scikit-build-core -c constraints.txt
	@# The native library is built below, where a rebuild is incremental.
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -C wheel.cmake=false -C editable.mode=inplace -e '.[export,ort,openvino,rtx,plot,evaluate,parquet,https,ray,test]'
	@touch $@

$(LIBRARY): $(VENV)/.installed $(NATIVE_SOURCES)
	$(MAKE) native

# Always asked, as TensorRT_ROOT may have changed; what is up to date is not built again.
native: $(VENV)/.installed
	$(BIN)/cmake -S plugins -B build/native -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DCMAKE_BUILD_TYPE=Release
	$(BIN)/cmake --build build/native -j $(JOBS)
	@# Without ONNX Runtime's headers there is no library; the build has said so and everything else goes on.
	@test ! -e $(LIBRARY) || touch $(LIBRARY)

demo: $(LIBRARY)
	PATH="$(abspath $(BIN)):$$PATH" bash examples/demo.sh

# CUDA kernels as machine code for two generations and as PTX, which runs on all of them: the rest takes minutes.
test: export CUDAARCHS ?= 80;120-real
test: lint $(LIBRARY)
	@# Two at a time: a test rarely keeps more than one core busy. A file stays with one worker, as its fixtures do.
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(LIBRARY)
	$(BIN)/python benchmarks/merging.py
	$(BIN)/python benchmarks/latency.py
	$(BIN)/python benchmarks/precision.py
	$(BIN)/python benchmarks/back_ends.py
	$(BIN)/python benchmarks/attention.py
	$(BIN)/python benchmarks/detection_operators.py
	$(BIN)/python benchmarks/dense.py
	$(BIN)/python benchmarks/embedding.py
	$(BIN)/python benchmarks/predict.py
	$(BIN)/python benchmarks/score.py

gpu:
	$(PYTHON) benchmarks/gpu.py

docs: $(VENV)/.installed
	$(BIN)/typer lit_deploy.cli utils docs --name lit-deploy --output docs/cli.md

contract: $(VENV)/.installed
	$(BIN)/python -m lit_deploy.artifacts.contract

clean:
	rm -rf build demo $(VENV)
