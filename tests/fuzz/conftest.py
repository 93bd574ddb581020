"""How often, and by which profile, the fuzzers of this folder try their inputs.

    pytest tests/fuzz                        # ci: a few seconds, the same inputs on every machine and day
    XLING_FUZZ=5000 pytest tests/fuzz        # so many inputs a test, new ones each time; failures print what to repeat
    pytest -m nightly tests/fuzz             # the same, NIGHTLY inputs a test

`@given` alone takes the profile's number; no test sets its own.
"""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

NIGHTLY = 5000
# Inputs are files in a folder of the test's own, which every input overwrites, and reading one takes what it takes.
_SHARED = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
}

settings.register_profile("ci", max_examples=60, derandomize=True, database=None, **_SHARED)
settings.register_profile("long", max_examples=int(os.environ.get("XLING_FUZZ") or NIGHTLY), print_blob=True, **_SHARED)


def _nightly(config: pytest.Config) -> bool:
    return str(config.getoption("markexpr")).strip() == "nightly"


def pytest_configure(config: pytest.Config) -> None:
    """`long` where a number is set or only the nightly tests are asked for, else `ci`."""
    settings.load_profile("long" if os.environ.get("XLING_FUZZ") or _nightly(config) else "ci")


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Every fuzzer is a nightly test too."""
    for item in items if _nightly(config) else ():
        if Path(__file__).parent in item.path.parents:
            item.add_marker("nightly")
