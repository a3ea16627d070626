"""The pytest plugin: options, parametrization, header and closing lines.

    pytest --pyargs isostep_conformance --backend mine [--full]

The tests are in ``test_conformance.py`` of this package. They are collected through ``--pyargs`` only, or by a
module that imports them; a project's own test run does not meet them by accident. Nor does it meet the options:
other projects have a ``--backend`` too, and pytest refuses to have two. Where this package is not named on the command
line they are ``--isostep-backend`` and ``--isostep-full``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

# Everything else is imported where it is needed, isostep too: this module is loaded by every pytest on the machine.

_SESSION = pytest.StashKey[Any]()
_UNITS = pytest.StashKey[Any]()


class Hooks:
    """Hooks that a conftest may implement."""

    def pytest_isostep_paths(self) -> dict[str, Callable[[], Any]]:  # type: ignore[empty-body]
        """Paths that no entry point offers: name -> a function that makes the backend."""


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks."""
    pluginmanager.add_hookspecs(Hooks)


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """The options, with their short names where the suite is named."""
    config: Any = pluginmanager.get_plugin("pytestconfig")
    short = any("isostep_conformance" in str(word) for word in config.invocation_params.args)
    group = parser.getgroup("isostep")
    group.addoption(
        "--isostep-backend",
        *["--backend"] * short,
        action="append",
        default=[],
        metavar="NAME",
        help="isostep conformance: a path or family to test; repeatable; default: all that run here",
    )
    group.addoption(
        "--isostep-full",
        *["--full"] * short,
        action="store_true",
        help="isostep conformance: the whole matrix, not its sample",
    )


def session(config: pytest.Config) -> Any:
    """The session of this run, made when first asked for."""
    if _SESSION not in config.stash:
        from isostep import BackendError
        from isostep_conformance import paths
        from isostep_conformance.session import Session

        extra: dict[str, Callable[[], Any]] = {}
        for found in config.hook.pytest_isostep_paths():
            extra |= found or {}
        names = config.getoption("--isostep-backend")
        try:
            chosen = paths.chosen(names, extra) if names else paths.installed(extra)
        except BackendError as error:
            raise pytest.UsageError(str(error)) from None
        config.stash[_SESSION] = Session(chosen)
    return config.stash[_SESSION]


def units(config: pytest.Config) -> Any:
    """The units of this run."""
    if _UNITS not in config.stash:
        from isostep_conformance.select import SelectionError
        from isostep_conformance.select import units as select

        try:
            config.stash[_UNITS] = select(
                session(config).paths, full=config.getoption("--isostep-full")
            )
        except SelectionError as error:
            raise pytest.UsageError(str(error)) from None
    return config.stash[_UNITS]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per unit and per contract check."""
    if "conformance_unit" in metafunc.fixturenames:
        found = units(metafunc.config)
        metafunc.parametrize("conformance_unit", found, ids=[u.id for u in found])
    if "conformance_contract" in metafunc.fixturenames:
        from isostep_conformance.select import contracts

        pairs = contracts(units(metafunc.config), full=metafunc.config.getoption("--isostep-full"))
        metafunc.parametrize(
            "conformance_contract", pairs, ids=[f"{u.id}-{name}" for u, name in pairs]
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The contract checks of a case beside its units: they share its truth and what was compiled for it."""
    places, cases = [], []
    for place, item in enumerate(items):
        given = getattr(getattr(item, "callspec", None), "params", {})
        unit = given.get("conformance_unit") or given.get("conformance_contract", (None,))[0]
        if unit is not None:
            places.append(place)
            cases.append(unit.case.id)
    first = {case: k for k, case in reversed(list(enumerate(cases)))}
    chosen = [items[place] for place in places]
    for place, k in zip(
        places, sorted(range(len(cases)), key=lambda k: first[cases[k]]), strict=True
    ):
        items[place] = chosen[k]


@pytest.fixture(scope="session")
def conformance(request: pytest.FixtureRequest) -> Any:
    """The session that tests report to."""
    return session(request.config)


def pytest_ignore_collect(collection_path: Any, config: pytest.Config) -> bool | None:
    """Walking through a source tree must not collect the suite: only ``--pyargs`` and imports do."""
    if (
        collection_path.name == "test_conformance.py"
        and collection_path.parent.name == "isostep_conformance"
    ):
        return None if config.option.pyargs else True
    return None


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Versions, devices, and what is not run; only where the suite was asked for."""
    asked = config.getoption("--isostep-backend") or any(
        "isostep_conformance" in str(a) for a in config.args
    )
    if not asked:
        return []
    from isostep_conformance.session import header

    return header(session(config))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """The margins that were measured, and the paths that did not run, as the last words."""
    found = config.stash.get(_SESSION, None)
    if found is None or not found.outcomes:
        return
    terminalreporter.section("isostep conformance")
    for line in closing(found):
        terminalreporter.write_line(line)


def closing(found: Any) -> Iterator[str]:
    """The worst ratios, the exempt elements and the missing paths."""
    from isostep_conformance.budget import FACTOR

    for (path, dtype), (ratio, where) in found.honest().items():
        yield f"{path:20s} {dtype:9s} worst ratio {ratio:7.3g} of {FACTOR:g}   {where}"
    elements, exempt = (
        sum(o.elements for o in found.outcomes),
        sum(o.exempt for o in found.outcomes),
    )
    yield f"{elements:,} numbers compared, {exempt:,} exempt at thresholds"
    yield f"paths not run: {len(found.missing)}" + "".join(
        f"; {p.name}: {p.missing}" for p in found.missing
    )
