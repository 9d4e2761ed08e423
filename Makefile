# Every command a person needs. `make run` and `make test` install what they need by themselves.

PYTHON_IN_VENV := .venv/bin/python

.PHONY: help run test check bench clean

help:
	@echo "make run     serve on http://127.0.0.1:8000 (HOST, PORT), everything included"
	@echo "make test    format, lint, types, migrations, and all tests"
	@echo "make check   the same without the tests"
	@echo "make bench   this server beside others, some minutes (QUICK=1: under one, judges nothing)"
	@echo "make clean   remove what can be made again; your data in var/ stays"

# A name given as PYTHON=... is the Python that .venv is made with.
export PYTHON

# exec, so that a signal to make reaches the server itself.
run: export DEBUG ?= 1
run: export REALTIME_DEMO ?= 1
run:
	@scripts/set-up requirements.txt
	@exec $(PYTHON_IN_VENV) manage.py serve --dev

# Tests and checks neither read nor write the data of `make run`.
check test: export VAR_DIR = $(CURDIR)/.venv/var
check test: export PATH := $(CURDIR)/.venv/bin:$(PATH)
check:
	@scripts/set-up requirements-dev.txt
	$(PYTHON_IN_VENV) -m ruff format --check
	$(PYTHON_IN_VENV) -m ruff check
	$(PYTHON_IN_VENV) -c 'from importlinter.cli import lint_imports_command as lint; lint()'
	$(PYTHON_IN_VENV) -m mypy
	$(PYTHON_IN_VENV) manage.py check --fail-level WARNING
	$(PYTHON_IN_VENV) manage.py makemigrations --check

test: check
	@scripts/set-up-tests
	@$(PYTHON_IN_VENV) -m tests

bench:
	@scripts/set-up requirements-bench.txt
	@$(PYTHON_IN_VENV) -m bench $(if $(filter-out 0,$(QUICK)),--quick)

clean:
	rm -rf .venv tests/sdk/node_modules staticfiles htmlcov .coverage .coverage.*
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
