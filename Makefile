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
docdir      ?= $(PREFIX)/share/doc/auto-iscsi
# systemd looks below /usr and /usr/local; what is elsewhere it has to find in /etc.
units = $(if $(filter /usr /usr/local,$(PREFIX)),$(PREFIX)/lib,$(sysconfdir))
tmpfilesdir ?= $(units)/tmpfiles.d
systemdunitdir ?= $(units)/systemd/system

# What the programs' first line starts, and whom the byte-code is for that is made here.
PYTHON ?= /usr/bin/python3
PACKAGED := Makefile LICENSE NEWS README.md auto_iscsi etc man debian rpm tools
MODULES := $(wildcard auto_iscsi/*.py auto_iscsi/*/*.py)
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
WAITING = -n 2
MACHINES = -n 2

.PHONY: test
test: ## everything; installs what is missing (ARGS= for pytest)
	@tests/prepare build
	@python3 tests/all.py $(DEB) $(ARGS)

.PHONY: lint
lint: ## what the code looks like, types, manual pages, scripts (ARGS= for pytest)
	@tests/prepare lint
	@$(PYTEST) tests/lint $(ARGS)

.PHONY: lock
lock: ## write the tests' lock files anew, from tests/requirements.txt and tests/matrix.py
	@tests/lock

.PHONY: test-matrix
test-matrix: ## what needs no root, on the oldest and the newest Python and libraries
	@tests/prepare test
	@$(RUN) python3 tests/matrix.py $(ARGS)

.PHONY: test-unit test-tree test-program test-automount test-san
test-unit: ## the modules that touch nothing
test-tree: ## those that read the machine, on made-up trees
test-program: build standalone deb rpm ## the two programs and the package, as they were built
test-automount: build deb rpm ## the kernel's autofs and automount, with loop devices
test-tree test-automount: ARGS += $(WAITING)
test-unit test-tree test-program test-automount:
	@tests/prepare test
	@$(PYTEST) $(subst test-,tests/,$@) $(ARGS)
test-san: deb rpm standalone ## the whole thing in the virtual machine
	@tests/prepare vm
	@$(RUN) python3 -m tests.san.bed build --deb $(DEB)
	@$(PYTEST) $(MACHINES) tests/san $(ARGS)

.PHONY: soak
soak: deb ## ten minutes of crowd, kills and restarts in the virtual machine (SECONDS=600)
	@tests/prepare vm
	@$(RUN) python3 -m tests.san.bed build --deb $(DEB)
	@$(PYTEST) -s tests/san/test_soak.py --soak $(or $(SECONDS),600) $(ARGS)

.PHONY: test-trixie
test-trixie: deb rpm standalone ## the same on Debian 13; make test has the core of it
	@tests/prepare vm
	@$(RUN) python3 -m tests.san.bed build --suite trixie --deb $(DEB)
	@$(PYTEST) $(MACHINES) tests/san --bed-suite trixie $(ARGS)

.PHONY: autopkgtest
autopkgtest: deb ## debian/tests as Debian runs them, in a machine of autopkgtest's own (ARGS=)
	@tests/prepare autopkgtest
	@$(RUN) python3 -m tests.san.bed autopkgtest --deb $(DEB) -- $(ARGS)

##@ Measure it
.PHONY: bench
bench: build deb ## how fast it is, against bare Python, bare iscsiadm and the script (six minutes once both images are there)
	@tests/prepare vm
	@$(RUN) python3 -m bench $(ARGS)

##@ Build it
.PHONY: build
build: dist/auto.iscsi dist/auto-iscsi ## both programs in dist/, with the modules of this clone

.PHONY: deb
deb: $(DEB) ## the Debian package, in dist/

.PHONY: rpm
rpm: $(RPM) ## the RPM package, in dist/

FOR_PYTHON = $(if $(filter command,$(origin PYTHON)),FORCE)
.PHONY: FORCE

# With byte-code, as a host has it on which they are installed.
dist/auto.iscsi dist/auto-iscsi: dist/%: tools/% $(MODULES) $(FOR_PYTHON)
	@mkdir -p dist
	@$(PYTHON) -m compileall -q auto_iscsi
	@sed -e '1s|/usr/bin/python3|$(PYTHON)|' -e 's|/usr/share/auto-iscsi|$(CURDIR)|' $< >$@
	@chmod 755 $@
	@echo "built $@"

# -S and an empty environment: how the machine is set up stays out of the programs' bytes.
ZIPAPP = env -i PYTHONHASHSEED=0 $(PYTHON) -B -S tools/build_zipapp.py
PARTS = $(MODULES) tools/build_zipapp.py $(FOR_PYTHON)

LIBRARIES = build/libraries
dist/standalone/auto.iscsi: $(PARTS) $(LIBRARIES)/ready
	@$(ZIPAPP) map.program $@ $(PYTHON) $(LIBRARIES)
	@echo "built $@"

dist/standalone/auto-iscsi: $(PARTS) $(LIBRARIES)/ready
	@$(ZIPAPP) admin.cli $@ $(PYTHON) $(LIBRARIES)
	@echo "built $@"

$(LIBRARIES)/ready: tools/libraries.txt
	@tests/prepare standalone
	@rm -rf $(LIBRARIES)
	@echo "getting the libraries of tools/libraries.txt"
	@PIP_ROOT_USER_ACTION=ignore $(PYTHON) -m pip install --quiet --disable-pip-version-check \
		--no-deps --no-compile --only-binary :all: --target $(LIBRARIES) \
		--require-hashes -r tools/libraries.txt
	@touch $@

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

# The spec builds in a copy of its own, from a source archive as any host would have it. The RPM
# says what libmagic, which speaks the builder's language, says of each file.
$(RPM): $(SOURCES)
	@tests/prepare rpm
	@rm -rf build/rpm && mkdir -p build/rpm dist
	@tar -C .. -cf build/rpm/auto-iscsi-$(VERSION).tar --exclude='*.pyc' \
		--transform 's,^$(notdir $(CURDIR)),auto-iscsi-$(VERSION),' \
		$(addprefix $(notdir $(CURDIR))/,$(PACKAGED))
	@env -u SOURCE_DATE_EPOCH LC_ALL=C.UTF-8 TZ=UTC rpmbuild -bb $(NODEPS) --define "_topdir $(CURDIR)/build/rpm" \
		--define "_sourcedir $(CURDIR)/build/rpm" rpm/auto-iscsi.spec >build/rpm/log 2>&1 \
		|| { cat build/rpm/log; exit 1; }
	@mv build/rpm/RPMS/noarch/auto-iscsi-$(VERSION)-*.noarch.rpm $@
	@echo "built $@"

.PHONY: standalone
standalone: dist/standalone/auto.iscsi dist/standalone/auto-iscsi ## both with their libraries inside: python3 is all that they need

##@ Install it
# `sudo make install` on a host for which there is no package. BUNDLED=yes: with the libraries inside.
FROM = $(if $(BUNDLED),dist/standalone,tools)
INSTALL = DESTDIR='$(DESTDIR)' programs=$(FROM) python=$(PYTHON) sysconfdir=$(sysconfdir) libexecdir=$(libexecdir) \
	sbindir=$(sbindir) datadir=$(datadir) mandir=$(mandir) tmpfilesdir=$(tmpfilesdir) \
	systemdunitdir=$(systemdunitdir) docdir=$(docdir) tools/install

.PHONY: install
install: $(if $(BUNDLED),standalone) ## DESTDIR= PREFIX= BUNDLED=yes: all that a package has; automount is told
	@$(INSTALL)

.PHONY: uninstall
uninstall: ## away again; what was changed and what is mounted stays
	@$(INSTALL) --undo

.PHONY: clean
clean: ## what was built here; caches outside the clone stay
	@rm -rf dist build auto_iscsi.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

##@ Publish it
.PHONY: release
release: ## VERSION=: checks that all say so, tags, and leaves what is published in dist/
	@tools/release $(if $(filter command,$(origin VERSION)),'$(VERSION)')

.PHONY: help
help:
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-16s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)
