"""Fair shares: who is served next when several clients wait (start-time fair queueing, Goyal et al.
1996).

Each client has a virtual time that grows with what it is served; the one that is behind goes first.
A client that comes back after a pause starts at the present, so an idle hour earns no credit."""

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

Item = TypeVar("Item")


class Shares:
    """Virtual times by client, in any unit of service (tokens, seconds)."""

    def __init__(self) -> None:
        self.now = 0.0
        self.times: dict[Hashable, float] = {}

    def start(self, client: Hashable) -> float:
        """The virtual time at which a client's next work would begin."""
        return max(self.now, self.times.get(client, 0.0))

    def charge(self, client: Hashable, amount: float) -> None:
        """A client was served `amount`."""
        self.now = self.start(client)
        self.times[client] = self.now + amount
        if len(self.times) > 1000:  # whoever is not ahead of the present needs no record
            self.times = {key: time for key, time in self.times.items() if time > self.now}

    def order(
        self, items: Iterable[Item], key: Callable[[Item], tuple[int, Hashable, int]]
    ) -> list[Item]:
        """Items in the order of service. `key` gives (priority, client, number): the higher
        priority first, then the client that is behind, then the lower number."""

        def rank(item: Item) -> tuple[int, float, int]:
            priority, client, number = key(item)
            return (-priority, self.start(client), number)

        return sorted(items, key=rank)
