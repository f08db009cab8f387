# make demo    trains, converts, verifies and measures aa_cnn3_digits in a new folder under demo/
# make test    runs the tests             make check   lints, formats, types
# make test-slow   runs those that take minutes: every zoo model, and the compiler
# make web     installs onnxruntime-web with npm; `make test` then runs exports in it too
# make costs   counts anew what the zoo's networks cost, after a model.toml has changed
# make wheel   builds the wheel           make clean   removes the environment, onnxruntime-web and the demo folders

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt
WEB    := examples/05_run_elsewhere/web

.PHONY: demo test test-slow check web costs wheel clean

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

web: $(WEB)/node_modules/.installed

$(WEB)/node_modules/.installed: $(WEB)/package.json
	npm install --prefix $(WEB) --no-package-lock --no-audit --no-fund --ignore-scripts
	@touch $@

costs: $(VENV)/.installed
	$(BIN)/python -m aaexport.pipeline.look.costs

wheel: $(VENV)/.installed-dev
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing aaexport and what it stands on into $(VENV): some minutes the first time"
	$(INSTALL) --editable '.[digits]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) demo dist $(WEB)/node_modules
