# make book   runs every notebook and builds the HTML book
# make test   lint, unit tests, doctests, notebook tests and book checks
# make test-all   what takes minutes: whole runs, killed ones
# make fuzz   damaged files, killed trainings and nonsense commands by the thousand
# make test-backends   unit tests and doctests with TensorFlow, JAX and torch
# They set up their own virtual environment first; nothing else is needed but Python 3.11-3.13.
#
# Kept to what GNU Make 3.81 (macOS) understands.

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
# The first interpreter of a fitting version; a pyenv shim may exist and yet not run, so each is tried.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c "$(SUPPORTED)" 2>/dev/null && echo "$$p" && break; done)

# Parameters for the notebooks of `make book`: make book PARAMS="-p profile paper -p seed 1"
PARAMS ?=
# Processes that `make test` and `make book` use at once.
JOBS ?= 2

BIN := .venv/bin
SETUP := .venv/package.stamp
# The environment with JAX and torch as well.
BACKENDS_BIN := .venv-backends/bin
BACKENDS_SETUP := .venv-backends/package.stamp
HTML := build/book/_build/html
LIBRARY := $(shell find laperm_lib -name '*.py' 2>/dev/null)
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
EXECUTED := $(NOTEBOOKS:%=build/source/%)
# A jobs flag given to make holds for the sub-make too.
PARALLEL = $(if $(filter -j%,$(MAKEFLAGS)),,-j$(JOBS))

export TF_CPP_MIN_LOG_LEVEL := 3
# As laperm_lib asks it where it comes first.
export TF_ENABLE_ONEDNN_OPTS ?= 1
# A profile of our own leaves the user's out of the notebooks.
export IPYTHONDIR := $(CURDIR)/build/ipython
KERNEL_CONFIG := build/ipython/profile_default/ipython_kernel_config.py
# Run in each kernel before the first cell; leaves no name and no value behind.
RUN := __import__("runpy").run_path("$(CURDIR)/tests/data_without_autotuning.py") and None

# Or each of a hundred processes would compile Keras anew.
unexport PYTHONDONTWRITEBYTECODE

.DELETE_ON_ERROR:
.PHONY: help setup book executed test test-all tests fuzz test-backends smoke-backends unit lint notebooks bench lock clean FORCE

help:
	@sed -n 's/^# make/make/p' Makefile
	@echo "other targets: setup unit tests test-backends smoke-backends lint notebooks bench lock clean"

# Runs a command, of which the terminal shows the name $(1) and the seconds; or what went wrong.
logged = mkdir -p build/log; since=$$(date +%s); log=build/log/$(1).log; \
    if $(2) > $$log 2>&1; then echo "$(1): $$(($$(date +%s) - since)) s"; \
    else tail -n 30 $$log; echo "$(1) failed: all that it printed is in $(CURDIR)/$$log"; exit 1; fi

# --- Set-up ------------------------------------------------------------------------------------

setup: $(SETUP)

$(KERNEL_CONFIG): tests/data_without_autotuning.py Makefile
	@mkdir -p $(@D)
	@echo 'c.IPKernelApp.capture_fd_output = False' > $@  # RUN imports TensorFlow before any cell
	@echo 'c.InteractiveShellApp.exec_lines = ["""$(RUN)"""]' >> $@

# A virtual environment with what a lock says, which is complete; tf-keras would ask for the tensorflow
# that tensorflow-cpu stands for. Nothing is installed that has not the hash it had when it was locked,
# but torch, of which there are many builds. uv takes a tenth of pip's time, but knows nothing of pip's
# settings (a mirror, say): where it fails it is pip.
LOCKED := --disable-pip-version-check --root-user-action ignore -qq --no-deps --require-hashes -r
# uv itself, in the virtual environment $(1).
install_uv = sed -n '/^uv==/,/[^\\]$$/p' requirements.txt > $(1)/uv.txt && \
    $(1)/bin/python -m pip install $(LOCKED) $(1)/uv.txt
define environment
@test -n "$(PYTHON)" || { echo "No Python 3.11-3.13 found (tried python3, python3.13, python3.12," \
    "python3.11). Install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
@"$(PYTHON)" -c "$(SUPPORTED)" || { echo "$(PYTHON) is $$("$(PYTHON)" --version 2>&1), but Python" \
    "3.11-3.13 is needed. Name another: make PYTHON=/path/to/python3.12" >&2; exit 1; }
@echo "Setting up $(@D), which takes a minute or more."
@"$(PYTHON)" -m venv --clear $(@D)
@echo '*' > $(@D)/.gitignore
@sed '/^torch==/,/[^\\]$$/d' $< > $(@D)/requirements.txt
@{ $(call install_uv,$(@D)) && $(@D)/bin/uv pip install --system-certs --quiet \
    --python $(@D)/bin/python --no-deps --require-hashes -r $(@D)/requirements.txt; } || \
    $(@D)/bin/python -m pip install $(LOCKED) $(@D)/requirements.txt
endef

.venv/requirements.stamp: requirements.txt
	$(environment)
	@touch $@

# Where the torch was built for CUDA, it needs more than the lock holds.
.venv-backends/requirements.stamp: tests/requirements-backends.txt
	$(environment)
	grep == $< | tr -d '\\' > $(@D)/constraints.txt  # where there are hashes, pip wants them of all
	$(BACKENDS_BIN)/python -m pip install --disable-pip-version-check --quiet torch \
	    -c $(@D)/constraints.txt
	@touch $@

$(SETUP) $(BACKENDS_SETUP): %/package.stamp: %/requirements.stamp pyproject.toml
	@$(@D)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps \
	    --no-build-isolation --root-user-action ignore --editable .
	@touch $@

# --- Book --------------------------------------------------------------------------------------

book: $(SETUP)
	@$(MAKE) --no-print-directory $(PARALLEL) executed
	@cp -R book/. build/source/
	@$(call logged,pages,$(BIN)/jupyter-book build build/source --path-output build/book -W -n \
	    --keep-going --all)
	@echo "The book is at $(CURDIR)/$(HTML)/index.html"

executed: $(EXECUTED)

# Runs in build/running and is moved when it has ended well, so that a failed notebook is never taken
# for a finished one; what it had produced up to the error stays in build/running to be read.
build/source/notebooks/%.ipynb: notebooks/%.ipynb build/params $(LIBRARY) $(SETUP) $(KERNEL_CONFIG)
	@mkdir -p build/running build/source/notebooks
	@$(call logged,$*,$(BIN)/papermill --no-progress-bar --cwd notebooks --kernel python3 $(PARAMS) \
	    $< build/running/$*.ipynb)
	@mv build/running/$*.ipynb $@

# Changes only when PARAMS does, which makes every notebook run again.
build/params: FORCE
	@mkdir -p build
	@echo '$(PARAMS)' | cmp -s - $@ || echo '$(PARAMS)' > $@

# Runs the committed notebooks in place, with the parameters written in them, and keeps of their
# metadata what is not of this machine.
notebooks: $(SETUP) $(KERNEL_CONFIG)
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace \
	    --ExecutePreprocessor.record_timing=False --ExecutePreprocessor.kernel_name=python3 \
	    --NotebookExporter.preprocessors=nbconvert.preprocessors.CoalesceStreamsPreprocessor \
	    --ClearMetadataPreprocessor.enabled=True \
	    --ClearMetadataPreprocessor.preserve_nb_metadata_mask=kernelspec \
	    --ClearMetadataPreprocessor.preserve_nb_metadata_mask=language_info \
	    --ClearMetadataPreprocessor.preserve_cell_metadata_mask=tags \
	    --ClearMetadataPreprocessor.preserve_cell_metadata_mask=mystnb \
	    $(NOTEBOOKS)

# --- Tests -------------------------------------------------------------------------------------

# What takes longest comes first, so that no process is left alone with it in the end.
test: $(SETUP)
	@$(MAKE) --no-print-directory $(PARALLEL) lint tests

tests: $(SETUP) $(KERNEL_CONFIG)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slow" \
	    --nbval --nbval-current-env tests/test_notebooks.py tests/test_browser.py \
	    notebooks tests laperm_lib

test-all: $(SETUP)
	$(BIN)/python -m pytest -n $(JOBS) -m slow tests

# Some minutes; FUZZ="--seed 1 --files 10000" for others, FUZZ="--only files:123" for one case again.
fuzz: $(SETUP)
	$(BIN)/python tests/fuzz.py $(FUZZ)

unit: $(SETUP)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile laperm_lib tests \
	    --ignore tests/test_notebooks.py --ignore tests/test_book.py --ignore tests/test_browser.py \
	    -m "not slow"

# The unit tests and doctests with each backend, then the backends against each other. PyPI's
# torch for Linux brings CUDA along, gigabytes of it; PIP_EXTRA_INDEX_URL set to
# https://download.pytorch.org/whl/cpu takes the build without.
test-backends: $(BACKENDS_SETUP)
	@failed=; for backend in tensorflow jax torch; do echo "KERAS_BACKEND=$$backend"; \
	    KERAS_BACKEND=$$backend $(BACKENDS_BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow" \
	        laperm_lib tests --ignore tests/test_notebooks.py --ignore tests/test_book.py \
	        --ignore tests/test_browser.py --ignore tests/test_backends_agree.py || failed="$$failed $$backend"; \
	done; \
	$(BACKENDS_BIN)/python -m pytest tests/test_backends_agree.py || failed="$$failed agreement"; \
	test -z "$$failed" || { echo "Failed:$$failed" >&2; exit 1; }

# The heart of it, in minutes: LaPerm's algorithm, what the optimizers share, the backends agreeing.
HEART := not test_laperm or (follows_algorithm_1 and not jit_compile)
smoke-backends: $(BACKENDS_SETUP)
	for backend in jax torch; do KERAS_BACKEND=$$backend $(BACKENDS_BIN)/python -m pytest \
	    -n $(JOBS) -k "$(HEART)" tests/test_laperm.py tests/test_permuting.py tests/test_backend.py \
	    || exit 1; \
	done
	$(BACKENDS_BIN)/python -m pytest -m "not slow" tests/test_backends_agree.py tests/test_torch.py

lint: $(SETUP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# --- Benchmarks --------------------------------------------------------------------------------

# Some 20 minutes on an otherwise idle machine; writes benchmarks/results.md anew. A process for each file,
# so that no measurement has to do with the memory that the one before has left.
bench: $(SETUP)
	@rm -rf build/benchmarks && mkdir -p build/benchmarks
	@for file in benchmarks/test_*.py; do \
	    $(BIN)/python -m pytest $$file \
	        --benchmark-json build/benchmarks/$$(basename $$file .py).json || exit 1; \
	done
	$(BIN)/python benchmarks/table.py build/benchmarks/*.json benchmarks/results.md
	@cat benchmarks/results.md

# --- Upkeep ------------------------------------------------------------------------------------

# Keeps the pins that still fit; `make lock LOCK_FLAGS=--upgrade` takes the newest versions. The second
# lock has what the tests need, at the versions of the first, and the other backends.
COMPILE := UV_CUSTOM_COMPILE_COMMAND="make lock" build/lock/bin/uv pip compile pyproject.toml \
    --universal --python-version 3.11 --extra paper --extra tensorflow --group dev \
    --generate-hashes --no-annotate --no-emit-index-url --quiet
lock:
	"$(PYTHON)" -m venv --clear build/lock
	$(call install_uv,build/lock)
	$(COMPILE) $(LOCK_FLAGS) --extra docs --output-file requirements.txt
	$(COMPILE) $(LOCK_FLAGS) --group backends --constraint requirements.txt \
	    --output-file tests/requirements-backends.txt

clean:
	rm -rf build .venv .venv-backends .pytest_cache .mypy_cache .ruff_cache .hypothesis
