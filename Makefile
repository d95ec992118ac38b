# Build, test, measure and install auto-iscsi. `make` without a target lists the targets.
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
# systemd reads units only below /usr, /usr/local and /etc. Other prefixes put them in /etc.
units = $(if $(filter /usr /usr/local,$(PREFIX)),$(PREFIX)/lib,$(sysconfdir))
tmpfilesdir ?= $(units)/tmpfiles.d
systemdunitdir ?= $(units)/systemd/system
udevrulesdir ?= $(units)/udev/rules.d

# The Python in the first line of the programs. Byte-code that is made here is for this Python.
PYTHON ?= /usr/bin/python3
PACKAGED := Makefile LICENSE NEWS README.md auto_iscsi docs etc man debian rpm tools
DRIVERS := $(patsubst tools/drivers/%,%,$(wildcard tools/drivers/*))
MODULES := $(wildcard auto_iscsi/*.py auto_iscsi/*/*.py)
SOURCES := $(shell find $(PACKAGED) -type f -not -name '*.pyc')
DEB = dist/auto-iscsi_$(VERSION)_all.deb
RPM = dist/auto-iscsi-$(VERSION).noarch.rpm
RUN = tests/prepare run

##@ Try it
.PHONY: demo
demo: deb ## show visits to snapshots and a restore, in a virtual machine with its own SAN
	@tests/prepare vm
	@$(RUN) python3 -m tests.san.bed demo --deb $(DEB)

.PHONY: picture
picture: deb ## run that demonstration, and draw its end as the README's docs/demo.svg
	@tests/prepare vm
	@$(RUN) python3 -m tests.san.bed demo --deb $(DEB) --picture docs/demo.svg

.PHONY: vm
vm: deb ## open a root shell in that virtual machine
	@tests/prepare vm
	@$(RUN) python3 -m tests.san.bed shell --deb $(DEB)

##@ Test it
# Several tests at a time: more where they mostly wait. Who has no test left takes of another's
# (worksteal). A test says itself what it lacks on this machine.
PYTEST = $(RUN) python3 -m pytest
BUSY = -n 2 --dist worksteal
WAITING = -n 4 --dist worksteal

.PHONY: test
test: ## run all tests; install what they need (ARGS= for pytest)
	@tests/prepare build
	@python3 tests/all.py $(DEB) $(ARGS)

.PHONY: lint
lint: ## check format, types, scripts, manual pages, agreement (ARGS= for pytest)
	@tests/prepare lint
	@$(PYTEST) tests/lint $(ARGS)

.PHONY: lock
lock: ## write the tests' lock files, from tests/requirements.txt and tests/matrix.py
	@tests/lock

.PHONY: test-matrix
test-matrix: ## run tests on the oldest and the newest Python and libraries
	@tests/prepare test
	@$(RUN) python3 tests/matrix.py $(ARGS)

.PHONY: test-unit test-tree test-program test-automount test-san
test-unit: ## test one module at a time
test-tree: ## test lookups and the reaper on a host that is a folder
test-program: build standalone deb rpm ## test the programs and packages as built
test-automount: build deb rpm ## test with the real automount and loop devices
test-unit test-automount: ARGS += $(BUSY)
test-tree test-program: ARGS += $(WAITING)
test-unit test-tree test-program test-automount:
	@tests/prepare test
	@$(PYTEST) $(subst test-,tests/,$@) $(ARGS)
test-san: deb rpm standalone ## test with a real SAN in the virtual machine
	@tests/prepare vm
	@$(RUN) python3 -m tests.san.bed build --deb $(DEB)
	@$(PYTEST) $(BUSY) tests/san $(ARGS)

.PHONY: soak
soak: export BED_CPUS = 2
soak: deb ## run users and kills in the virtual machine, then at two arrays there (SECONDS=600)
	@tests/prepare vm
	@$(RUN) python3 -m tests.san.bed build --deb $(DEB)
	@$(PYTEST) -s tests/san/test_soak.py tests/san/test_soak_at_san.py --soak $(or $(SECONDS),600) $(ARGS)

.PHONY: test-trixie
test-trixie: deb rpm standalone ## run test-san on Debian 13 (make test runs only its core)
	@tests/prepare vm
	@$(RUN) python3 -m tests.san.bed build --suite trixie --deb $(DEB)
	@$(PYTEST) $(BUSY) tests/san --bed-suite trixie $(ARGS)

.PHONY: autopkgtest
autopkgtest: deb ## run debian/tests with autopkgtest in a virtual machine (ARGS=)
	@tests/prepare autopkgtest
	@$(RUN) python3 -m tests.san.bed autopkgtest --deb $(DEB) -- $(ARGS)

##@ Measure it
.PHONY: bench
bench: build deb ## measure the speed, and draw docs/speed.svg (a quarter of an hour, and the first build of two images)
	@tests/prepare vm
	@$(RUN) python3 -m bench $(ARGS)

##@ Build it
.PHONY: build
build: dist/auto.iscsi dist/auto.snapshots dist/auto-iscsi $(DRIVERS:%=dist/drivers/%) ## build the programs in dist/; they use this clone's modules

.PHONY: deb
deb: $(DEB) ## build the Debian package in dist/

.PHONY: rpm
rpm: $(RPM) ## build the RPM package in dist/

FOR_PYTHON = $(if $(filter command,$(origin PYTHON)),FORCE)
.PHONY: FORCE

# The modules of this clone get byte-code, as they do on a host where they are installed.
dist/auto.iscsi dist/auto.snapshots dist/auto-iscsi $(DRIVERS:%=dist/drivers/%): dist/%: tools/% $(MODULES) $(FOR_PYTHON)
	@mkdir -p $(@D)
	@$(PYTHON) -m compileall -q auto_iscsi
	@sed -e '1s|/usr/bin/python3|$(PYTHON)|' -e 's|/usr/share/auto-iscsi|$(CURDIR)|' $< >$@
	@chmod 755 $@
	@echo "built $@"

# With -S and an empty environment, the programs do not depend on this machine's settings.
ZIPAPP = env -i PYTHONHASHSEED=0 $(PYTHON) -B -S tools/build_zipapp.py
PARTS = $(MODULES) tools/build_zipapp.py $(FOR_PYTHON)

LIBRARIES = build/libraries
dist/standalone/auto.iscsi: $(PARTS) $(LIBRARIES)/ready
	@$(ZIPAPP) map.program $@ $(PYTHON) $(LIBRARIES)
	@echo "built $@"

dist/standalone/auto.snapshots: $(PARTS) $(LIBRARIES)/ready
	@$(ZIPAPP) map.snapshot_links $@ $(PYTHON) $(LIBRARIES)
	@echo "built $@"

dist/standalone/auto-iscsi: $(PARTS) $(LIBRARIES)/ready
	@$(ZIPAPP) admin.cli $@ $(PYTHON) $(LIBRARIES)
	@echo "built $@"

dist/standalone/drivers/%: tools/drivers/% $(PARTS) $(LIBRARIES)/ready
	@$(ZIPAPP) drivers.$* $@ $(PYTHON) $(LIBRARIES)
	@echo "built $@"

$(LIBRARIES)/ready: tools/libraries.txt
	@tests/prepare standalone
	@rm -rf $(LIBRARIES)
	@echo "downloading the libraries of tools/libraries.txt"
	@PIP_ROOT_USER_ACTION=ignore $(PYTHON) -m pip install --quiet --disable-pip-version-check \
		--no-deps --no-compile --only-binary :all: --target $(LIBRARIES) \
		--require-hashes -r tools/libraries.txt
	@touch $@

# The package is built from a copy, because dpkg-buildpackage puts its results beside the source
# folder. tests/prepare has installed the build dependencies; dpkg would also require a compiler.
$(DEB): $(SOURCES)
	@tests/prepare deb
	@rm -rf build/deb && mkdir -p build/deb/auto-iscsi dist
	@cp -R $(PACKAGED) build/deb/auto-iscsi/
	@cd build/deb/auto-iscsi && env -u SOURCE_DATE_EPOCH \
		dpkg-buildpackage --build=binary --no-sign --no-check-builddeps >../log 2>&1 \
		|| { cat ../log; exit 1; }
	@mv build/deb/auto-iscsi_$(VERSION)_all.deb $@
	@echo "built $@"

# On Debian, rpm does not know which packages dpkg has installed.
NODEPS := $(if $(wildcard /etc/debian_version),--nodeps)

# rpmbuild unpacks a source archive, as it would on any host. The RPM contains libmagic's
# description of each file, which is in the language of the locale: so the locale is fixed.
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
standalone: dist/standalone/auto.iscsi dist/standalone/auto.snapshots dist/standalone/auto-iscsi $(DRIVERS:%=dist/standalone/drivers/%) ## build the programs with their libraries inside; they need only Python

##@ Install it
# `sudo make install` is for a host that can use neither package. BUNDLED=yes installs the
# standalone programs.
FROM = $(if $(BUNDLED),dist/standalone,tools)
INSTALL = DESTDIR='$(DESTDIR)' programs=$(FROM) python=$(PYTHON) sysconfdir=$(sysconfdir) libexecdir=$(libexecdir) \
	sbindir=$(sbindir) datadir=$(datadir) mandir=$(mandir) tmpfilesdir=$(tmpfilesdir) udevrulesdir=$(udevrulesdir) \
	systemdunitdir=$(systemdunitdir) docdir=$(docdir) tools/install

.PHONY: install
install: $(if $(BUNDLED),standalone) ## install all that a package has (DESTDIR= PREFIX= BUNDLED=yes)
	@$(INSTALL)

.PHONY: uninstall
uninstall: ## remove it; changed files and mounts stay
	@$(INSTALL) --undo

.PHONY: clean
clean: ## delete what was built; caches outside the clone stay
	@rm -rf dist build auto_iscsi.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

##@ Publish it
.PHONY: release
release: ## check that all files have this version, tag it, build dist/ (VERSION=)
	@tools/release $(if $(filter command,$(origin VERSION)),'$(VERSION)')

.PHONY: help
help:
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-16s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)
