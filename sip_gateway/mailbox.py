"""From PJSIP's threads to the event loop, with one wake-up for a burst of events."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class Mailbox:
    """Runs posted functions on the event loop, in the order in which they were posted."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._posted: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._rung = False

    def post(self, function: Callable[..., object], *arguments: Any) -> None:
        """Have `function(*arguments)` called on the event loop. For any thread."""
        self._posted.append((function, arguments))
        self.ring()

    def put(self, function: Callable[..., object], *arguments: Any) -> None:
        """The same at the next `ring`. For any thread."""
        self._posted.append((function, arguments))

    def ring(self) -> None:
        """Wake the event loop when there is anything for it. For any thread."""
        if self._posted and not self._rung:
            self._rung = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        # First lowered, then emptied: what is posted in between rings again.
        self._rung = False
        for _ in range(len(self._posted)):
            function, arguments = self._posted.popleft()
            function(*arguments)
