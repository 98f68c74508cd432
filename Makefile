# make run · make test · make test-all · make lint · make bench · make simulate · make study-load ·
# make soak · make screenshots · make lock · make audit: each sets up everything it needs, then does its job.
# Needs Python 3.11 or 3.12. What is installed lies in .venv and can be deleted at any time.

SHELL := /bin/bash
.DEFAULT_GOAL := run
.PHONY: run test test-all lint bench simulate study-load soak screenshots lock audit

# The first Python that runs and is new enough; a name on the path alone may be an empty shim.
PYTHON ?= $(shell for name in python3.12 python3.11 python3 python; do \
  $$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
  && command -v $$name && break; done)
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Meta's segment-anything-2 is compared with transformers' without its CUDA kernel.
export SAM2_BUILD_CUDA := 0

run: $(VENV)/.installed
	$(BIN)/python app.py $(ARGS)

# Where PostgreSQL cannot be installed the study's tests run on SQLite alone, and this says so.
# A test file stays whole on one of the WORKERS; the first BROWSERS of them have those that open one,
# and half the time wait for its pages: so there is one worker more than the cores of a laptop.
# Servers, nodes and browsers share the machine with whatever else runs there: what fails has a second
# try, and the summary lists it. Bytecode is kept: else each program a test starts compiles the app.
WORKERS ?= 3
BROWSERS ?= 2
PYTEST := env -u PYTHONDONTWRITEBYTECODE BROWSERS=$(BROWSERS) \
  $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --reruns 1
test test-all: lint $(VENV)/.chromium $(VENV)/.postgres
	@cat $(VENV)/.postgres
	@if [ -s $(VENV)/.postgres ]; then export MOTION_APP_TEST_WITHOUT_POSTGRES=1; fi; \
	set -x; $(PYTEST) $(if $(filter test,$@),-m "not long") $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python -m motion_app bench $(ARGS)

# The paper's human study, 20 raters by 200 items, with synthetic raters over HTTP.
simulate: $(VENV)/.installed
	$(BIN)/python -m motion_app study simulate --raters 20 --items 200 $(ARGS)

# Fifty raters at once, six times faster than people and then without any pause: how long a save
# takes. ARGS="--database postgresql://…" for PostgreSQL.
study-load: $(VENV)/.installed
	for pace in 1 0; do \
	  $(BIN)/python -m motion_app study simulate --raters 50 --items 8 --at-once 50 --pace $$pace \
	  $(ARGS) || exit 1; \
	done

# Sixty videos for four clients at a time from a fresh server, then 300 visitors who mark something in
# a picture and leave, and the memory it holds meanwhile. ARGS="--videos 0": the visitors alone.
soak: $(VENV)/.installed
	$(BIN)/python -m motion_app.speed.soak $(ARGS)

# The README's pictures: a real session in a real browser, into assets/screenshots.
screenshots: $(VENV)/.installed-dev $(VENV)/.chromium
	PYTHONPATH=.:tests $(BIN)/python tests/browser/screenshots.py $(ARGS)

# requirements.lock and requirements-dev.lock: the exact set that is tested, each file by its hash,
# for every system that there are wheels for. Again after a change of requirements*.txt.
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-header --no-build-isolation-package sam2 --python $(BIN)/python
lock: $(VENV)/.installed-dev
	@set -e; export PATH="$$PATH:$$PWD/$(VENV)/uv/bin"; set -x; \
	$(LOCK) requirements.txt --output-file requirements.lock $(ARGS); \
	$(LOCK) --constraints requirements.lock requirements-dev.txt \
	  --output-file requirements-dev.lock $(ARGS)

# What is known against the versions of the lock. Where no advisory service answers it says so, with
# status 3: nothing was looked at then.
AUDIT := pip-audit==2.10.0
audit: $(VENV)/.installed
	@export PATH="$$PATH:$$PWD/$(VENV)/uv/bin"; told=$$(mktemp); \
	uv tool run --from $(AUDIT) pip-audit --requirement requirements-dev.lock --require-hashes \
	  --disable-pip --progress-spinner off $(ARGS) >$$told 2>&1; status=$$?; \
	if [ $$status = 0 ] || grep -q '^Found .* known vulnerabilit' $$told; then cat $$told; \
	else tail -n 1 $$told; status=3; \
	  echo "nothing was audited: no advisory service can be reached from here; try again where" \
	    "there is one, or name one: make audit ARGS=\"--vulnerability-service osv\"" >&2; \
	fi; rm -f $$told; exit $$status

# uv comes from the machine, else by pip into the environment's own folder.
define install
	@set -e; \
	test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed and was not found" >&2; exit 1; }; \
	test -x $(BIN)/python || $(PYTHON) -m venv --without-pip $(VENV); \
	export PATH="$$PATH:$$PWD/$(VENV)/uv/bin"; \
	uv --version >/dev/null 2>&1 || $(PYTHON) -m pip install --quiet --target $(VENV)/uv uv; \
	echo "installing $(1) into $(VENV) (the first time takes some minutes)"; \
	uv pip install --quiet --compile-bytecode --require-hashes --python $(BIN)/python $(1)
	@touch $@
endef

$(VENV)/.installed: requirements.lock
	$(call install,--requirement requirements.lock)

$(VENV)/.installed-dev: requirements-dev.lock | $(VENV)/.installed
	$(call install,--no-build-isolation-package sam2 --requirement requirements-dev.lock)

# The browser tests drive Debian's Chromium, where there is one the shell of it that draws no windows.
$(VENV)/.chromium: | $(VENV)/.installed-dev
	@set -e; \
	if ! { command -v chromium-headless-shell || command -v chromium; } >/dev/null; then \
	  sudo=""; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	  echo "installing chromium for the browser tests"; \
	  $$sudo apt-get update -qq; \
	  install="$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq"; \
	  $$install chromium-headless-shell || $$install chromium; \
	fi
	@touch $@

# The study's tests start a PostgreSQL of their own, as an ordinary user, in a temporary folder. The
# file is empty where there is one, else it says why not; make tries again the next time.
.PHONY: $(VENV)/.postgres
$(VENV)/.postgres: | $(VENV)/.installed-dev
	@ready() { ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null; }; \
	if ! ready; then \
	  sudo=""; [ "$$(id -u)" = 0 ] || sudo="sudo -n"; \
	  echo "installing postgresql for the study's tests"; \
	  $$sudo apt-get update -qq \
	  && DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq postgresql || true; \
	fi; \
	if ready; then : >$@; \
	else echo "PostgreSQL could not be installed: the study's tests run on SQLite alone" >$@; fi
