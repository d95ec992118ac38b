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
PACKAGED := Makefile LICENSE NEWS README.md auto_iscsi etc man debian rpm tools
MODULES := $(wildcard auto_iscsi/*.py)
SOURCES := $(shell find $(PACKAGED) -type f -not -name '*.pyc')
DEB = dist/auto-iscsi_$(VERSION)_all.deb
RPM = dist/auto-iscsi-$(VERSION).noarch.rpm
RUN = tests/prepare run

##@ See it
.PHONY: demo
demo: deb ## the job as a person does it, in a virtual machine with a SAN inside
	@tests/prepare vm
	@$(RUN) python3 -m tests.san.bed demo --deb $(DEB)

.PHONY: vm
vm: deb ## a shell in that machine
	@tests/prepare vm
	@$(RUN) python3 -m tests.san.bed shell --deb $(DEB)

##@ Test it
# Several at once where most of the time is waited; what a folder's tests need, they say.
PYTEST = $(RUN) python3 -m pytest
WAITING = -n 4
MACHINES = -n 2

.PHONY: test
test: build deb rpm ## everything; installs what is missing
	@tests/prepare test
	@$(RUN) python3 -m tests.san.bed build --deb $(DEB)
	@$(PYTEST) tests/lint tests/unit tests/program $(ARGS)
	@$(PYTEST) $(WAITING) tests/tree tests/automount $(ARGS)
	@$(PYTEST) $(MACHINES) tests/san $(ARGS)

.PHONY: lint
lint: ## what the code looks like, types, manual pages, scripts (ARGS= for pytest)
	@tests/prepare lint
	@$(PYTEST) tests/lint $(ARGS)

.PHONY: test-unit test-tree test-program test-automount test-san
test-unit: ## the modules that touch nothing
test-tree: ## those that read the machine, on made-up trees
test-program: build deb rpm ## the two programs and the package, as they were built
test-automount: build deb rpm ## the kernel's autofs and automount, with loop devices
test-tree test-automount: ARGS += $(WAITING)
test-unit test-tree test-program test-automount:
	@tests/prepare test
	@$(PYTEST) $(subst test-,tests/,$@) $(ARGS)
test-san: deb ## the whole thing in the virtual machine
	@tests/prepare vm
	@$(RUN) python3 -m tests.san.bed build --deb $(DEB)
	@$(PYTEST) $(MACHINES) tests/san $(ARGS)

##@ Build it
.PHONY: build
build: dist/auto.iscsi dist/auto-iscsi ## both programs, in dist/

.PHONY: deb
deb: $(DEB) ## the Debian package, in dist/

.PHONY: rpm
rpm: $(RPM) ## the RPM package, in dist/

# -S and an empty environment: how the machine is set up stays out of the programs' bytes.
dist/auto.iscsi: tools/auto.iscsi dist/auto-iscsi
	@install -m 755 tools/auto.iscsi $@
	@echo "built $@"

dist/auto-iscsi: $(MODULES) tools/build_zipapp.py
	@env -i PYTHONHASHSEED=0 $(PYTHON) -B -S tools/build_zipapp.py cli $@
	@echo "built $@"

# In a copy, because dpkg-buildpackage leaves its results beside the tree it builds. What is needed
# has been looked after; dpkg would ask for a compiler, too.
$(DEB): $(SOURCES)
	@tests/prepare deb
	@rm -rf build/deb && mkdir -p build/deb/auto-iscsi dist
	@cp -R $(PACKAGED) build/deb/auto-iscsi/
	@cd build/deb/auto-iscsi && env -u SOURCE_DATE_EPOCH \
		dpkg-buildpackage --build=binary --no-sign --no-check-builddeps >../log 2>&1 \
		|| { cat ../log; exit 1; }
	@mv build/deb/auto-iscsi_$(VERSION)_all.deb $@
	@echo "built $@"

# What dpkg has installed here rpm knows nothing of.
NODEPS := $(if $(wildcard /etc/debian_version),--nodeps)

# The spec builds in a copy of its own, from a source archive as any host would have it.
$(RPM): $(SOURCES)
	@tests/prepare rpm
	@rm -rf build/rpm && mkdir -p build/rpm dist
	@tar -C .. -cf build/rpm/auto-iscsi-$(VERSION).tar --exclude='*.pyc' \
		--transform 's,^$(notdir $(CURDIR)),auto-iscsi-$(VERSION),' \
		$(addprefix $(notdir $(CURDIR))/,$(PACKAGED))
	@rpmbuild -bb $(NODEPS) --define "_topdir $(CURDIR)/build/rpm" \
		--define "_sourcedir $(CURDIR)/build/rpm" rpm/auto-iscsi.spec >build/rpm/log 2>&1 \
		|| { cat build/rpm/log; exit 1; }
	@mv build/rpm/RPMS/noarch/auto-iscsi-$(VERSION)-*.noarch.rpm $@
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
	put 755 dist/auto-iscsi $(libexecdir)/auto-iscsi/auto-iscsi; \
	install -d "$(DESTDIR)$(sbindir)"; \
	ln -sfnr "$(DESTDIR)$(libexecdir)/auto-iscsi/auto-iscsi" "$(DESTDIR)$(sbindir)/auto-iscsi"; \
	echo $(sbindir)/auto-iscsi; \
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
	if [ -e "$$link" ] && [ "$$(readlink "$$link")" != $(libexecdir)/auto-iscsi/auto.iscsi ]; then \
		cp -a --backup=numbered "$$link" "$$link.orig"; \
		echo "$(sysconfdir)/auto.iscsi.orig (what was there)"; \
	fi; \
	ln -sfn $(libexecdir)/auto-iscsi/auto.iscsi "$$link"; \
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
		/^[a-z-]+:.*## / { printf "  make %-16s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)
