"""One simulated world: a bucket, a network to it, clusters with processes that fail, and users who run commands.

The program in it is the real one, from the client down to the retries of single S3 requests; only Ray, boto3 and the
clock are replaced. Every request and every failpoint is a step, and at every step a process can stop or die.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import Context
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Literal

from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError

from tests.simulation.bucket import Bucket, refusal
from tests.simulation.loop import CURRENT, Killed, Loop, Process

SECRET = "CANARY-SECRET-7f3a"
"""Part of every refusal of the store; must appear nowhere."""

START = datetime(2026, 1, 1, tzinfo=UTC)


Clock = Literal["store", "cluster", "user"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Faults:
    """The faults of one history.

    Attributes:
        crashes: by number of a step, what happens to the process that takes it, and for how long it is stopped.
        refused: share of requests that the store refuses with 409, 500 or 503.
        lost: share of requests that are carried out while their answer is lost.
        late: share of requests that are given up by the client and carried out later.
        outages: intervals in which the store refuses everything, in seconds.
        latency_s: longest latency of a message, one way.
        orphan_s: longest life of a process whose driver is gone.
        skews: how far the clocks of the store, of the clusters and of the users' machines are ahead, in seconds.
    """

    crashes: dict[int, tuple[Literal["kill", "stop"], float]] = field(default_factory=dict)
    refused: float = 0.0
    lost: float = 0.0
    late: float = 0.0
    outages: tuple[tuple[float, float], ...] = ()
    latency_s: float = 0.1
    orphan_s: float = 1.0
    skews: dict[Clock, float] = field(default_factory=dict)


@dataclass(kw_only=True, slots=True)
class Stay:
    """One row's stay in an engine of a pool. Times are None until they have come."""

    replica: Process | None
    job_id: str
    waited_from_s: float
    entered_s: float
    tokens: int
    answered_s: float | None = None
    left_s: float | None = None
    generated_tokens: int = 0


class World:
    """Everything around the program.

    Attributes:
        store_fails: whether any of the faults is the store's.
        commands: names of the processes that users have started.
        steps: steps taken so far, by all processes.
        killers: rows of the job that kill the engine.
        blows: replicas that were killed or stopped from outside, so far: deaths that no row is to blame for.
        trace: what happened, one line per step.
        violations: what happened although it must never happen.
        stays: rows that have entered an engine of a pool, in order.
    """

    def __init__(self, seed: int, faults: Faults) -> None:
        self.loop = Loop(seed)
        self.random = Random(f"world/{seed}")
        self.faults = faults
        self.store_fails = bool(faults.refused or faults.lost or faults.late or faults.outages)
        self.steps = self.blows = 0
        self.killers: set[int] = set()
        self.commands: set[str] = set()
        self.dispatchers: list[Any] = []
        self.trace: list[str] = []
        self.violations: list[str] = []
        self.stays: list[Stay] = []
        self.processes: list[Process] = []
        self._by = ""
        self.bucket = Bucket(
            now_s=self.loop.time,
            by=lambda: self._by,
            clock=lambda: self.clock("store"),
            page_size=self.random.choice((2, 3, 1000)),
        )
        self.network = Network(self)

    def now(self) -> datetime:
        """Return the wall-clock time of the machine that the running process is on."""
        process = CURRENT.get()
        return self.clock("user" if process is None or process.name in self.commands else "cluster")

    def clock(self, whose: Clock) -> datetime:
        """Return the time of one of the wall clocks. They need not agree."""
        return START + timedelta(seconds=self.loop.time() + self.faults.skews.get(whose, 0.0))

    def note(self, what: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.loop.time():10.3f} {CURRENT.get() or 'world'!s:28} {what}")

    def violation(self, what: str) -> None:
        """Record that something happened that must never happen."""
        self.note(f"VIOLATION {what}")
        self.violations.append(what)

    def spawn(self, name: str, parent: Process | None = None) -> Process:
        """Start a process; it dies some time after its parent."""
        process = Process(self.loop, name)
        self.processes.append(process)
        if parent is not None:
            lag_s = self.random.uniform(0, self.faults.orphan_s)
            parent.on_death.append(lambda: self.loop.around(lag_s, process.kill))
        return process

    def step(self, what: str) -> None:
        """Mark a step that the running process is about to take, or has just taken: here it may stop or die.

        Raises:
            Killed: the process is dead.
        """
        process = CURRENT.get()
        if process is None:
            return
        if process.dead:
            raise Killed
        self.steps += 1
        self.note(f"#{self.steps} {what}")
        fate, seconds = self.faults.crashes.get(self.steps, (None, 0.0))
        self.blows += fate is not None and "/replica-" in process.name
        if fate == "kill":
            self.note("is killed")
            process.kill()
            raise Killed
        if fate == "stop":
            self.pause(process, seconds)

    def pause(self, process: Process, seconds: float) -> None:
        """Send SIGSTOP, and SIGCONT after this many seconds."""
        self.note(f"{process} stops for {seconds:.0f} s")
        process.stop()
        self.loop.around(seconds, process.resume)

    def rpc(self, what: str, call: Callable[[], Any]) -> Any:
        """Send a blocking request to a cluster's job API; the request arrives even if its sender dies meanwhile."""
        self.step(f"asks to {what}")
        answer = self.loop.create_future()

        def arrive() -> None:
            result = call()
            self.loop.around(self.latency_s(), lambda: answer.done() or answer.set_result(result))

        self.loop.around(self.latency_s(), arrive)
        result = self.loop.wait(answer)
        self.step(f"has the answer to {what}")
        return result

    def latency_s(self) -> float:
        """Draw the latency of one message, one way. Mostly short."""
        return self.faults.latency_s * self.random.random() ** 3

    def as_sender(self, name: str, call: Callable[[], Any]) -> Any:
        """Carry out a request in the name of the process that sent it."""
        self._by = name
        try:
            return call()
        finally:
            self._by = ""

    @property
    def alive(self) -> list[Process]:
        """Processes that run or are stopped."""
        return [process for process in self.processes if not process.dead]

    def end(self, processes: Iterable[Process] | None = None) -> None:
        """Kill processes, all if none are given, and unwind what they did."""
        for process in list(processes if processes is not None else self.processes):
            process.kill()


class Network:
    """A boto3 client over a simulated network: requests are delayed or refused, and answers get lost."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.meta = world.bucket.meta

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        method = getattr(self._world.bucket, verb)
        return lambda **request: self._send(verb, method, request)

    def _send(self, verb: str, method: Callable[..., Any], request: dict[str, Any]) -> Any:
        world, loop = self._world, self._world.loop
        name = f"{verb} {request.get('Key', request.get('Prefix', ''))}"
        world.step(f"sends {name}")
        sender, faults, chance = str(CURRENT.get()), world.faults, world.random.random()
        answer = loop.create_future()

        def arrive() -> Any:
            try:
                return world.as_sender(sender, lambda: method(**request))
            except ClientError as error:
                return error

        def answered() -> None:
            outcome = arrive()
            loop.around(world.latency_s(), lambda: answer.done() or answer.set_result(outcome))

        if any(start <= loop.time() < end for start, end in faults.outages) or chance < faults.refused:
            loop.sleep(world.latency_s())
            codes = [(500, "InternalError"), (503, "SlowDown"), (400, "RequestTimeout")]
            codes += [(409, "ConditionalRequestConflict")] if "IfNoneMatch" in request else []
            status, code = world.random.choice(codes)
            world.step(f"is refused {name}: {code}")
            raise refusal(status, code, SECRET)
        if chance < faults.refused + faults.lost:
            loop.around(world.latency_s(), arrive)
            loop.sleep(2 * faults.latency_s)
            world.step(f"loses the answer to {name}")
            if world.random.random() < 0.5:
                raise refusal(500, "InternalError", SECRET)
            raise ConnectionClosedError(endpoint_url=f"http://memory/?{SECRET}")
        if chance < faults.refused + faults.lost + faults.late:
            loop.around(30 + world.random.expovariate(1 / 30), arrive)
            loop.sleep(30)
            world.step(f"gives up on {name}")
            raise ReadTimeoutError(endpoint_url=f"http://memory/?{SECRET}")
        loop.around(world.latency_s(), answered)
        outcome = loop.wait(answer)
        world.step(f"has the answer to {name}")
        if isinstance(outcome, ClientError):
            raise outcome
        return outcome


def in_world(call: Callable[[], Any]) -> Any:
    """Make a call outside any process."""
    return Context().run(call)
