"""Servers for tests that hurt them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.servers import Servers


@pytest.fixture
def own_servers() -> Iterator[Servers]:
    """A PostgreSQL and a Valkey of this test's own, behind proxies that can cut their connections."""
    own = Servers()
    yield own
    own.close()
