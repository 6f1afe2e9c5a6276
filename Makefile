# make train   a fresh machine to a trained model; make test   the whole suite; make check   format, lint, types, imports
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_TESTS := $(BIN)/python -m pytest

.PHONY: train test check slow crash fuzz bench docs golden clean help

help:
	@sed -n '1s/^# //p' Makefile

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

train: $(VENV)/installed
	$(BIN)/loopwright train

test: $(VENV)/installed
	$(RUN_TESTS) -n 2 -m "not slow" $(ARGS)

# The long proofs as CI runs them: 60 kills, every fault of a save, flips, signals.
slow: $(VENV)/installed
	$(RUN_TESTS) -m slow $(ARGS)

# 500 kills at random instants instead of 48.
crash: $(VENV)/installed
	LOOPWRIGHT_KILLS=500 $(RUN_TESTS) tests/crash -m slow --timeout 3600 $(ARGS)

# 10,000 examples of each property test instead of the few hundred of `make test`; some minutes.
fuzz: $(VENV)/installed
	LOOPWRIGHT_FUZZ=10000 $(RUN_TESTS) tests/hostile tests/config/test_config_fuzz.py --timeout 3600 \
		--hypothesis-show-statistics $(ARGS)

check: $(VENV)/installed
	$(BIN)/ruff format --check src tests benchmarks examples docs/generate.py
	$(BIN)/ruff check src tests benchmarks examples docs/generate.py
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m docs.generate --check

bench: $(VENV)/installed
	$(BIN)/python -m benchmarks.run

docs: $(VENV)/installed
	$(BIN)/python -m docs.generate

golden: $(VENV)/installed
	$(BIN)/python tests/golden/regenerate.py

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
