# `make` lists the commands. PYTHON=... names an interpreter; without it the first one that is new enough is taken.
.DEFAULT_GOAL := help
.PHONY: help course test conformance chapters book lite site browser jupyterlite pyodide serve bench lint clean
MAKEFLAGS += --no-print-directory

SUITABLE = import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
FOUND = $(shell for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.14 python); do \
	$$python -c '$(SUITABLE)' 2>/dev/null && echo $$python && break; done)
define NO_PYTHON
tinymoe needs Python 3.11 or newer with its venv module. $(if $(PYTHON),PYTHON=$(PYTHON) is not that,None was found on the PATH); \
install one (on Debian and Ubuntu: python3 and python3-venv), or name it: make PYTHON=/path/to/python3.11 ...
endef
setup = @$(or $(FOUND),$(wildcard $(1)/bin/python),$(error $(NO_PYTHON))) tools/setup_env.py $(1) $(2)

PY = .venv/bin/python
# What takes ten minutes and more has commands of its own: make conformance, jupyterlite, pyodide.
UNITS = $(addprefix --ignore=,tests/conformance tests/pyodide tests/browser/test_lite.py)
# JupyterLab asks nothing and looks for no updates.
QUIET_LAB = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

course:  ## open the course in JupyterLab (COURSE_ARGS="--no-browser" and the like are passed on)
	$(call setup,.venv,course)
	@mkdir -p .venv/share/jupyter/lab/settings
	@echo '$(QUIET_LAB)' > .venv/share/jupyter/lab/settings/overrides.json
	@echo "Opening chapters/00_welcome.ipynb; stop the server with Ctrl-C"
	@.venv/bin/jupyter lab --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/chapters/00_welcome.ipynb \
		$(if $(filter 0,$(shell id -u)),--allow-root) $(COURSE_ARGS)

test:  ## the package's and the course's tests, without PyTorch, and their coverage (PYTEST_ARGS="-k tokenizer")
	$(call setup,.venv,test)
	@$(PY) -m coverage erase
	$(PY) -m coverage run -m pytest $(UNITS) -n 2 $(PYTEST_ARGS)
	@echo "Once more, without Numba's compiler, the tests of the kernels: now coverage sees inside them"
	NUMBA_DISABLE_JIT=1 $(PY) -m coverage run -m pytest $(UNITS) -m kernels -n 2 $(PYTEST_ARGS)
	@$(PY) -m coverage combine --quiet
	$(PY) -m coverage report $(if $(PYTEST_ARGS),--fail-under=0)

conformance:  ## the same numbers as PyTorch, Transformers, tokenizers, TRL and PEFT (installs them apart)
	$(call setup,.venv-conformance,conformance)
	.venv-conformance/bin/python -m pytest tests/conformance $(PYTEST_ARGS)

chapters:  ## the package put together from the chapters passes its tests, and they still give the committed outputs
	$(call setup,.venv,test)
	$(PY) tools/chapters.py rebuild --fast
	@# One thread each for two notebooks at a time: two threads each would fight for two cores, at several times the cost.
	TINYMOE_MY="$$(mktemp -d)" OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(PY) -m pytest --nbval --nbval-current-env \
		--nbval-cell-timeout=300 --nbval-sanitize-with=chapters/nbval_sanitize.cfg \
		-n 2 --dist loadfile --durations=10 $(or $(CHAPTERS),chapters)

book:  ## the chapters as a static site, in _build/html
	$(call setup,.venv-book,book)
	.venv-book/bin/python tools/book.py $(BOOK_ARGS)

lite:  ## the course for the browser, with the wheel of tinymoe, in _build/html/lite; after `make book`, which starts afresh
	$(call setup,.venv-lite,lite)
	.venv-lite/bin/python tools/lite.py

site: BOOK_ARGS = --lite
site: book lite  ## all that is published: the book, and the course in the browser

browser: book  ## the built book in a real browser: errors, requests, widgets, accessibility, weight, links
	$(call setup,.venv,test browser)
	$(PY) -m pytest tests/browser/test_book.py $(PYTEST_ARGS)

jupyterlite: lite  ## eight chapters in JupyterLite, in Chromium, to their end, compared with their committed outputs
	$(call setup,.venv,test browser)
	$(PY) tools/lite_fixture.py
	@# Chapter 17 takes longest: whoever has nothing to do takes over what others have not begun.
	$(PY) -m pytest tests/browser/test_lite.py -n 2 --dist worksteal --durations=0 $(PYTEST_ARGS)

pyodide: jupyterlite  ## that, and the unit tests with NumPy in WebAssembly
	$(PY) -m pytest tests/pyodide --durations=0 $(PYTEST_ARGS)

serve:  ## look at the built site: http://127.0.0.1:8000
	@$(or $(FOUND),python3) -m http.server --bind 127.0.0.1 --directory _build/html 8000

bench:  ## how fast tinymoe is beside its peers (BENCH=benchmarks/x.py BENCH_ARGS="--seeds 1" for one of them)
	$(call setup,.venv-conformance,conformance)
	@for file in $(or $(BENCH),benchmarks/*.py); do echo "== $$file"; .venv-conformance/bin/python $$file $(BENCH_ARGS) || exit 1; done

lint:  ## ruff (notebooks too), pyright, the layers, and that the chapters match the package and build on each other
	$(call setup,.venv,test lint)
	.venv/bin/ruff check
	.venv/bin/pyright
	.venv/bin/lint-imports
	$(PY) tools/chapters.py check order coverage

clean:  ## remove what was built; the environments (.venv*) and my_tinymoe stay
	rm -rf _build build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage .coverage.* htmlcov
	find . -path './.venv*' -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
