"""A sandbox for each tier that this machine reaches; what is not reached is skipped, and says why."""

from collections.abc import Iterator

import pytest

from daedal.errors import DaedalError
from daedal.sandbox.results import TIERS
from daedal.sandbox.sandbox import Sandbox


@pytest.fixture(scope="session", params=TIERS[1:])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    try:
        with Sandbox(request.param, at_most=request.param, workers=2) as made:
            yield made
    except DaedalError as error:
        pytest.skip(str(error))
