# `make demo` and `make test` on a fresh machine: they need Python >= 3.11 and nothing else.
# All further work is Snakemake's and DVC's, in the environment .venv/ made here (source .venv/bin/activate).

PYTHON ?= python3
ENVIRONMENT = .venv
READY = $(ENVIRONMENT)/ready
IN_ENVIRONMENT = PATH="$(CURDIR)/$(ENVIRONMENT)/bin:$$PATH"
LINT = ruff check && ruff format --check && snakefmt --check Snakefile workflow && mypy

.PHONY: demo check test gpu golden docs lint clean
.DEFAULT_GOAL := demo

demo: $(READY)
	@$(IN_ENVIRONMENT) snakemake --cores all -- demo
	@for table in results/demo/table*.md; do cat $$table; echo; done
	@echo "All of this on one page, with figures: results/demo/README.md (results/demo/page.html in a browser; all studies: results/index.html)."

# Before each commit: two minutes.
check: lint
	@$(IN_ENVIRONMENT) python -m pytest -n 2 -m unit

# Before each pull request, and in CI: everything.
test: lint
	@$(IN_ENVIRONMENT) python -m pytest -n 2 -m 'not pipeline'
	@$(IN_ENVIRONMENT) python -m pytest -n 2 --dist loadfile -m pipeline  # tests of a file share a project

# On a machine with a GPU: its tests, and the benchmark of the card. Eight minutes at most.
gpu: $(READY)
	@$(IN_ENVIRONMENT) python -m tests.gpu

# After a change to the core: compute the golden values again and, where they are as before, record its source.
golden: $(READY)
	@$(IN_ENVIRONMENT) python -m tests.golden

docs: $(READY)
	@$(IN_ENVIRONMENT) mkdocs build --strict
	@$(IN_ENVIRONMENT) nisbench pages --into site/results

lint: $(READY)
	@$(IN_ENVIRONMENT) sh -c '$(LINT)'

# Made anew when what is to be installed changes.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "nisbench needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is missing. On Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "installing into $(ENVIRONMENT)/ (some minutes, once) ..."
	@test -x $(ENVIRONMENT)/bin/pip || $(PYTHON) -m venv $(ENVIRONMENT)
	@$(ENVIRONMENT)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(ENVIRONMENT) .snakemake .mypy_cache .pytest_cache .ruff_cache site
