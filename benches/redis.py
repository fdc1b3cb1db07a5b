"""What the gateway's scripts cost Redis: CPU time of a server on this machine for each command, feature by feature.

    python3 benches/redis.py [UPLOADS]

The scripts are those of the sources. A `redis-server` of its own listens on a free port of loopback; 100 connections, one
for each of 100 gateways, send one command at a time, so that no command shares a system call with another. The maps are at
their limits before anything is counted, as they are under load. Redis runs all scripts in one thread: its CPU time for a
command bounds the commands a second. Standard library only.
"""

import platform
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "src"
GATEWAYS = 100
REDIS = "net/redis_map.rs"


def script(file: str, name: str) -> str:
    """The Lua text of a constant of the sources."""
    found = re.search(rf'const {name}: &str = "(.*?)";', (SOURCES / file).read_text(), re.DOTALL)
    assert found, f"{file} has no {name}"
    return found[1]


FUNCTIONS = script(REDIS, "FUNCTIONS")
PROLOGUE = script("quota/redis.rs", "PROLOGUE")
# Entries, bytes and milliseconds: the limits of src/guard/idempotency and src/wechat/shared_links.rs.
RESPONSES = (65536, 32 << 20, 600_000)
LINKS = (100_000, 64 << 20, 86_400_000)
RESPONSE = '{"status":201,"body":"' + "x" * 600 + '"}'
URL = "https://7465-test-1258717764.tcb.qcloud.la/uploads/2026/11/30/" + "x" * 200


def in_map(name: str, bounds: tuple, text: str, *arguments) -> list:
    keys = [f"tcb-upload-gateway:{{env:{name}}}:{what}" for what in ("values", "expiries", "bytes")]
    return ["EVAL", f"{FUNCTIONS}\n{text}", 3, *keys, *bounds, *arguments]


def idempotency(n: int) -> list[list]:
    key, request, lease = f"{n:032x}", "a" * 32, f"{n:032x}"
    acquire = script("guard/idempotency/redis.rs", "ACQUIRE")
    release = script("guard/idempotency/redis.rs", "RELEASE")
    return [
        in_map("idempotency", RESPONSES, acquire, key, request, lease, 10_000, 600_000, ""),
        in_map("idempotency", RESPONSES, release, key, lease, 600_000, RESPONSE),
    ]


def quota(n: int) -> list[list]:
    counter = f"tcb-upload-gateway:{{env:quota:q:user:{n % 10_000}}}"
    keys = [counter + what for what in ("", ":reservations", ":expiries")]
    limit, day = 1 << 40, (28_800, 86_400, 200_000)
    reserve = PROLOGUE + script("quota/redis.rs", "RESERVE")
    settle = PROLOGUE + script("quota/redis.rs", "SETTLE")
    amounts = [65_536, 65_536, limit, limit, 1, 1, limit, limit]
    return [
        ["EVAL", reserve, 3, *keys, *day, f"{n:032x}", 300, 1024, *amounts],
        ["EVAL", settle, 3, *keys, *day, f"{n:032x}", 65_536, 1, 0],
    ]


def hook(n: int) -> list[list]:
    """The worst case: each event wakes its gateway's delivery, which takes it alone."""
    key, consumer = "tcb-upload-gateway:{env}:hooks", f"{n % GATEWAYS:032x}"
    stream = [script("hooks/stream.rs", name) for name in ("ADD", "TAKE", "REMOVE")]
    return [
        ["EVAL", stream[0], 1, key, 100_000, f"msg_{n}", "file.stored", "x" * 700, 1_700_000_000_000, ""],
        ["EVAL", stream[1], 1, key, "gateways", consumer, 20_000, "0-0", 100],
        ["XLEN", key],
        ["EVAL", stream[2], 1, key, "gateways", "TAKEN"],
    ]


def invalidation(n: int) -> list[list]:
    text = script("wechat/shared_links.rs", "INVALIDATE")
    return [in_map("links", LINKS, text, f"{n:032x}", 300_000)]


def shared_link(n: int) -> list[list]:
    """A download link that another gateway may have: read, then shared."""
    read, share = (script("wechat/shared_links.rs", name) for name in ("READ", "SHARE"))
    return [
        in_map("links", LINKS, read, f"{n:032x}", 7200),
        in_map("links", LINKS, share, f"{n:032x}", 60, 7200, 3_600_000, URL),
    ]


# Commands, and how many uploads or links fill what has a limit.
FEATURES = {
    "Idempotency-Key": (idempotency, 65_536),
    "quota": (quota, 10_000),
    "hooks": (hook, 0),
    "a path of the client's": (invalidation, 100_000),
    "a download link": (shared_link, 100_000),
}


def encoded(command: list) -> bytes:
    words = [str(word).encode() for word in command]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


class Connection:
    def __init__(self, port: int):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = self.socket.makefile("rb")

    def send(self, command: list):
        self.socket.sendall(encoded(command))

    def response(self):
        line = self.reader.readline().rstrip()
        kind, rest = line[:1], line[1:]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b"$":
            return None if rest == b"-1" else self.reader.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.response() for _ in range(int(rest))]
        return rest

    def ask(self, *command):
        self.send(list(command))
        return self.response()

    def cpu(self) -> float:
        info = self.ask("INFO", "cpu").decode()
        return sum(float(re.search(rf"used_cpu_{kind}:([\d.]+)", info)[1]) for kind in ("sys", "user"))


def run(connections: list[Connection], feature, numbers: range) -> int:
    """Commands sent. Every connection has one command on its way; an upload's commands follow one another."""
    sent = 0
    for at in range(numbers.start, numbers.stop, len(connections)):
        batch = [feature(n) for n in range(at, min(at + len(connections), numbers.stop))]
        taken = [b""] * len(batch)
        for step in range(len(batch[0])):
            for index, (connection, commands) in enumerate(zip(connections, batch)):
                connection.send([taken[index].decode() if word == "TAKEN" else word for word in commands[step]])
            for index in range(len(batch)):
                response = connections[index].response()
                if isinstance(response, list) and feature is hook and len(response) > 1:
                    # An event that another connection has taken is removed there.
                    for place, event in enumerate(response[1::6]):
                        taken[(index + place) % len(batch)] = event
                sent += 1
    return sent


def main():
    uploads = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        try:
            first = connected(port)
            connections = [Connection(port) for _ in range(GATEWAYS)]
            version = re.search(r"redis_version:(\S+)", first.ask("INFO", "server").decode())[1]
            print(f"Redis {version}, {processor()}, {uploads} uploads each, {GATEWAYS} connections\n")
            print("| feature | commands for each | CPU of Redis for each | most a second, one core |")
            print("|---|---:|---:|---:|")
            for name, (feature, full) in FEATURES.items():
                run(connections, feature, range(full))
                before = first.cpu()
                sent = run(connections, feature, range(full, full + uploads))
                each = (first.cpu() - before) / uploads
                left = first.ask("XLEN", "tcb-upload-gateway:{env}:hooks")
                assert left == b"0", f"{left} events are left"
                print(f"| {name} | {sent / uploads:.0f} | {each * 1e6:.0f} µs | {1 / each:,.0f} |", flush=True)
        finally:
            server.terminate()
            server.wait()


def connected(port: int) -> Connection:
    deadline = time.monotonic() + 10
    while True:
        try:
            return Connection(port)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def processor() -> str:
    cpus = Path("/proc/cpuinfo").read_text()
    name = re.search(r"model name\s*:\s*(.+)", cpus)
    model, cores = name[1] if name else platform.machine(), cpus.count("processor\t:")
    return f"{model}, {cores} cores, Linux {platform.release().split('-')[0]}"


if __name__ == "__main__":
    main()
