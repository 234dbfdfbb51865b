# Every target does its own set-up: Debian packages (as root), a virtual environment, the package in it.
SHELL := /bin/bash
VENV := .venv
WORKERS ?= 3# test modules at a time; most of a test's time is an engine's
PYTHON ?= $(shell for p in /usr/bin/python3 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' && { echo $$p; break; }; done)

.PHONY: help demo test check bench soak test-in-vm clean
help:
	@echo 'make demo    run one type of examples/ as container and as virtual machine, and compare what they leave'
	@echo 'make test    run the tests against the real engines of this host; changes nothing in its configuration'
	@echo 'make check   lint and check types'
	@echo 'make bench   measure against the bare engine; prints ratios'
	@echo 'make soak    what takes hours: fuzzing, a thousand kills of the daemon, a whole cloud image, make test-in-vm'
	@echo 'make test-in-vm   run the container suites in a virtual machine with systemd and control groups v2'

$(VENV)/ready: pyproject.toml
	@packaging/debian-packages build
	@test -n "$(PYTHON)" || { echo 'lmd needs Python 3.11 or newer: apt-get install python3 python3-venv'; exit 2; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo 'installing lmd into $(VENV)'
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/tools: $(VENV)/ready
	@packaging/debian-packages tools
	@echo 'installing what the tests and checks need into $(VENV)'
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[cvmfs,kvm,dev]'
	@touch $@

demo: $(VENV)/ready
	@packaging/debian-packages demo
	@$(VENV)/bin/python -c 'import libvirt' 2>/dev/null || ! pkg-config --exists libvirt 2>/dev/null || \
		$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[kvm]'
	@$(VENV)/bin/python -c 'import pyfuse3' 2>/dev/null || ! pkg-config --exists fuse3 2>/dev/null || \
		$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[cvmfs]'
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" examples/demo

test: $(VENV)/tools
	@packaging/debian-packages test
	$(VENV)/bin/python -m pytest --numprocesses $(WORKERS) --dist loadscope

check: $(VENV)/tools
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

bench: $(VENV)/tools
	@packaging/debian-packages test
	$(VENV)/bin/python bench/startup.py
	$(VENV)/bin/python bench/create.py
	$(VENV)/bin/python bench/daemon.py
	$(VENV)/bin/python bench/many.py
	$(VENV)/bin/python bench/metadata.py
	$(VENV)/bin/python bench/decide.py
	$(VENV)/bin/python bench/decision_figures.py
	$(VENV)/bin/python bench/idle.py
	$(VENV)/bin/python bench/kvm.py
	@packaging/debian-packages bench
	$(VENV)/bin/python bench/cvmfs_figures.py
	$(VENV)/bin/python bench/cvmfs_machines.py

# Longer than CI has time for.
soak: $(VENV)/tools
	CVMFS_FUZZ_INPUTS=1000000 $(VENV)/bin/python -m pytest tests/cvmfs/test_parsers_never_break.py --timeout 0
	LMD_FAKE_KILL_ROUNDS=1000 LMD_PODMAN_KILL_ROUNDS=100 LMD_DOCKER_KILL_ROUNDS=20 LMD_LIVES=1000 \
		$(VENV)/bin/python -m pytest -s --timeout 0 \
		tests/lmd/factory/test_factory_killed.py tests/lmd/factory/test_factory_faults.py
	$(VENV)/bin/python -m pytest -m soak
	$(MAKE) test-in-vm

# A machine with systemd and control groups of version 2; hours in emulation. ACCELERATION=kvm where that works.
test-in-vm: $(VENV)/tools
	@packaging/debian-packages test
	PYTHONPATH=. $(VENV)/bin/python tests/in_vm.py --acceleration $(or $(ACCELERATION),tcg) --record docs/test-in-vm.md \
		--results $(VENV)/in-vm.json

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
