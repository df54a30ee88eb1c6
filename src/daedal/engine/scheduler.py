"""Which requests run in the next call of the network, and with how many tokens each.

Everything is catching up: a request has `len(tokens)` tokens and the cache has some of them,
whether that is a prompt in chunks, one new token, guesses to verify, or a request that was
preempted and starts over. One budget of tokens a step; those that decode come first, then prompts
under way, then waiting requests in order. When blocks run out the youngest request is put back to
the head of the queue."""

from collections import deque
from dataclasses import dataclass

from daedal.engine.paged import PagedCache
from daedal.engine.request import Request
from daedal.engine.shares import Shares
from daedal.engine.slots import SlotCache

Cache = SlotCache | PagedCache


@dataclass(slots=True)
class Work:
    """Run `count` tokens of a request: known ones first, then `guesses`."""

    request: Request
    start: int
    count: int
    guesses: list[int]

    @property
    def complete(self) -> bool:
        """Whether the request has caught up, so that its logits are wanted."""
        return self.start + self.count == len(self.request.tokens) + len(self.guesses)

    def tokens(self) -> list[int]:
        known = self.request.tokens[self.start : self.start + self.count - len(self.guesses)]
        return known + self.guesses


class Scheduler:
    """Queues of requests over one cache. `running` is in order of admission, oldest first."""

    def __init__(self, cache: Cache, token_budget: int) -> None:
        self.cache, self.token_budget = cache, token_budget
        self.waiting: deque[Request] = deque()
        self.shares = Shares()  # of the clients, in tokens
        self.running: list[Request] = []
        self.preemptions = 0

    def plan(self) -> list[Work]:
        """The work of one step, in order of admission."""
        work: dict[Request, Work] = {}
        budget, pressed = self.token_budget, self.preemptions
        behind = [request for request in self.running if self._need(request) > 1]
        for request in [*(r for r in self.running if self._need(r) == 1), *behind]:
            if budget and request.slot >= 0:
                budget += self._continue(request, budget, work)
        if pressed == self.preemptions:
            self._admit(budget, work)
        for request, part in work.items():
            self.shares.charge(request.client, part.count)
        return [work[request] for request in self.running if request in work]

    def _need(self, request: Request) -> int:
        return len(request.tokens) - self.cache.lengths[request.slot] if request.slot >= 0 else 0

    def _continue(self, request: Request, budget: int, work: dict[Request, Work]) -> int:
        """Add a running request's work, preempting others for its place if need be; returns the
        change of the budget."""
        freed = 0
        start, need = self.cache.lengths[request.slot], self._need(request)
        guesses = request.guesses[: budget - 1] if need == 1 else []
        guesses = guesses[: max(0, self.cache.max_len - start - 1)]
        if guesses and not self.cache.grow(request.slot, start + 1 + len(guesses)):
            guesses = []  # a guess is not worth another request's place
        count = min(need, budget) + len(guesses)
        while not self.cache.grow(request.slot, start + count):
            victim = self.running[-1]
            self.preempt(victim)
            freed += work.pop(victim).count if victim in work else 0
            if victim is request:
                return freed
        work[request] = Work(request, start, count, guesses)
        return freed - count

    def _admit(self, budget: int, work: dict[Request, Work]) -> None:
        if not budget or not self.cache.free:
            return
        for request in self._order():
            if not budget or not self.cache.free:
                return
            if request.waits_for is not None and self._still_waits(request):
                continue
            if self.running and not self.cache.room(len(request.tokens)):
                return
            opened = self.cache.open(request.tokens, request.adapter)
            if opened is None:
                return
            request.slot, reused = opened
            count = min(len(request.tokens) - reused, budget)
            if not self.cache.grow(request.slot, reused + count):
                self.cache.close(request.slot)
                request.slot = -1
                return
            if not request.preemptions:
                request.reused = reused
            self.running.append(request)  # before it waits no more: a Ctrl-C in between loses none
            self.waiting.remove(request)
            work[request] = Work(request, reused, count, [])
            budget -= count

    def mend(self) -> None:
        """Put right what a Ctrl-C in the middle of an admission left: a request that runs waits no
        more, and one that does not run has no place in the cache."""
        for request in [request for request in self.waiting if request.slot >= 0]:
            if request in self.running:
                self.waiting.remove(request)
            else:
                self.cache.close(request.slot)
                request.slot = -1

    def branch(self, request: Request) -> list[Request]:
        """The samples that waited for this one's prompt and now run with a copy of its keys; places
        that others wait for are left to them."""
        if not isinstance(self.cache, SlotCache) or not self.cache.prefix_caching:
            return []
        siblings = [r for r in request.samples if r.waits_for is request and r.slot < 0]
        others = sum(r.waits_for is not request for r in self.waiting)
        siblings = siblings[: max(len(self.cache.free) - others, 0)]
        for sibling in siblings:
            sibling.slot = self.cache.branch(request.slot, sibling.tokens)
            sibling.waits_for, sibling.reused = None, len(sibling.tokens)
            self.running.append(sibling)
            self.waiting.remove(sibling)
        return siblings

    def _order(self) -> list[Request]:
        """The waiting in the order of service: what was preempted first, then by priority, share
        and age."""
        if len(self.waiting) == 1:
            return [self.waiting[0]]
        again = [request for request in self.waiting if request.preemptions]
        fresh = (request for request in self.waiting if not request.preemptions)
        return again + self.shares.order(fresh, lambda r: (r.priority, r.client, r.id))

    def _still_waits(self, request: Request) -> bool:
        """A sample waits until its sibling has run the prompt that both share."""
        first = request.waits_for
        if (
            first is None
            or first.finished
            or first.preemptions
            or (first.slot >= 0 and self._need(first) <= 1)
        ):
            request.waits_for = None
            return False
        return True

    def preempt(self, request: Request) -> None:
        """Take a running request's memory; it starts over when there is room, and draws the same
        tokens."""
        self.release(request)
        request.preemptions += 1
        self.preemptions += 1
        self.waiting.appendleft(request)

    def release(self, request: Request) -> None:
        """Out of the running, its slot given back."""
        self.running.remove(request)
        self.cache.close(request.slot)
        request.slot, request.guesses = -1, []
