"""The fixtures of the tests in the virtual machine: `vm`, `bare` and `san`.

`vm` has the .deb of `make deb` installed, `bare` does not; `array_vm` is `vm` with the volumes of a
Linux target. Each test resumes its own machine; those of a file that are marked `shared` have one
`vm` after the other. `san` is the SAN inside. The saved states are made when the first test needs
them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
if str(TREE) not in sys.path:
    sys.path.insert(0, str(TREE))

from tests.san import lio_array  # noqa: E402
from tests.san.bed import layers, logs, requirements  # noqa: E402
from tests.san.bed.machine import Machine  # noqa: E402
from tests.san.bed.san import San  # noqa: E402
from tests.san.shared import Shared  # noqa: E402

REPORTS = pytest.StashKey[dict[str, pytest.TestReport]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options for the guest's suite and package, and for the soak tests."""
    parser.addoption("--bed-suite", help="the guest's Debian suite (BED_SUITE, else bookworm)")
    parser.addoption("--soak", help="how long a soak test lasts, in seconds")
    parser.addoption("--bed-deb", help="the package to install (else the newest in dist/)")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Keep the report of a test, for the fixture that saves the logs of a failure."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    item.stash.setdefault(REPORTS, {})[report.when] = report


def lacking(reason: str) -> None:
    """Skip the test, or fail it where a skip would hide that nothing ran."""
    if requirements.required():
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def suite(request: pytest.FixtureRequest) -> str | None:
    """The guest's suite, if the command line names one."""
    if missing := requirements.missing(filesystems=True):
        lacking("the VM test bed needs " + ", ".join(missing))
    chosen = request.config.getoption("--bed-suite")
    return str(chosen) if chosen else None


@pytest.fixture(scope="session")
def booted(suite: str | None, request: pytest.FixtureRequest) -> layers.Layer:
    """The saved state without the package."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        return layers.booted(suite)


@pytest.fixture(scope="session")
def installed(suite: str | None, request: pytest.FixtureRequest) -> layers.Layer:
    """The saved state with the package installed."""
    given = request.config.getoption("--bed-deb")
    deb = Path(given) if given else requirements.newest_deb(TREE)
    if deb is None:
        lacking("no package in dist/: run `make deb` first")
        raise AssertionError
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        return layers.installed(deb, suite)


@pytest.fixture(scope="session")
def with_array(installed: layers.Layer, request: pytest.FixtureRequest) -> layers.Layer:
    """The saved state with the package and the volumes of a Linux target."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        return layers.prepared(installed, lio_array.VOLUMES, timeout=300)


def keep_logs_of_failure(machine: Machine, request: pytest.FixtureRequest) -> bool:
    """Keep the machine's logs if the test of a fixture has failed, and say whether it has."""
    reports = request.node.stash.get(REPORTS, {})
    if not any(report.failed for report in reports.values()):
        return False
    place = logs.folder(TREE, request.node.name)
    logs.keep(machine, place)
    print(f"logs of the guest: {place}", file=sys.stderr)
    return True


def resumed(layer: layers.Layer, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """Resume a machine for one test, and keep its logs if the test fails."""
    with layer.resumed() as machine:
        yield machine
        keep_logs_of_failure(machine, request)


@pytest.fixture(scope="module")
def shared(installed: layers.Layer) -> Iterator[Shared]:
    """The machine of a file's tests that are marked `shared`."""
    machines = Shared(installed)
    yield machines
    machines.discard()


@pytest.fixture
def vm(
    installed: layers.Layer, shared: Shared, request: pytest.FixtureRequest
) -> Iterator[Machine]:
    """A machine with the package installed."""
    if not request.node.get_closest_marker("shared"):
        yield from resumed(installed, request)
        return
    machine = shared.take(request.node.name).machine
    yield machine
    if keep_logs_of_failure(machine, request):
        print(f"one guest for: {', '.join(shared.tests)}", file=sys.stderr)
        shared.discard()


@pytest.fixture
def array_vm(with_array: layers.Layer, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine with the package installed, and the volumes of a Linux target."""
    yield from resumed(with_array, request)


@pytest.fixture
def bare(booted: layers.Layer, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine without the package."""
    yield from resumed(booted, request)


@pytest.fixture
def san(request: pytest.FixtureRequest) -> San:
    """The SAN of the test's machine."""
    if "bare" in request.fixturenames:
        return San(request.getfixturevalue("bare"))
    machine, shared = request.getfixturevalue("vm"), request.getfixturevalue("shared")
    return shared.san if shared.san and shared.san.machine is machine else San(machine)
