"""A model of gateways behind a balancer: a discrete-event simulation, which knows nothing of documents or records.

- Uploads arrive independently of one another (Poisson), and a balancer gives each to the next gateway, which gives it to its
  next worker. At `upload.max_concurrent` a gateway refuses it.
- A worker is one thread: it serves the chunks of its uploads one at a time, in the order in which they come (FIFO by
  chunk). Half of the CPU time for each upload is spent on its head, half after COS's response, and the time for its
  bytes on its chunks.
- A link comes from the pool of links in advance or, where that is empty, from a call of the upload's own, which only the
  number of uploads limits. A pool has at most `LINKS` links and calls at a time, as in src/wechat/warm_links, and its calls
  count for the day like the others. Links do not expire here.
- The network of a gateway passes one chunk at a time; sending and receiving do not slow each other down.
- COS takes a connection's bytes at a fixed rate and responds after a fixed time. By forms they are sent as they arrive, by the
  API once the file is complete (`cos.api.single_put`).
- Redis is one server for all gateways, which serves one command at a time.

Times are in seconds, sizes in bytes. The same seed gives the same results; no clock is read.
"""

import heapq
import random
from dataclasses import dataclass
from math import exp, inf

# Of a gateway's pool with `wechat.warm_links = "auto"`, and its calls at a time.
LINKS = 64
# The chance that an upload finds no link, and how much longer than the last ones a call may take (sizing.rs, pools.rs).
MISS, LATENCY_MARGIN = 0.01, 1.5


@dataclass(frozen=True)
class Load:
    """What clients send: uploads a second, each of `size`, which arrives at `pace` bytes a second."""

    name: str
    rate: float
    size: int
    pace: float
    chunk: int


@dataclass(frozen=True)
class Setup:
    """What carries it. `per_upload` and `per_byte` are CPU time, `network` is in bytes a second in each direction."""

    replicas: int
    workers: int
    per_upload: float
    per_byte: float
    by_api: bool = False
    network: float = 1.25e9
    slots: int = 1024
    link: float = 0.060
    cos: float = 0.050
    cos_rate: float = 20e6
    # CPU time of Redis and commands for each upload.
    redis: float = 0.0
    commands: int = 0


class Gateway:
    def __init__(self, setup: Setup, links: int):
        self.free = [0.0] * setup.workers
        self.busy = [0.0] * setup.workers
        self.next_worker = 0
        self.network_free = self.network_busy = 0.0
        self.in_flight = self.peak = 0
        self.ready, self.asked, self.wanted = links, 0, links


class Upload:
    __slots__ = ("began", "gateway", "worker", "left", "read_at", "cos_free")


class Simulation:
    """One run: `warm_up` seconds, then `window` seconds that are measured."""

    def __init__(self, load: Load, setup: Setup, seed: int, warm_up: float, window: float):
        self.load, self.setup = load, setup
        self.random = random.Random(seed)
        self.begin, self.end = warm_up, warm_up + window
        self.now, self.events, self.number = 0.0, [], 0
        links = needed(load.rate / setup.replicas * setup.link * LATENCY_MARGIN)
        self.gateways = [Gateway(setup, links) for _ in range(setup.replicas)]
        self.next_gateway = 0
        # The whole run: each upload is in one of the last three.
        self.offered = self.done = self.refused = self.in_flight = 0
        # The window alone. `presence` is the sum of the uploads in flight over time.
        self.changed, self.presence = 0.0, 0.0
        self.arrivals = self.ended = self.turned_away = self.calls = 0
        self.sojourns, self.waits, self.added = [], [], []
        self.redis_free = self.redis_busy = 0.0
        self.commands = 0

    def run(self) -> "Simulation":
        self.at(self.random.expovariate(self.load.rate), self.arrive, None)
        events, end, pop = self.events, self.end, heapq.heappop
        while True:
            time, _, step, upload = pop(events)
            if time > end:
                self.count(0, end)
                return self
            self.now = time
            step(upload)

    def at(self, time: float, step, upload):
        self.number += 1
        heapq.heappush(self.events, (time, self.number, step, upload))

    def is_measured(self) -> bool:
        return self.now >= self.begin

    def in_window(self, start: float, end: float) -> float:
        """How much of this time is measured."""
        if start < self.begin:
            start = self.begin
        if end > self.end:
            end = self.end
        return end - start if end > start else 0.0

    def count(self, change: int, now: float):
        """So many more uploads are in flight from now on."""
        if now > self.begin:
            self.presence += self.in_flight * self.in_window(self.changed, now)
        self.changed = now
        self.in_flight += change

    def waited(self, start: float):
        """A chunk, the rest of an upload or a command had to wait from now until `start`."""
        if self.now >= self.begin:
            self.waits.append(start - self.now)

    # An upload, step by step.

    def arrive(self, _):
        self.at(self.now + self.random.expovariate(self.load.rate), self.arrive, None)
        gateway = self.gateways[self.next_gateway]
        self.next_gateway = (self.next_gateway + 1) % len(self.gateways)
        self.offered += 1
        self.arrivals += self.is_measured()
        if gateway.in_flight >= self.setup.slots:
            self.refused += 1
            self.turned_away += self.is_measured()
            return
        self.count(1, self.now)
        gateway.in_flight += 1
        gateway.peak = max(gateway.peak, gateway.in_flight)
        upload = Upload()
        upload.began, upload.gateway, upload.left = self.now, gateway, self.load.size
        upload.cos_free = 0.0
        upload.worker = gateway.next_worker
        gateway.next_worker = (gateway.next_worker + 1) % self.setup.workers
        self.ask_redis(upload, self.head)

    def head(self, upload):
        self.use_worker(upload, self.setup.per_upload / 2, self.receive)

    def receive(self, upload):
        """The link is asked for while the first chunk arrives."""
        chunk = min(upload.left, self.load.chunk)
        upload.read_at = max(self.now, upload.began + chunk / self.load.pace)
        self.at(max(upload.read_at, self.link(upload.gateway)), self.relay, upload)

    def relay(self, upload):
        self.use_worker(upload, min(upload.left, self.load.chunk) * self.setup.per_byte, self.send)

    def send(self, upload):
        setup, gateway = self.setup, upload.gateway
        chunk = min(upload.left, self.load.chunk)
        start = max(self.now, gateway.network_free)
        sent = gateway.network_free = start + chunk / setup.network
        if sent > self.begin:
            gateway.network_busy += self.in_window(start, sent)
            self.waited(start)
        upload.left -= chunk
        if not setup.by_api:
            free = upload.cos_free
            upload.cos_free = (sent if sent > free else free) + chunk / setup.cos_rate
        if upload.left:
            # The client's next chunk is read when COS has taken this one.
            upload.read_at = max(upload.read_at + min(upload.left, self.load.chunk) / self.load.pace, self.now)
            self.at(max(upload.read_at, upload.cos_free), self.relay, upload)
            return
        if setup.by_api:
            upload.cos_free = sent + self.load.size / setup.cos_rate
        self.at(upload.cos_free + setup.cos, self.respond, upload)

    def respond(self, upload):
        self.use_worker(upload, self.setup.per_upload / 2, self.account)

    def account(self, upload):
        self.ask_redis(upload, self.finish)

    def finish(self, upload):
        self.count(-1, self.now)
        upload.gateway.in_flight -= 1
        self.done += 1
        if self.is_measured():
            self.ended += 1
            sojourn = self.now - upload.began
            self.sojourns.append(sojourn)
            self.added.append(sojourn - self.direct())

    # What uploads share.

    def use_worker(self, upload, service: float, then):
        gateway, worker, now = upload.gateway, upload.worker, self.now
        start = gateway.free[worker]
        if start < now:
            start = now
        end = gateway.free[worker] = start + service
        if end > self.begin:
            gateway.busy[worker] += self.in_window(start, end)
            self.waited(start)
        self.number += 1
        heapq.heappush(self.events, (end, self.number, then, upload))

    def ask_redis(self, upload, then):
        """Half of what an upload needs of Redis, before it or after it."""
        setup = self.setup
        if not setup.commands:
            return then(upload)
        start = max(self.now, self.redis_free)
        end = self.redis_free = start + setup.redis / 2
        self.redis_busy += self.in_window(start, end)
        self.commands += setup.commands / 2 * self.is_measured()
        self.waited(start)
        self.at(end, then, upload)

    def link(self, gateway) -> float:
        """When the upload has its link."""
        if gateway.ready:
            gateway.ready -= 1
            at = self.now
        else:
            self.calls += self.is_measured()
            at = self.now + self.setup.link
        if gateway.ready + gateway.asked < gateway.wanted:
            gateway.asked += 1
            self.calls += self.is_measured()
            self.at(self.now + self.setup.link, self.link_arrived, gateway)
        return at

    def link_arrived(self, gateway):
        gateway.asked -= 1
        gateway.ready += 1

    # Results.

    def direct(self) -> float:
        """What an upload takes from the client to COS without a gateway, at the slower one's pace."""
        load, setup = self.load, self.setup
        return load.size / min(load.pace, setup.cos_rate) + setup.cos

    @property
    def window(self) -> float:
        return self.end - self.begin

    def utilisation(self) -> float:
        """Of the busiest gateway's workers."""
        return max(sum(gateway.busy) / len(gateway.busy) for gateway in self.gateways) / self.window

    def mean_utilisation(self) -> float:
        busy = sum(sum(gateway.busy) for gateway in self.gateways)
        return busy / (self.window * self.setup.workers * self.setup.replicas)

    def network(self) -> float:
        return max(gateway.network_busy for gateway in self.gateways) / self.window

    def service(self) -> float:
        return self.setup.per_upload + self.load.size * self.setup.per_byte

    def peak(self) -> int:
        return max(gateway.peak for gateway in self.gateways)


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else inf


def needed(mean: float, limit: int = LINKS) -> int:
    """The fewest links that suffice where `mean` uploads come while one is replaced (`needed` of sizing.rs)."""
    fewer, chance = 0.0, exp(-mean)
    for links in range(limit):
        if 1 - fewer <= MISS:
            return max(links, 1)
        fewer += chance
        chance *= mean / (links + 1)
    return limit
