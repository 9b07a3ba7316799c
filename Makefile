# make demo    real hare and lynx counts with holes: a posterior table, hare_lynx_posterior.nc, hare_lynx.png
# make test    the tests (the long ones: pytest -m slow)            make lint    ruff and mypy            make clean    removes .venv
# make docs    the documentation as a site: build/docs/index.html
# Each sets up .venv first, once; it is set up again when pyproject.toml or constraints.txt changes.

.DEFAULT_GOAL := test
.PHONY: demo test lint docs clean

VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt

# the first interpreter that runs and is new enough: a name on the PATH may be a shim for a version that is not there
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)

demo: $(STAMP)
	$(BIN)/python examples/hare_lynx.py

test: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow and not gpu"

lint: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

docs: $(STAMP)
	$(PIP) --no-build-isolation -e '.[docs]'
	$(BIN)/python -m sphinx -q -W --keep-going docs build/docs
	@echo "build/docs/index.html"

clean:
	rm -rf $(VENV)

# torch comes first: its pinned version decides which of numpy, sympy and the rest pip considers at all.
# setuptools is installed beforehand so that the build uses the pinned one (--no-build-isolation).
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "fsimformer needs Python 3.11 or newer; none found. Set one: make PYTHON=/path/to/python3" >&2; exit 2; }
	@$(BIN)/python -c 'import pip' 2>/dev/null || { echo "setting up $(VENV) with $(PYTHON) (some minutes, once)"; $(PYTHON) -m venv --clear $(VENV); }
	$(PIP) setuptools torch==2.13.0
	$(PIP) --no-build-isolation -e '.[test]'
	@touch $@
