# Each target makes .venv by itself when it is missing. PYTHON picks the interpreter (3.10 or later).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV := $(shell command -v uv 2>/dev/null)
ifdef UV
MAKE_VENV = uv venv --python $(PYTHON) $(VENV)
INSTALL = uv pip install --python $(BIN)/python
else
MAKE_VENV = $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet --upgrade pip
INSTALL = $(BIN)/python -m pip install --quiet
endif

.PHONY: demo test lint docs bench gpu clean

demo: $(STAMP)
	$(BIN)/vpl demo --output vpl_demo

test: $(STAMP)
	@# A file's tests stay in one process, as they share fixtures; a thread each, as they share the cores.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# adapters/ is installed as vpl_plugin.adapters: mypy sees both where they lie so.
	rm -rf build/typed && mkdir -p build/typed/vpl_plugin
	ln -s $(CURDIR)/vpl_plugin/* $(CURDIR)/adapters build/typed/vpl_plugin/
	ln -s $(CURDIR)/tests/core/typed_calls.py build/typed/
	cd build/typed && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/setup.cfg vpl_plugin typed_calls.py

docs: $(VENV)/.docs
	@# Without --quiet, which hides from strict the warnings that it counts.
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "Open build/site/index.html"

bench: $(STAMP)
	$(BIN)/python benchmarks/solvers.py
	$(BIN)/python benchmarks/localization.py

gpu: $(STAMP)
	@$(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' \
		|| { echo "there is no CUDA device here; what runs on a CPU: make test, make bench" >&2; exit 1; }
	$(BIN)/python -m pytest -m cuda
	$(BIN)/python benchmarks/gpu.py --output docs/gpu.md

$(VENV)/.docs: $(STAMP)
	$(INSTALL) --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info vpl_demo

$(STAMP): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "vpl_plugin needs Python 3.10 or later; say which with: make PYTHON=python3.11" >&2; exit 1; }
	@echo "Setting up $(VENV) (torch is a large download: a few minutes)"
	test -x $(BIN)/python || { $(MAKE_VENV); }
	$(INSTALL) --editable '.[demo,test,dev]'
	@# The reference of the dense CRF's tests, where it builds; nothing else needs it.
	@$(INSTALL) --editable '.[crf]' >/dev/null 2>&1 \
		|| echo "pydensecrf2 does not build here: tests that compare with it will be skipped"
	touch $@
