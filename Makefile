# What one does with this tree, each as one command; `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/sh
.DELETE_ON_ERROR:

VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"$$/\1/p' auto_iscsi/__init__.py)

DESTDIR     ?=
PREFIX      ?= /usr/local
sysconfdir  ?= /etc
libexecdir  ?= $(PREFIX)/libexec
sbindir     ?= $(PREFIX)/sbin
datadir     ?= $(PREFIX)/share
mandir      ?= $(PREFIX)/share/man
tmpfilesdir ?= $(PREFIX)/lib/tmpfiles.d

# The Python whose .pyc the programs carry: the one that their first line starts.
PYTHON ?= /usr/bin/python3
PACKAGED = Makefile LICENSE NEWS README.md auto_iscsi etc man debian rpm tools
MODULES := $(wildcard auto_iscsi/*.py)
DEB = dist/auto-iscsi_$(VERSION)_all.deb

##@ Use it
.PHONY: demo
demo: $(DEB) ## the job as a person does it, in a virtual machine with its own SAN
	@tests/prepare demo
	@tests/prepare run python3 -m tests.san.bed demo --deb $(DEB)

.PHONY: build
build: dist/auto.iscsi dist/auto-iscsi ## both programs, in dist/

.PHONY: deb
deb: $(DEB) ## the Debian package, in dist/

##@ Build it
# -S and an empty environment: what the machine is set up with stays out of the programs' bytes.
dist/auto.iscsi: $(MODULES) tools/build_zipapp.py
	@env -i PYTHONHASHSEED=0 $(PYTHON) -B -S tools/build_zipapp.py program $@
	@echo "built $@"

dist/auto-iscsi: $(MODULES) tools/build_zipapp.py
	@env -i PYTHONHASHSEED=0 $(PYTHON) -B -S tools/build_zipapp.py cli $@
	@echo "built $@"

# In a copy, because dpkg-buildpackage leaves its results beside the tree it builds.
$(DEB): $(shell find $(PACKAGED) -type f -not -name '*.pyc' 2>/dev/null)
	@tests/prepare deb
	@rm -rf build/deb && mkdir -p build/deb/auto-iscsi dist
	@cp -R $(PACKAGED) build/deb/auto-iscsi/
	cd build/deb/auto-iscsi && dpkg-buildpackage --build=binary --no-sign
	@mv build/deb/auto-iscsi_$(VERSION)_all.deb $@
	@echo "built $@"

# The texts name the packages' paths; another PREFIX changes them.
.PHONY: install
install: build ## DESTDIR= PREFIX=: programs, man pages, configuration
	@umask 022; set -eu; \
	put() { install -D -p -m "$$1" "$$2" "$(DESTDIR)$$3"; echo "$$3"; }; \
	text() { \
		put "$$1" "$$2" "$$3"; \
		sed -e 's|/usr/libexec|$(libexecdir)|g' -e 's|/usr/share/auto-iscsi|$(datadir)/auto-iscsi|g' \
			"$$2" > "$(DESTDIR)$$3"; \
	}; \
	put 755 dist/auto.iscsi $(libexecdir)/auto-iscsi/auto.iscsi; \
	put 755 dist/auto-iscsi $(sbindir)/auto-iscsi; \
	text 755 tools/join-automount $(datadir)/auto-iscsi/join-automount; \
	text 644 etc/iscsi.autofs $(datadir)/auto-iscsi/iscsi.autofs; \
	put 644 etc/tmpfiles.conf $(tmpfilesdir)/auto-iscsi.conf; \
	for page in man/*.[58]; do \
		text 644 "$$page" "$(mandir)/man$${page##*.}/$${page#man/}"; \
	done; \
	if [ -e "$(DESTDIR)$(sysconfdir)/auto.iscsi.conf" ]; then \
		echo "$(sysconfdir)/auto.iscsi.conf (yours stays)"; \
	else \
		put 644 etc/auto.iscsi.conf $(sysconfdir)/auto.iscsi.conf; \
	fi; \
	link="$(DESTDIR)$(sysconfdir)/auto.iscsi"; \
	[ "$$(readlink "$$link")" = $(libexecdir)/auto-iscsi/auto.iscsi ] \
		|| ln -s --backup=numbered -S .orig $(libexecdir)/auto-iscsi/auto.iscsi "$$link"; \
	echo $(sysconfdir)/auto.iscsi; \
	if [ -z "$(DESTDIR)" ]; then $(datadir)/auto-iscsi/join-automount; fi

.PHONY: clean
clean: ## what was built here; caches outside the clone stay
	@rm -rf dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help:
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
