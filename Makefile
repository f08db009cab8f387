# make demo    trains, converts, verifies and measures aa_cnn3_digits in a new folder under demo/
# make test    runs the tests             make check   lints, formats, types, and builds the documentation
# make test-slow   runs those that take long: every zoo model, the pages, the compiler, several processes
# make docs    builds the documentation, warnings being errors, into docs/_build/html
# make docs-output   runs the commands that the pages show, and writes what they print now into the pages
# make web     installs onnxruntime-web with npm; `make test` then runs exports in it too, and pages where a browser is
# make costs   counts anew what the zoo's networks cost, after a model.toml has changed
# make wheel   builds the wheel           make clean   removes the environment, onnxruntime-web and the demo folders

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt
WEB    := examples/05_run_elsewhere/web

.PHONY: demo test test-slow check docs docs-output web costs wheel clean

demo: $(VENV)/.installed
	$(BIN)/python examples/02_train_to_latency/demo.py --out demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/typed_calls.py
	$(MAKE) docs

docs: $(VENV)/.installed-dev
	$(BIN)/python -m sphinx -q -W --keep-going -n -b html docs docs/_build/html

docs-output: $(VENV)/.installed-dev
	$(BIN)/python docs/console.py $(PAGES)

web: $(WEB)/node_modules/.installed

$(WEB)/node_modules/.installed: $(WEB)/package.json
	npm install --prefix $(WEB) --no-package-lock --no-audit --no-fund --ignore-scripts
	@touch $@

costs: $(VENV)/.installed
	$(BIN)/python -m aaexport.pipeline.subject.costs

wheel: $(VENV)/.installed-dev
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing aaexport and what it stands on into $(VENV): some minutes the first time"
	$(INSTALL) --editable '.[demo]'
	@touch $@

# The engine of `aaexport serve` asks for an older NumPy, for code that is never imported; its wheel is for Linux on x86-64.
# Triton's own client, by which the tests ask it too, asks for an older ml_dtypes, and does with ours.
# The tests that need it skip where it is not installed, and say so.
$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) --editable '.[dev]'
	$(INSTALL) --no-deps nvidia-pytriton==0.7.0 tritonclient==2.73.0 || echo "no engine for aaexport serve: its live tests will skip"
	@touch $@

clean:
	rm -rf $(VENV) demo dist docs/_build $(WEB)/node_modules
