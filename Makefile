# `make demo` and `make test`; without make: python dev.py demo, python dev.py test
PYTHON ?= python3

.PHONY: demo test check
demo test:
	$(PYTHON) dev.py $@

check: test
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m pyright
