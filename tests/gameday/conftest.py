"""One AWS for the tests of game days."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gameday.cloud import Cloud


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with Cloud(tmp_path_factory.mktemp("cloud"), "127.0.0.1") as made:
        yield made
