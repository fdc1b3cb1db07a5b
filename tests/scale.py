"""How many gateways a load takes: the counts of docs/en/performance.md are tried in a simulation (tests/scale_model.py).

    python3 tests/scale.py            # exit code 1 where a check fails
    python3 tests/scale.py --write    # writes the tables of the documents as well

CPU times and memory are read from the records in benches/runs: of several, the worst. What is not measured is assumed, and
the documents say so: WeChat responds after 60 ms, COS 50 ms after the last byte, at 20 MB/s for a connection, and the pace
of clients. Standard library only, no network, no clock.
"""

import re
import sys
from dataclasses import dataclass, replace
from math import ceil, sqrt
from pathlib import Path

import scale_tables as tables
from scale_model import Load, Setup, Simulation, needed, percentile

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "benches" / "runs"
RUN, SWEEP, REDIS = "2026-11-27.md", "2026-11-27-sweep.md", "2026-11-30-redis.md"
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SEED = 1
# Of a worker's time, and of the network's.
MOST_BUSY = 0.7
# Seconds that 99 of 100 chunks and commands at most wait for a worker, the network or Redis, by the network's Gbit/s: a
# chunk of 512 KiB takes 4 ms of 1 Gbit/s.
LONGEST_WAIT = {10: 0.005, 1: 0.020}
# Of COS, for a bucket and for an account in a region of mainland China (doc 14518).
COS_WRITES, COS_NETWORK = 30_000, 15e9 / 8
DAY = 86_400


def figure(record: str, scenario: str, column: str) -> float:
    """Of the gateway, in a record's table."""
    text = (RUNS / record).read_text()
    section = re.search(rf"^## {re.escape(scenario)} \(.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    lines = [line for line in section[0].splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    names = ["peer", *rows[0][-len(rows[2]) + 1 :]]
    gateway = next(row for row in rows[2:] if row[0] == "gateway")
    return float(gateway[names.index(column)])


def worst(column: str, *places: tuple[str, str]) -> float:
    return max(figure(record, scenario, column) for record, scenario in places)


def redis_times() -> dict[str, float]:
    """CPU time of Redis for an upload, by feature, in seconds."""
    rows = re.findall(r"^\| (.+?) \| \d+ \| (\d+) µs \|", (RUNS / REDIS).read_text(), re.MULTILINE)
    return {name: int(micros) * 1e-6 for name, micros in rows}


def notes(pattern: str) -> list[float]:
    return [float(number) for number in re.search(pattern, (RUNS / "NOTES.md").read_text()).groups()]


PER_GIB = {
    "HTTPS": worst("CPU s/GiB", (RUN, "https-large"), (SWEEP, "https-size-512mib"), (SWEEP, "https-size-8mib")),
    "HTTP": worst("CPU s/GiB", (RUN, "http-large"), (SWEEP, "http-size-8mib"), (RUN, "memory-200")),
}
# Of one client at a time: where many upload at once, system calls are shared, and an upload costs less.
PER_SMALL = {
    "HTTPS": worst("CPU s/1000", (SWEEP, "https-1-connections"), (SWEEP, "https-32-connections"), (RUN, "https-small")),
    "HTTP": worst("CPU s/1000", (RUN, "latency"), (RUN, "http-small"), (SWEEP, "http-size-64kib")),
}
# What an upload costs where there are two workers, to what it costs with one.
SECOND_WORKER = {
    "HTTPS": worst("CPU s/1000", (SWEEP, "https-small-2workers")) / figure(SWEEP, "https-size-64kib", "CPU s/1000"),
    "HTTP": worst("CPU s/1000", (SWEEP, "http-small-2workers")) / figure(SWEEP, "http-size-64kib", "CPU s/1000"),
}
API_PER_GIB = dict(zip(("HTTP", "HTTPS"), notes(r"and only the chunk that completes a part .*\| ([\d.]+) \| ([\d.]+) \|")))
API_PER_SMALL = 1 / notes(r"Uploads/s of 64 KiB: ([\d.]+) of that by forms")[0]
SLOW = worst("CPU s/1000", (SWEEP, "slow-500"), (SWEEP, "slow-1000"))
AT_REST = worst("peak RSS MiB", (RUN, "https-large"), (SWEEP, "https-size-512mib"))
MEMORY = {
    "small": worst("RSS/upload MiB", (SWEEP, "https-1-connections"), (RUN, "https-small")),
    "large": worst("RSS/upload MiB", (RUN, "memory-200"), (SWEEP, "https-size-8mib"), (SWEEP, "http-size-8mib")),
    "slow": worst("RSS/upload MiB", (SWEEP, "slow-10"), (SWEEP, "slow-100"), (SWEEP, "slow-1000")),
}

LOADS = {
    "small": Load("small", 10_000, 64 * KIB, 2e6, 64 * KIB),
    "large": Load("large", 1e9 / (8 * MIB), 8 * MIB, 2e6, 512 * KIB),
    "slow": Load("slow", 1e9 / (512 * KIB), 512 * KIB, 512 * KIB / 5.63, 128 * KIB),
    "all-small": Load("small", COS_NETWORK / (64 * KIB), 64 * KIB, 2e6, 64 * KIB),
    "all-large": Load("large", COS_NETWORK / (8 * MIB), 8 * MIB, 2e6, 512 * KIB),
}
# Seconds: until as many uploads are in flight as there will be, and then measured.
TIMES = {"small": (0.24, 0.6), "large": (4.6, 12), "slow": (6, 2.5), "all-small": (0.24, 0.42), "all-large": (4.6, 9)}


@dataclass(frozen=True)
class Row:
    load: str
    to_cos: str
    road: str
    gigabits: int = 10
    workers: tuple[int, ...] = (1,)


ROWS = [
    *(
        Row(load, to, road, workers=(1, 2))
        for load in ("small", "large")
        for to in ("HTTPS", "HTTP")
        for road in ("forms", "API")
    ),
    Row("slow", "HTTP", "forms"),
    Row("small", "HTTPS", "forms", 1),
    Row("large", "HTTPS", "forms", 1),
    Row("all-small", "HTTPS", "forms"),
    Row("all-large", "HTTPS", "forms"),
]


def setup(row: Row, workers: int, replicas: int) -> Setup:
    per_byte = PER_GIB[row.to_cos] / GIB
    small = PER_SMALL[row.to_cos] * 1e-3
    if row.road == "API":
        small, per_byte = small * API_PER_SMALL, per_byte * API_PER_GIB[row.to_cos]
    small *= SECOND_WORKER[row.to_cos] if workers > 1 else 1
    per_upload = small - 64 * KIB * per_byte
    if row.load == "slow":
        per_byte = (SLOW * 1e-3 - per_upload) / LOADS["slow"].size
    network = row.gigabits * 1e9 / 8
    return Setup(replicas, workers, per_upload, per_byte, row.road == "API", network)


def least(row: Row, workers: int) -> int:
    """Replicas by arithmetic: by CPU, by the network, and by the uploads that may be in flight."""
    load, one = LOADS[row.load], setup(row, workers, 1)
    cpu = load.rate * (one.per_upload + load.size * one.per_byte) / workers / MOST_BUSY
    network = load.rate * load.size / one.network / MOST_BUSY
    in_flight = load.rate * (load.size / load.pace + load.chunk / one.cos_rate + one.cos + one.link)
    replicas = ceil(max(cpu, network))
    while in_flight / replicas + 4 * sqrt(in_flight / replicas) > one.slots:
        replicas += 1
    return replicas


def fewer(replicas: int) -> int:
    return max(1, int(replicas * 0.6))


class Checks:
    def __init__(self):
        self.failed = []

    def that(self, holds: bool, what: str):
        if not holds:
            self.failed.append(what)
            print(f"FAILED {what}", flush=True)

    def accounts(self, run: Simulation, name: str):
        """What holds in every run."""
        known = run.done + run.refused + run.in_flight
        self.that(run.offered == known, f"{name}: {run.offered} uploads were offered, {known} are known of")
        standing = sum(gateway.in_flight for gateway in run.gateways)
        self.that(run.in_flight == standing, f"{name}: {run.in_flight} in flight, {standing} at the gateways")

    def laws(self, run: Simulation, name: str):
        """What holds where the load is carried."""
        offered = run.arrivals / run.window
        rate = run.load.rate
        self.that(is_near(offered, rate, 0.02), f"{name}: {offered:.0f} uploads/s are offered, not {rate:.0f}")
        length = run.presence / run.window
        by_law = sum(run.sojourns) / run.window
        law = f"{name}: {length:.1f} in flight on average, {by_law:.1f} by Little's law"
        self.that(is_near(length, by_law, 0.03), law)
        expected = offered * run.service() / (run.setup.workers * run.setup.replicas)
        busy = run.mean_utilisation()
        arrivals = f"{name}: workers busy {busy:.4f} of the time, {expected:.4f} by the arrivals"
        self.that(is_near(busy, expected, 0.02), arrivals)


def is_near(found: float, expected: float, share: float) -> bool:
    return abs(found / expected - 1) < share if expected else not found


def is_carried(run: Simulation) -> bool:
    redis = run.redis_busy / run.window
    most = max(run.utilisation(), run.network(), redis)
    longest = LONGEST_WAIT[round(run.setup.network * 8 / 1e9)]
    return most < MOST_BUSY and percentile(run.waits, 0.99) < longest and not run.refused


def describe(run: Simulation, name: str) -> str:
    load, window = run.load, run.window
    done, calls = run.ended / window, run.calls / window
    parts = [
        f"{done:.0f} uploads/s, {done * load.size / 1e6:.0f} MB/s",
        f"refused {run.turned_away}",
        f"CPU {run.mean_utilisation():.3f}, busiest {run.utilisation():.3f}, network {run.network():.3f}",
        f"waits p50 {percentile(run.waits, 0.5) * 1e3:.2f} ms, p99 {percentile(run.waits, 0.99) * 1e3:.2f} ms",
        f"added p50 {percentile(run.added, 0.5) * 1e3:.1f} ms, p99 {percentile(run.added, 0.99) * 1e3:.1f} ms",
        f"at most {run.peak()} in flight, {memory(run):.0f} MiB",
        f"WeChat {calls * DAY / 1e6:.1f} M calls/day",
        f"Redis {run.commands / window:.0f} commands/s, busy {run.redis_busy / window:.3f}",
    ]
    return f"{name}: " + "; ".join(parts)


def memory(run: Simulation) -> float:
    """MiB for each replica, by forms."""
    return AT_REST + run.peak() * MEMORY[run.load.name]


def simulate(checks: Checks, load: Load, setup: Setup, name: str, times: tuple[float, float]) -> Simulation:
    run = Simulation(load, setup, SEED, *times).run()
    checks.accounts(run, name)
    print(describe(run, name), flush=True)
    return run


def carried(checks: Checks, load: Load, setup: Setup, name: str, times: tuple[float, float]) -> Simulation:
    """These replicas carry the load, and 60 % of them do not."""
    run = simulate(checks, load, setup, name, times)
    checks.laws(run, name)
    checks.that(is_carried(run), f"{name}: the load is not carried")
    short = replace(setup, replicas=fewer(setup.replicas))
    warm_up, window = times
    without = simulate(checks, load, short, f"  with {short.replicas}", (warm_up, window / 3))
    checks.that(not is_carried(without), f"{name}: {short.replicas} replicas would do")
    return run


def hundred(checks: Checks):
    """100 replicas, with all that COS accepts by default, and with all that they can do."""
    one = setup(ROWS[0], 1, 100)
    run = simulate(checks, LOADS["all-small"], one, "100 replicas, COS's limits", (0.3, 0.4))
    checks.laws(run, "100 replicas, COS's limits")
    checks.that(is_carried(run), "100 replicas do not carry what COS accepts")
    most = replace(LOADS["small"], rate=100 * 0.65 / run.service())
    carried(checks, most, one, "100 replicas, all that they can do", (0.18, 0.06))


def with_redis(checks: Checks, times: dict[str, float]):
    """One Redis for gateways whose uploads all have an Idempotency-Key, a quota and a hook."""
    each = sum(times[name] for name in ("Idempotency-Key", "quota", "hooks"))
    load = replace(LOADS["small"], rate=0.65 / each)
    gateways = replace(setup(ROWS[0], 1, 4), redis=each, commands=8)
    run = simulate(checks, load, gateways, "Redis", (0.5, 6))
    busy, expected = run.redis_busy / run.window, run.arrivals / run.window * each
    checks.that(is_near(busy, expected, 0.02), f"Redis busy {busy:.4f} of the time, {expected:.4f} by the arrivals")
    checks.that(is_carried(run), f"Redis does not carry {load.rate:.0f} uploads/s")
    more = simulate(checks, replace(load, rate=load.rate / 0.6), gateways, "  Redis, more", (0.5, 3))
    checks.that(not is_carried(more), f"Redis would carry {load.rate / 0.6:.0f} uploads/s")


def main():
    checks = Checks()
    for mean, links in [(0.1, 2), (2, 7), (10, 19), (100, 64)]:
        checks.that(needed(mean) == links, f"a pool for {mean} has {needed(mean)} links, {links} by the tests of sizing.rs")
    write = "--write" in sys.argv[1:]
    counts = None if write else tables.counts("en", len(ROWS))
    results = []
    for index, row in enumerate(ROWS):
        runs = []
        for place, workers in enumerate(row.workers):
            replicas = counts[index][place] if counts else least(row, workers)
            name = f"{row.load}, {row.to_cos}, {row.road}, {row.gigabits} Gbit/s: {replicas} of {workers} worker(s)"
            runs.append(carried(checks, LOADS[row.load], setup(row, workers, replicas), name, TIMES[row.load]))
        results.append((row, runs))
    hundred(checks)
    redis = redis_times()
    with_redis(checks, redis)
    for language in ("en", "zh"):
        text = tables.text(language, results, [memory(runs[0]) for _, runs in results], redis)
        if write:
            tables.write(language, text)
        checks.that(tables.stands(language, text), f"docs/{language}/performance.md: the tables are not these; --write")
    print("all checks hold" if not checks.failed else f"{len(checks.failed)} checks failed")
    sys.exit(1 if checks.failed else 0)


if __name__ == "__main__":
    main()
