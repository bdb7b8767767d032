"""What is posted from another thread arrives on the event loop, in order, with few wake-ups."""

from __future__ import annotations

import asyncio
import threading

from sip_gateway.mailbox import Mailbox


class CountingLoop:
    """The running loop, with its wake-ups counted."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.woken = 0

    def call_soon_threadsafe(self, *arguments: object) -> None:
        self.woken += 1
        self._loop.call_soon_threadsafe(*arguments)  # type: ignore[arg-type]


async def in_a_thread(function: object) -> None:
    thread = threading.Thread(target=function)  # type: ignore[arg-type]
    thread.start()
    thread.join()
    await asyncio.sleep(0.01)


async def test_a_burst_wakes_the_loop_once_and_keeps_its_order() -> None:
    loop, seen = CountingLoop(), list[int]()
    mailbox = Mailbox(loop)  # type: ignore[arg-type]

    def burst() -> None:
        for number in range(100):
            mailbox.post(seen.append, number)

    await in_a_thread(burst)
    assert seen == list(range(100))
    assert loop.woken == 1


async def test_what_is_put_waits_for_the_ring() -> None:
    loop, seen = CountingLoop(), list[int]()
    mailbox = Mailbox(loop)  # type: ignore[arg-type]
    await in_a_thread(lambda: mailbox.put(seen.append, 1))
    assert (seen, loop.woken) == ([], 0)
    await in_a_thread(mailbox.ring)
    assert (seen, loop.woken) == ([1], 1)
    await in_a_thread(mailbox.ring)
    assert loop.woken == 1


async def test_what_is_put_goes_with_the_next_post() -> None:
    loop, seen = CountingLoop(), list[int]()
    mailbox = Mailbox(loop)  # type: ignore[arg-type]
    await in_a_thread(lambda: (mailbox.put(seen.append, 1), mailbox.post(seen.append, 2)))
    assert (seen, loop.woken) == ([1, 2], 1)
