# Set-up, tests and the embedded example. Needs Python 3.11+, make and pip; everything is from PyPI.
#
#   make quickstart              pretrain, finetune, evaluate and report on the embedded data
#   make quickstart DATA=/path   the same, pretrained on a folder of your images
#   make quickstart-backbone     the same with a backbone alone: MoCo v2, then a Faster R-CNN
#   make test                    the quick tests      (make test-slow: the long ones)
#   make test PYTHON=/path/bin/python3                use (and install into) this interpreter
#
# Without PYTHON= a virtual environment .venv is made here.

SHELL := /bin/bash
WORKERS ?= 2
DATA ?=

ifeq ($(origin PYTHON), command line)
  PY := $(PYTHON)
  PREFIX := $(shell "$(PYTHON)" -c 'import sys; print(sys.prefix)')
else ifeq ($(origin PYTHON), environment)
  PY := $(PYTHON)
  PREFIX := $(shell "$(PYTHON)" -c 'import sys; print(sys.prefix)')
else
  PY := .venv/bin/python
  PREFIX := .venv
endif

# One stamp an environment and checkout: it lies in the environment, so that deleting the environment
# deletes the stamp, and names the checkout, since the package is installed from here.
STAMP := $(PREFIX)/.d2_unsupdet$(subst /,-,$(CURDIR)).stamp
INPUTS := setup.py constraints.txt d2_unsupdet/detectron2_edits.py d2_unsupdet/install_detectron2.py

.PHONY: quickstart quickstart-backbone test test-slow lint format types bench setup
.DEFAULT_GOAL := setup

setup: $(STAMP)

$(STAMP): $(INPUTS)
	@$(if $(filter .venv,$(PREFIX)),test -x $(PY) || $(MAKE) --no-print-directory .venv/bin/python)
	@"$(PY)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "d2_unsupdet needs Python 3.11 or newer, and $(PY) is older: pass PYTHON=/path/to/python3.11." >&2; exit 1; }
	@echo "Installing into $(PREFIX): PyTorch is 3 GB to fetch and 6 GB on disk, so the first time takes some minutes."
	"$(PY)" -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools wheel
	"$(PY)" -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	PIP_CONSTRAINT="$(CURDIR)/constraints.txt" "$(PY)" -m d2_unsupdet.install_detectron2
	@touch "$@"

.venv/bin/python:
	@for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "$$python -m venv .venv"; exec "$$python" -m venv .venv; fi; \
	done; echo "No Python 3.11 or newer was found: install one, or pass PYTHON=/path/to/python3.11." >&2; exit 1

quickstart: setup
	"$(PY)" tools/quickstart.py $(if $(DATA),--data "$(DATA)")

quickstart-backbone: setup
	"$(PY)" tools/quickstart.py --backbone $(if $(DATA),--data "$(DATA)")

test: setup
	"$(PY)" -m pytest -q -n $(WORKERS) --dist loadfile

test-slow: setup
	"$(PY)" -m pytest -q -m slow -n $(WORKERS) --dist loadfile || test $$? -eq 5  # 5: none found

lint: setup
	"$(PY)" -m ruff check .
	"$(PY)" -m ruff format --check .

format: setup
	"$(PY)" -m ruff check --fix .
	"$(PY)" -m ruff format .

types: setup
	"$(PY)" -m mypy

bench: setup
	@for script in $$(grep -l -e --quick benchmarks/*.py); do \
	  echo "== $$script --quick"; "$(PY)" "$$script" --quick || exit 1; done
