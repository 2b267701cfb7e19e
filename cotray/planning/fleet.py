"""One stage on nodes that come, are taken away and go: a discrete-event simulation of `cotray.pools.pool`.

What it follows: all replicas are asked for at once and the first to come begins; a replica holds one unit
more than its model decodes; a lost replica loses the batches in its model and keeps its units until it is
started again, on a node that is free or on a new one; units that wait for too long, with nothing else left
to do, are given to new replicas; a node without work leaves. All times are in seconds.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict, deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import simpy

from cotray.planning.pool_work import Work
from cotray.planning.replica_threads import after, first_done
from cotray.seeds import seeded

Market = Literal["spot", "spot-first", "on-demand"]
"""`spot` waits for a spot node in place of a lost one, `spot-first` takes one on demand."""
STUCK_S = 60.0
"""As in cotray.pools.progress: units wait so long, or twice as long as a model loads, before others get
them."""
Z_P90 = 1.2815515655446004


@dataclass(frozen=True)
class Nodes:
    """How nodes of one kind come and go."""

    market: Market = "on-demand"
    start_s: float = 0.0
    """Median, from asking for a node until Ray can place replicas on it."""
    start_p90_s: float = 0.0
    """One node in ten takes longer (log-normal); 0 = all take the median."""
    load_s: float = 0.0
    """From placing a replica until its model is loaded."""
    interruptions_per_hour: float = 0.0
    """Of one spot node, at any age."""
    return_s: float = 0.0
    """Mean of the (exponential) time until there is another spot node to be had."""
    idle_s: float = 60.0
    """A node with nothing to do leaves after so long."""
    gpus: int = 1
    replicas: int = 1
    """On one node."""

    def draw_start_s(self, rng: random.Random) -> float:
        if not 0 < self.start_s < self.start_p90_s:
            return self.start_s
        sigma = math.log(self.start_p90_s / self.start_s) / Z_P90
        return self.start_s * math.exp(sigma * rng.gauss(0, 1))


@dataclass
class Outcome:
    """One simulated stage. GPU-seconds are of what was paid for, from a node's first second to its last;
    `spent` divides them into startup, working, lost and idle."""

    seconds: float = 0.0
    paid: defaultdict[str, float] = field(default_factory=partial(defaultdict, float))
    """GPU-seconds by market: spot, on-demand."""
    spent: defaultdict[str, float] = field(default_factory=partial(defaultdict, float))
    """`lost` is to interruptions: batches begun, and starting again. `idle` is the tail and the time that
    nodes wait before they leave."""
    num_interruptions: int = 0


def simulate(work: Work, nodes: Nodes, *, num_replicas: int, seed: int, run: int = 0) -> Outcome:
    """Run `run` of the stage on as many nodes as the replicas need; the same arguments, the same outcome."""
    return _Stage(work, nodes, num_replicas, partial(seeded, seed, str(run))).run()


Process = Generator[simpy.Event, Any, None]


@dataclass
class _Replica:
    """`held` are its units, next turn first. `reason` is what its start is counted as."""

    held: list[int] = field(default_factory=list)
    reason: str = "startup"


class _Stage:
    def __init__(
        self, work: Work, nodes: Nodes, num_replicas: int, stream: Callable[[str], random.Random]
    ) -> None:
        self.work, self.nodes, self.num_replicas, self.stream = work, nodes, num_replicas, stream
        self.num_nodes = math.ceil(num_replicas / nodes.replicas)
        self.gpus_per_replica = nodes.gpus / nodes.replicas
        self.env = simpy.Environment()
        self.queue = deque(work.units)
        self.waiting = simpy.Store(self.env)
        """Replicas without a place on a node."""
        self.num_left = work.num_batches
        self.done = self.env.event()
        self.num_busy = 0
        self.moved = 0.0
        """When anything last came, went or was finished."""
        self.num_asked = 0
        self.present: list[simpy.Process] = []
        self.outcome = Outcome()

    def run(self) -> Outcome:
        self.env.process(self._begin())
        self.env.run(until=self.done)
        self.outcome.seconds = self.env.now + self.work.seal_s
        self.env.run(until=self.env.all_of(self.present))
        spent = self.outcome.spent
        spent["idle"] = sum(self.outcome.paid.values()) - sum(spent.values())
        return self.outcome

    def _begin(self) -> Process:
        yield self.env.timeout(self.work.setup_s)
        for _ in range(self.num_replicas):
            self.waiting.put(_Replica())
        self._ask_for_nodes("startup")
        patience = max(STUCK_S, 2 * self.nodes.load_s)
        while self.num_left:
            pause = max(self.moved + patience - self.env.now, patience / 10)
            yield self.env.timeout(pause) | self.done
            is_stuck = not self.num_busy and any(replica.held for replica in self.waiting.items)
            if is_stuck and self.env.now - self.moved >= patience:
                self._begin_anew()

    def _begin_anew(self) -> None:
        """Units of replicas whose node does not come back are given to new replicas."""
        for replica in self.waiting.items:
            self.queue.extend(replica.held)
        self.waiting.items.clear()
        for _ in range(min(self.num_replicas, len(self.queue))):
            self.waiting.put(_Replica(reason="lost"))
        self._ask_for_nodes("lost")

    def _ask_for_nodes(self, reason: str) -> None:
        """So many that every waiting replica has a place, of `num_nodes` in all."""
        self.present = [process for process in self.present if process.is_alive]
        num_needed = math.ceil(len(self.waiting.items) / self.nodes.replicas)
        for _ in range(min(num_needed, self.num_nodes - len(self.present))):
            rng = self.stream(f"node {self.num_asked}")
            self.present.append(self.env.process(self._node(rng, reason)))
            self.num_asked += 1

    def _node(self, rng: random.Random, reason: str) -> Process:
        """One place in the cluster: a node, and those that come instead of it when it is taken away."""
        is_spot = self.nodes.market != "on-demand"
        while True:
            began = self.env.now
            yield self.env.timeout(self.nodes.draw_start_s(rng))
            self._spend(reason, (self.env.now - began) * self.nodes.replicas)
            self.moved = self.env.now
            places = [self.env.process(self._place()) for _ in range(self.nodes.replicas)]
            all_left = self.env.all_of(places)
            rate = self.nodes.interruptions_per_hour / 3600 if is_spot else 0
            yield (all_left | self.env.timeout(rng.expovariate(rate))) if rate else all_left
            self.moved = self.env.now
            market = "spot" if is_spot else "on-demand"
            self.outcome.paid[market] += (self.env.now - began) * self.nodes.gpus
            remaining = [place for place in places if place.is_alive]
            if not remaining:
                break
            for place in remaining:
                place.interrupt()
            # A new condition: the one above no longer listens.
            yield self.env.all_of(remaining)
            self.outcome.num_interruptions += 1
            reason = "lost"
            if self.nodes.market == "spot-first":
                is_spot = False
            elif self.nodes.return_s:
                yield self.env.timeout(rng.expovariate(1 / self.nodes.return_s)) | self.done
            if not self.waiting.items:
                break

    def _place(self) -> Process:
        """Room for a replica, until its node is taken away or has had nothing to do for a while."""
        while True:
            request: Any = self.waiting.get()
            try:
                yield request | self.env.timeout(self.nodes.idle_s)
                if not request.triggered:
                    request.cancel()
                    return
                yield from self._load(request.value)
                yield from self._decode(request.value)
            except simpy.Interrupt:
                request.cancel()
                if request.triggered:
                    self._wait_again(request.value)
                return

    def _wait_again(self, replica: _Replica) -> None:
        """A replica that was lost while there is work for it."""
        if replica.held or self.queue:
            replica.reason = "lost"
            self.waiting.put(replica)

    def _load(self, replica: _Replica) -> Process:
        began = self.env.now
        try:
            yield self.env.timeout(self.nodes.load_s)
        except simpy.Interrupt:
            self._spend("lost", self.env.now - began)
            raise
        self._spend(replica.reason, self.nodes.load_s)
        self.moved = self.env.now

    def _decode(self, replica: _Replica) -> Process:
        """Until there is nothing left to take."""
        self.num_busy += 1
        try:
            yield from self._take(replica)
            while replica.held:
                yield from self._finish_one(replica)
                yield from self._take(replica)
        finally:
            self.num_busy -= 1

    def _take(self, replica: _Replica) -> Process:
        """Whoever is ready at the same moment takes a first unit before anyone takes a second."""
        while self.queue and len(replica.held) <= self.work.batches_at_once:
            replica.held.append(self.queue.popleft())
            if self.queue and len(replica.held) <= self.work.batches_at_once:
                yield self.env.timeout(0)

    def _finish_one(self, replica: _Replica) -> Process:
        """Decode until a unit is done; an interruption loses what is in the model."""
        _, num_batches = first_done(replica.held)
        began, each = self.env.now, self.work.seconds_per_batch
        try:
            yield self.env.timeout(num_batches * each)
        except simpy.Interrupt:
            elapsed = self.env.now - began
            # Of several batches at once, each is on average half done.
            num_done = int(elapsed / each - (self.work.batches_at_once - 1) / 2)
            num_done = max(0, min(num_done, num_batches - 1))
            self._finish(replica, num_done)
            self._spend("lost", elapsed - num_done * each)
            raise
        self._finish(replica, num_batches)

    def _finish(self, replica: _Replica, num_batches: int) -> None:
        replica.held = after(replica.held, num_batches)
        self._spend("working", num_batches * self.work.seconds_per_batch)
        self.moved = self.env.now
        self.num_left -= num_batches
        if not self.num_left:
            self.done.succeed()

    def _spend(self, what: str, replica_seconds: float) -> None:
        self.outcome.spent[what] += replica_seconds * self.gpus_per_replica
