# A bare machine needs Python >= 3.12, git and make. Everything else goes into .venv, at the versions in constraints.txt.
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RUN := runs/eight_schools

# Bytecode is compiled once, not by every process that the tests start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test slow lint format docs bench clean

help: ## what can be asked for
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## install everything into .venv (done once, redone when pyproject.toml or constraints.txt change)
	@echo "$(VENV) is ready"

demo: $(READY) ## sample the eight schools and write tables, plots and a report
	$(BIN)/qdesampler sample models/eight_schools --warmup 1000 --draws 2000 --out $(RUN) --overwrite --allow-bad
	@echo "The report is $(CURDIR)/$(RUN)/report.html"

test: $(READY) ## the tests, without the slow ones
	$(BIN)/pytest -m "not slow" -n 2 --dist worksteal --durations=20

slow: $(READY) ## the slow tests
	$(BIN)/pytest -m slow --durations=20

lint: $(READY) ## formatting, lint rules, static types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: $(READY) ## rewrite the files as `make lint` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY) ## the documentation as pages and notebooks, with the pictures of the gallery; warnings are errors
	$(BIN)/python docs/gallery.py
	$(BIN)/sphinx-build -q -a -W --keep-going -b html docs build/docs
	@echo "The documentation is $(CURDIR)/build/docs/index.html"

bench: $(READY) ## a short benchmark of QDE against its peers, which are installed first
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt \
		--build-constraint constraints.txt --editable '.[all,bench]'
	$(BIN)/python -m qdesampler.bench --kernels all

clean: ## remove the environment, caches and runs
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis dist build figures runs docs/measured docs/tutorials docs/gallery docs/api/names.md

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || for candidate in $(PYTHON) python3.12 python3.13 python3.14 python3; do \
		$$candidate -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null || continue; \
		echo "Making $(VENV) with $$($$candidate --version) ($$candidate)"; \
		$$candidate -m venv $(VENV) && break; \
		rm -rf $(VENV); \
		echo "$$candidate -m venv failed (on Debian and Ubuntu install python3-venv)" >&2; exit 1; \
	done
	@test -x $(BIN)/python || { \
		echo "qdesampler needs Python 3.12 or newer: none of python3.12, python3.13, python3.14, python3 is one." >&2; \
		echo "Install it, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt \
		--build-constraint constraints.txt --editable '.[all]' --group dev
	@touch $(READY)
