# SPDX-License-Identifier: Apache-2.0
# `make demo` and `make test` each do everything on a fresh machine: packages, virtual environment, lab.
.DEFAULT_GOAL := help
.PHONY: help install-units install-rules bench-iwpm demo test quick lab-test lab-shell bench packages lab clean
SHELL := /bin/bash
VENV := .venv
PYTHON := $(VENV)/bin/python

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.installed lab  ## two hosts: a mapped iWARP port and a disk over iSER
	@lab/demo/run

test: $(VENV)/.installed lab  ## everything: style, unit, fake kernel, real kernel in the lab
	@echo "== style, unit tests, fake kernel, network namespaces" >&2
	@$(PYTHON) -m pytest -m "not kernel"
	@echo "== real kernel, in the lab" >&2
	@$(PYTHON) tests/lab/run.py

quick: $(VENV)/.installed  ## the tests that need neither privilege nor time
	@$(PYTHON) -m pytest

lab-test: $(VENV)/.installed lab  ## only the tests that run on the real kernel; FILES=... picks some
	@$(PYTHON) tests/lab/run.py $(FILES)

lab-shell: $(VENV)/.installed lab  ## a shell in a virtual machine with an RDMA kernel
	@lab/run --shell

bench: $(VENV)/.installed lab  ## side by side with rdma-core's iwpmd and open-iscsi
	@bench/run

bench-iwpm: $(VENV)/.installed lab  ## the port mappers side by side, at 100 to 10,000 live mappings, and under a flood
	@lab/run --virtual-time --timeout 3600 -- '$(PYTHON) bench/iwpm.py && $(PYTHON) bench/iwpm_flood.py'

packages:
	@lab/host-packages

lab: packages $(VENV)/.installed
	@lab/run --prepare

# The system's interpreter, with its site packages: pyverbs and systemd-python must match the system's libraries.
$(VENV)/.installed: pyproject.toml setup.py rdmactl/_cffi_build.py | packages
	@echo "rdmactl: making the virtual environment $(VENV)" >&2
	@/usr/bin/python3 -m venv --system-site-packages $(VENV)
	@$(PYTHON) -m pip install -q --disable-pip-version-check -e '.[test]' > $(VENV)/install.log 2>&1 || \
	  { cat $(VENV)/install.log >&2; exit 1; }
	@touch $@

clean:  ## remove what was built here (the lab's cache stays: ~/.cache/rdmactl-lab)
	rm -rf $(VENV) build dist *.egg-info rdmactl/_rdmacm.*
	find . -name __pycache__ -prune -exec rm -rf {} +

BINDIR ?= /usr/bin
UNITDIR ?= /etc/systemd/system
RULESDIR ?= /etc/udev/rules.d
install-units:  ## the systemd units into UNITDIR, for programs in BINDIR
	@for unit in daemons/systemd/*.service daemons/systemd/*.socket; do \
	  sed 's,@BINDIR@,$(BINDIR),' $$unit > $(UNITDIR)/$${unit##*/} && echo "$(UNITDIR)/$${unit##*/}"; done

install-rules:  ## the udev rules into RULESDIR: an iWARP device starts iwpmd
	@for rules in daemons/udev/*.rules; do \
	  sed 's,@BINDIR@,$(BINDIR),' $$rules > $(RULESDIR)/$${rules##*/} && echo "$(RULESDIR)/$${rules##*/}"; done
