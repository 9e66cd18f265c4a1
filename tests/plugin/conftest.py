"""An event loop that is open: verl's reward managers take the current one, and tests before may have closed it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def event_loop_of_managers() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(autouse=True)
def open_event_loop(event_loop_of_managers: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(event_loop_of_managers)
