"""The tables of tests/scale.py in docs/en/performance.md and docs/zh/performance.md."""

import re
from pathlib import Path

from scale_model import percentile

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- tests/scale\.py: begin -->\n).*?(<!-- tests/scale\.py: end -->)", re.DOTALL)
DAY = 86_400
LOADS = {
    "en": {
        "small": "10,000 files/s of 64 KiB",
        "large": "1 GB/s, files of 8 MiB",
        "slow": "1 GB/s, 512 KiB at 93 KB/s",
        "all-small": "15 Gbit/s, files of 64 KiB",
        "all-large": "15 Gbit/s, files of 8 MiB",
    },
    "zh": {
        "small": "每秒 10,000 个 64 KiB 文件",
        "large": "1 GB/s，每个文件 8 MiB",
        "slow": "1 GB/s，512 KiB，每个客户端 93 KB/s",
        "all-small": "15 Gbit/s，每个文件 64 KiB",
        "all-large": "15 Gbit/s，每个文件 8 MiB",
    },
}
ROADS = {"en": {"forms": "forms", "API": "API"}, "zh": {"forms": "表单", "API": "API"}}
HEADS = {
    "en": (
        "| load | to COS | by | network, Gbit/s | replicas of 1 worker | of 2 workers | CPU | network "
        "| wait, p99 | added, p50 and p99 | in flight | memory |",
        "| load | link calls a day | COS writes/s | Gbit/s | Redis: `Idempotency-Key` | quota | hooks |",
    ),
    "zh": (
        "| 负载 | 到 COS | 发送方式 | 网络，Gbit/s | 单 worker 副本数 | 双 worker 副本数 | CPU | 网络 | 等待 p99 "
        "| 增加的 p50 与 p99 | 进行中 | 内存 |",
        "| 负载 | 每日链接调用 | COS 每秒写请求 | Gbit/s | Redis：`Idempotency-Key` | 配额 | hooks |",
    ),
}
LINES = ("|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|", "|---|---:|---:|---:|---:|---:|---:|")


def page(language: str) -> Path:
    return ROOT / "docs" / language / "performance.md"


def counts(language: str, rows: int) -> list[list[int]]:
    """The replicas of each row, of 1 worker and, where the row has it, of 2."""
    block = BLOCK.search(page(language).read_text())
    lines = [line for line in (block[0] if block else "").splitlines() if line.startswith("|")]
    cells = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines[2 : 2 + rows]]
    return [[int(count) for count in row[4:6] if count.isdigit()] for row in cells]


def text(language: str, results: list, memory: list[float], redis: dict[str, float]) -> str:
    names, roads, heads = LOADS[language], ROADS[language], HEADS[language]
    lines = [heads[0], LINES[0]]
    for (row, runs), mib in zip(results, memory):
        one, two = runs[0], f"{runs[1].setup.replicas}" if len(runs) > 1 else "–"
        wait = percentile(one.waits, 0.99) * 1e3
        half, most = (percentile(one.added, share) * 1e3 for share in (0.5, 0.99))
        cells = [
            names[row.load], row.to_cos, roads[row.road], row.gigabits, f"**{one.setup.replicas}**", two,
            f"{one.utilisation() * 100:.0f} %", f"{one.network() * 100:.0f} %", f"{wait:.1f} ms", f"{half:.0f}, {most:.0f} ms",
            one.peak(), f"{mib:.0f} MiB" if row.road == "forms" else "–",
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", heads[1], LINES[1]]
    known = set()
    for row, runs in results:
        if row.load in known:
            continue
        known.add(row.load)
        load = runs[0].load
        cores = [f"{load.rate * redis[name]:.2f}" for name in ("Idempotency-Key", "quota", "hooks")]
        calls, rate = f"{load.rate * DAY / 1e6:,.0f} M", f"{load.rate:,.0f}"
        cells = [names[row.load], calls, rate, f"{load.rate * load.size * 8e-9:.1f}", *cores]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def stands(language: str, text: str) -> bool:
    block = BLOCK.search(page(language).read_text())
    return bool(block) and block[0] == block[1] + text + block[2]


def write(language: str, text: str):
    path = page(language)
    path.write_text(BLOCK.sub(lambda block: block[1] + text + block[2], path.read_text()))
