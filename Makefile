# edge-lab: `make run` takes a real model to every runtime, `make test` checks everything.
# Works with GNU make 4 and with the make 3.81 that macOS ships. Variables:
#   PYTHON=python3.12       the interpreter that .venv is made from (3.10 to 3.13)
#   TORCH_INDEX=<url>       take torch and torchvision from this index, for example PyTorch's CPU builds
#   WORKERS=2               processes that `make test` uses
#   SECONDS=600 SEED=0      how long `make fuzz` runs, and on which networks
#   LOCK_FLAGS=--upgrade    let `make lock` take newer versions of everything that is not pinned exactly

PYTHON  ?= python3
WORKERS ?= 2
UV      ?= uv
NAMES   ?=
SECONDS ?= 600
SEED    ?= 0
SUDO    ?= $(shell test "$$(id -u)" = 0 || echo sudo)
NATIVE  := chromium fonts-dejavu-core g++ clang libclang-rt-dev libjpeg62-turbo-dev libpng-dev nlohmann-json3-dev \
           strace
ARM     := g++-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static openssh-server openssh-client shellcheck \
           gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm
SPEECH  := flite festival festvox-kdlpc16k festvox-us-slt-hts festvox-suopuhe-lj festvox-suopuhe-mv \
           festvox-czech-dita festvox-czech-krb festvox-czech-machac festvox-czech-ph festvox-italp16k
BIN     := .venv/bin
STAMP   := .venv/.installed

# The accelerator half of the lock: not wanted when TORCH_INDEX brings another build of PyTorch.
TORCH_LINES := ^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==

.PHONY: help install torch-pins run lab labs test native-tools arm-tools speech-tools runner runner-aarch64 report coverage fuzz lint format lock clean distclean
.DEFAULT_GOAL := help

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-16s %s\n", $$1, $$2}'

install: $(STAMP) ## create .venv from the lock (run, test and lab do it by themselves)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 13) else \
	  "edge-lab needs Python 3.10 to 3.13; $(PYTHON) is %d.%d. Name another one: make run PYTHON=python3.11" % v)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; echo \
	  "No virtual environment could be made. On Debian or Ubuntu: sudo apt install python3-venv"; exit 1; }
ifdef TORCH_INDEX
	@grep -Ev '$(TORCH_LINES)' requirements.lock > .venv/lock-without-torch.txt
	$(BIN)/python -m pip install --no-deps --index-url $(TORCH_INDEX) $$(grep -E '^torch(vision)?==' requirements.lock)
	$(BIN)/python -m pip install -r .venv/lock-without-torch.txt
else
	$(BIN)/python -m pip install -r requirements.lock
endif
	$(BIN)/python -m pip install --no-deps -e .
	@touch $(STAMP)

torch-pins: # prints the lock without PyTorch and its CUDA libraries
	@grep -Ev '$(TORCH_LINES)' requirements.lock

run: $(STAMP) ## one real model to every runtime; writes artifacts/report.html
	$(BIN)/edge-lab run efficientnet_lite0 --out artifacts --report artifacts/report.html

lab: $(STAMP) ## open JupyterLab at the syllabus
	@mkdir -p .venv/share/jupyter/lab/settings
	@cp tools/jupyterlab.json .venv/share/jupyter/lab/settings/overrides.json
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/labs/README.md --LabApp.extension_manager=readonly

labs: $(STAMP) ## run the labs again and store their outputs; NAMES="00_start_here" for some of them
	$(BIN)/python tools/labs.py execute $(NAMES)

test: $(STAMP) ## every test: package, labs under nbval, take-home cells, faults
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest labs tests --nbval-lax --nbval-current-env \
	  --nbval-cell-timeout 300 -n $(WORKERS) --dist loadscope

report: $(STAMP) ## render artifacts/report.html again from the last run
	$(BIN)/edge-lab report artifacts --out artifacts/report.html

native-tools: ## Debian or Ubuntu: what the browser tests and the C++ parts need (asks for root)
	@command -v apt-get > /dev/null || { echo "native-tools knows apt only; the list of packages is in the Makefile"; exit 1; }
	$(SUDO) apt-get update -q
	$(SUDO) apt-get install -q -y --no-install-recommends $(NATIVE)

runner: $(STAMP) ## build the C++ runner to rpi/runner/build (needs native-tools), installed copy in rpi/runner/build/dist
	$(BIN)/cmake -S rpi/runner -B rpi/runner/build -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	  -Dexecutorch_DIR="$$($(BIN)/python -c 'import executorch; print(list(executorch.__path__)[0])')/share/cmake"
	$(BIN)/cmake --build rpi/runner/build --target all bench_overhead
	$(BIN)/cmake --install rpi/runner/build --prefix rpi/runner/build/dist

arm-tools: $(STAMP) ## Debian: what the Raspberry Pi and microcontroller parts need (asks for root), and rpi/build/aarch64
	@command -v apt-get > /dev/null || { echo "arm-tools knows apt only; the list of packages is in the Makefile"; exit 1; }
	$(SUDO) apt-get update -q
	$(SUDO) apt-get install -q -y --no-install-recommends $(ARM)
	$(BIN)/python rpi/fetch_aarch64.py

speech-tools: ## Debian or Ubuntu: programs that speak, for tools/make_speechnet.py (asks for root)
	@command -v apt-get > /dev/null || { echo "speech-tools knows apt only; the list of packages is in the Makefile"; exit 1; }
	$(SUDO) apt-get update -q
	$(SUDO) apt-get install -q -y --no-install-recommends $(SPEECH)

runner-aarch64: $(STAMP) ## the runner for a 64-bit Raspberry Pi (needs arm-tools), in rpi/runner/build-aarch64/dist
	$(BIN)/python rpi/fetch_aarch64.py
	$(BIN)/cmake -S rpi/runner -B rpi/runner/build-aarch64 -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	  -DCMAKE_TOOLCHAIN_FILE=$(CURDIR)/rpi/aarch64.cmake
	$(BIN)/cmake --build rpi/runner/build-aarch64
	$(BIN)/cmake --install rpi/runner/build-aarch64 --prefix rpi/runner/build-aarch64/dist --strip
	@mkdir -p rpi/runner/build-aarch64/dist/python && cp rpi/python/*.py rpi/runner/build-aarch64/dist/python/
	@cp rpi/install.sh rpi/edge-lab-listen rpi/edge-lab-listen.service rpi/runner/build-aarch64/dist/
	@du -sh rpi/runner/build-aarch64/dist/lib rpi/runner/build-aarch64/dist/bin

coverage: $(STAMP) ## fifty architectures in every format (about an hour; goes on where it was stopped); writes docs/coverage.md
	OMP_NUM_THREADS=1 $(BIN)/python tools/coverage.py run
	$(BIN)/python tools/coverage.py write

fuzz: $(STAMP) ## random small networks, right or refused; SECONDS=3600 SEED=1 (goes on where it was stopped)
	OMP_NUM_THREADS=1 $(BIN)/python tools/fuzz.py run --seconds $(SECONDS) --seed $(SEED)

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --allow-untyped-calls tools benchmarks labs/conftest.py

format: $(STAMP) ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(STAMP) ## resolve requirements.lock again (needs uv), then environment.yml
	@command -v $(UV) > /dev/null || { echo "uv is missing: pip install uv, or name it: make lock UV=/path/to/uv"; exit 1; }
	$(UV) pip compile --universal --python-version 3.10 --all-extras --no-header --no-annotate $(LOCK_FLAGS) \
	  pyproject.toml -o requirements.lock
	$(BIN)/python tools/env_yml.py write

clean: ## delete what the commands wrote; keeps .venv
	rm -rf artifacts build dist .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean ## delete .venv too, and what was fetched and built for boards
	rm -rf .venv rpi/build rpi/runner/build rpi/runner/build-*
