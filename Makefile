# Everything a newcomer needs: `make demo` and `make test` on a machine with Python >= 3.11, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export OMP_NUM_THREADS ?= 1

.PHONY: demo test check science stress bench docs clean

demo: $(READY)
	$(BIN)/crypsis demo $(ARGS)

test: $(READY) check
	$(BIN)/python -m pytest -m "not science and not stress" -n 2 --dist loadfile $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

science: $(READY)
	$(BIN)/python -m pytest -m science $(ARGS)

stress: $(READY)
	$(BIN)/python -m pytest -m stress -s $(ARGS)

bench: $(READY)
	$(BIN)/python -m benchmarks $(ARGS)
	$(BIN)/python -m benchmarks.release $(ARGS)
	$(BIN)/python -m benchmarks.report $(ARGS)

docs: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python -m docs.tables
	$(BIN)/mkdocs build --strict

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "crypsis needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs
