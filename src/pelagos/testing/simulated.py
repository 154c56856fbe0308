"""Users' services in the simulated world: virtual time, one seed, containers that are slow, stand still and die.

    def test_nothing_is_lost():
        for seed in range(50):
            with simulated(seed, delay=(0.0, 0.2)) as simulation:
                simulation.run(story)

    async def story(simulation: Simulation) -> None:
        one, two = await simulation.node("one"), await simulation.node("two")
        ...
        one.kill()
        await simulation.advance(30)

Each node is a :class:`pelagos.simulation.VirtualProcess` with one container, on an exchange in memory that treats it as
a broker treats a program: what comes for it comes later, in its own turn, as long as it lives; when it dies, its queues
lose their consumer, and what it had in its hands goes to others. A kill runs no clean-up, no ``finally`` and no
``except``. When to kill is chosen by time or by edge: each message that a node sends or gets, and each commit of its
store, has one before and one after it (:class:`pelagos.simulation.edges.Edges`), so a loop over all edges tries every
crash there is.

No socket, thread or child process exists here; services whose blocking work goes through the world work unchanged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from structlog.testing import capture_logs

from pelagos.container import Container
from pelagos.exchange import (
    DeadLetters,
    Delivery,
    Envelope,
    Handler,
    MemoryTransport,
    Names,
    Receiver,
    Subscription,
    Transport,
    TransportSnapshot,
)
from pelagos.exchange.memory_queue import MemoryConsumer
from pelagos.model.errors import InvalidInput
from pelagos.process import Process, client
from pelagos.simulation import SimulatedWorld, VirtualLoop, VirtualProcess, run_virtual
from pelagos.simulation.edges import Crash, Edges
from pelagos.store import SimulatedStore, Store, open_simulated_store
from pelagos.testing.harness import Harness

__all__ = ["Node", "Simulation", "simulated"]

P = TypeVar("P", bound=Process)
T = TypeVar("T")

_STEP = 0.01


class Node:
    """A container in a process of its own, which may be paused and killed. Made by :meth:`Simulation.node`."""

    def __init__(self, simulation: Simulation, name: str, process: VirtualProcess) -> None:
        self.name = name
        self.edges = Edges(lambda where: self.kill(), self.pause)
        """Where it may die: ``node.edges.arm(7)``."""
        self.container: Container
        self._stores: list[SimulatedStore] = []
        self._simulation = simulation
        self._process = process
        self._transport: _NodeTransport

    @property
    def alive(self) -> bool:
        return self._process.state != "dead"

    async def spawn(self, process: Process | Callable[[], Process], **options: Any) -> str:
        """As :meth:`pelagos.container.Container.spawn`."""
        return await self.run(self.container.spawn(process, **options))

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something in this node. Should the node die, it never returns."""
        return await self._process.start(coroutine)

    async def store(self) -> Store:
        """A store of this node on the database of all nodes. Each of its commits is an edge, before and after; batches
        take their time as messages do."""
        simulation = self._simulation
        delay = simulation.delay
        database = simulation.harness.database()
        store = open_simulated_store(simulation.world, database=database, hooks=self, before=delay, after=delay)
        self._stores.append(store)
        await self.run(store.start())
        simulation.harness.at_the_end(partial(self._end_store, store))
        return store

    async def _end_store(self, store: SimulatedStore) -> None:
        if self.alive:
            await store.stop()

    def before_commit(self) -> None:
        """The store's hook."""
        if self.edges.reached("before a commit"):
            raise Crash(self.edges.died_at)

    def after_commit(self) -> None:
        """The store's hook."""
        if self.edges.reached("after a commit"):
            raise Crash(self.edges.died_at)

    def kill(self) -> None:
        """Nothing of it ever runs again; its exchange learns of it at once. Idempotent."""
        if self.alive:
            self._process.kill()
            for store in self._stores:
                store.kill(Crash(f"node {self.name} was killed"))
            self._transport.lost()
            self._simulation.harness.lose(self.container)

    def pause(self) -> None:
        """It stands still, and nobody is told."""
        self._process.pause()

    def resume(self) -> None:
        self._process.resume()

    def end(self) -> None:
        """For the simulation's end: the living go on to be stopped, the dead are let go of."""
        self.resume()
        self._process.bury()


class Simulation:
    """One story's world. Made by :func:`simulated`; all but :meth:`run` is for the story."""

    world: SimulatedWorld
    harness: Harness
    """Recorder, users and policy, as in other tests. It checks nothing at the end unless ``check`` is set: where
    containers die, requests stay open."""

    def __init__(self, seed: int | str, delay: tuple[float, float], policy: str) -> None:
        if not 0 <= delay[0] <= delay[1]:
            raise InvalidInput(f"a delay is (least, most) in seconds, not {delay}")
        self.seed = seed
        self.delay = delay
        """Seconds that each message takes, from and to; may be changed in the story."""
        self.nodes: dict[str, Node] = {}
        self._policy = policy
        self._loop: VirtualLoop
        self._exchange: MemoryTransport

    def run(self, story: Callable[[Simulation], Coroutine[Any, Any, T]]) -> T:
        """Run a story to its end and return what it returns. What the story's nodes still do then is stopped in good
        order. Raises what it raises, and the simulation's own errors: Deadlock, Livelock, Forbidden."""

        async def main(loop: VirtualLoop) -> T:
            self._loop = loop
            self.world = SimulatedWorld(self.seed, loop)
            self._exchange = MemoryTransport(self.world)
            await self._exchange.start()
            async with Harness(self.world, transport=self._transport_of, policy=self._policy, check=False) as harness:
                self.harness = harness
                self.edge = (await self.node("story")).container.edge
                try:
                    return await story(self)
                finally:
                    with capture_logs():  # what the clean-up of the dead says, they never said
                        for node in self.nodes.values():
                            node.end()

        return run_virtual(main)

    # -- for the story -----------------------------------------------------------------------------------------

    async def node(self, name: str) -> Node:
        """Start one more node. A name is never used twice: who comes again after a crash is somebody else."""
        if name in self.nodes:
            raise InvalidInput(f"there was a node {name!r} already", advice="Call the next one by another name.")
        node = self.nodes[name] = Node(self, name, self._loop.process(name))
        node.container = await node.run(self.harness.container(name))
        return node

    async def advance(self, seconds: float) -> None:
        """Let virtual time pass, and all that happens in it."""
        await asyncio.sleep(seconds)

    async def until(self, condition: Callable[[], Any], seconds: float = 60.0) -> None:
        """Let virtual time pass until something holds. Raises :class:`AssertionError` if it does not in time."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():  # noqa: ASYNC110 - what is waited for rings no bell
                    await asyncio.sleep(_STEP)
        except TimeoutError:
            raise AssertionError(f"it did not come to pass within {seconds:g} virtual seconds") from None

    def client(self, cls: type[P], **options: Any) -> P:
        """A client for the story itself, whom no crash concerns; ``options`` as :func:`pelagos.process.client`."""
        return client(cls, self.edge, **options)

    # -- for nodes ---------------------------------------------------------------------------------------------

    def _transport_of(self, names: Names) -> Transport:
        node = self.nodes[names.container]
        node._transport = _NodeTransport(self, node, self._exchange)
        return node._transport

    def when(self) -> float:
        """The loop's time at which a message that goes now arrives."""
        least, most = self.delay
        taken = self.world.rng("testing.delays").uniform(least, most) if most else 0.0
        return self._loop.time() + taken


@contextmanager
def simulated(
    seed: int | str = 1, *, delay: tuple[float, float] = (0.0, 0.0), policy: str = ""
) -> Iterator[Simulation]:
    """A simulation of that seed; what is raised in the block gets a note with the seed, which repeats it exactly.

    ``delay``: bounds in seconds of the time that each message takes; order is kept between one queue and one receiver.
    ``policy``: the text of a policy file."""
    try:
        yield Simulation(seed, delay, policy)
    except BaseException as error:
        error.add_note(f"in the simulated world of seed {seed!r}")
        raise


class _NodeTransport:
    """The exchange as one node has it: hands over in the node's own turns, with delays, until the node dies."""

    def __init__(self, simulation: Simulation, node: Node, exchange: MemoryTransport) -> None:
        self._simulation = simulation
        self._node = node
        self._exchange = exchange
        self._subscriptions: list[_NodeSubscription] = []

    def lost(self) -> None:
        """The node has died."""
        while self._subscriptions:
            self._subscriptions.pop(0).break_off()

    async def publish(self, envelope: Envelope) -> None:
        edges = self._node.edges
        if not self._node.alive:
            raise Crash  # it is being buried
        await edges.pass_(f"before sending {envelope.op}")
        await self._exchange.publish(envelope)
        await edges.pass_(f"after sending {envelope.op}")

    def post(self, envelope: Envelope) -> None:
        if self._node.alive and not self._node.edges.reached(f"before posting {envelope.op}"):
            self._exchange.post(envelope)
            self._node.edges.reached(f"after posting {envelope.op}")

    async def subscribe(self, receiver: Receiver, handler: Handler) -> Subscription:
        made = _NodeSubscription(self._simulation, self._node, handler)
        self._subscriptions.append(made)
        consumer = await self._exchange.subscribe(receiver, made.receive)
        assert isinstance(consumer, MemoryConsumer)
        made.consumer = consumer
        return made

    async def start(self) -> None:
        """The exchange is everybody's."""

    async def stop(self) -> None:
        self.lost()

    async def wait_served(self, address: str, timeout: float) -> bool:
        return await self._exchange.wait_served(address, timeout)

    async def delete_durable(self, address: str, *, reason: str | None = None) -> int:
        return await self._exchange.delete_durable(address, reason=reason)

    def on_disconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self._exchange.on_disconnect(callback)

    @property
    def dead_letters(self) -> DeadLetters:
        return self._exchange.dead_letters

    def snapshot(self) -> TransportSnapshot:
        return self._exchange.snapshot()


class _NodeSubscription:
    consumer: MemoryConsumer

    def __init__(self, simulation: Simulation, node: Node, handler: Handler) -> None:
        self._simulation = simulation
        self._node = node
        self._handler = handler
        self._on_their_way: dict[int, tuple[Delivery, asyncio.TimerHandle]] = {}
        self._count = 0
        self._last = 0.0

    def receive(self, delivery: Delivery) -> None:
        """It is in the node's queue; it arrives when its time has come, never before one that was sent earlier."""
        self._last = max(self._simulation.when(), self._last + 1e-9)
        self._count += 1
        number = self._count
        timer = self._node._process.call_at(self._last, self._arrive, number)
        self._on_their_way[number] = (delivery, timer)

    def _arrive(self, number: int) -> None:
        delivery, _ = self._on_their_way.pop(number)
        op = delivery.envelope.op
        if not self._node.edges.reached(f"before {op} arrived"):
            self._handler(delivery)
            self._node.edges.reached(f"after {op} arrived")

    async def cancel(self) -> None:
        self.consumer.cancel_now()
        for delivery, timer in reversed(self._on_their_way.values()):
            timer.cancel()
            delivery.requeue()
        self._on_their_way.clear()

    async def close(self) -> None:
        self.break_off()

    def break_off(self) -> None:
        """Hand over nothing more; what is not settled goes to others."""
        for _, timer in self._on_their_way.values():
            timer.cancel()
        self._on_their_way.clear()
        self.consumer.close_now()
