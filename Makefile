# Two commands matter: `make book` and `make test`. Both make the environment first; both are safe to repeat.
PROFILE ?= cpu
PY := .venv/bin/python
TEST := $(PY) -m pytest -n 2 --dist loadfile

.DEFAULT_GOAL := book
.PHONY: env book quick notebook serve bench test test-quick test-all lint clean clean-book

env:
	@for p in python3.11 python3.12 python3.13 python3 python; do \
	  if $$p -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
	    exec $$p workflow/environment.py; fi; done; \
	echo "No Python 3.11, 3.12 or 3.13 found: install one, then run make again." >&2; exit 1

book: env            ## run what is missing, execute what changed, build the HTML
	@$(PY) -m medrepro.cli book --profile $(PROFILE)

quick:               ## the book at profile smoke
	@$(MAKE) --no-print-directory book PROFILE=smoke

notebook: env        ## make notebook NB=multifractal/01-local-holder-exponent PROFILE=smoke
	@$(PY) -m medrepro.cli notebook "$(NB)" --profile $(PROFILE)

serve: book          ## the book on http://localhost:8000
	@cd $$($(PY) -c 'from medrepro import paths; print(paths.build("$(PROFILE)") / "html")') && $(CURDIR)/$(PY) -m http.server 8000

bench: env           ## make bench ONLY=exponent: ours against the plain formulation, into _build/bench.json
	@$(PY) -m benchmarks.run --only "$(ONLY)"

test: env            ## everything that takes under 20 s
	$(TEST) -m "not slow"

test-quick: env      ## a look in under a minute
	$(TEST) -m quick

test-all: env        ## what `make test` leaves out: browser, kills, whole builds, long runs
	$(TEST) -m slow

lint: env
	$(PY) -m ruff check . && $(PY) -m ruff format --check .

clean:               ## remove everything that was built; .venv stays
	rm -rf _build .snakemake

clean-book:          ## remove everything that was built but the runs
	@find _build -mindepth 1 -maxdepth 1 ! -name runs -exec rm -rf {} + 2>/dev/null || true
