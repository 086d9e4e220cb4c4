"""The ONNX runtime beside other servers: CPU a request, throughput, latency; start, memory, size.

`python -m tests.benchmarks serving` runs all of it (about 15 minutes, and the peers' installation before);
`python -m tests.benchmarks.serving --servers slipway kserve --scenarios json-16` a part. BENCH_PYTHON names
the interpreter in which all servers run, as /usr/bin/python3.11; without it that of the benchmark.

All servers of a scenario are up at once, and each round asks them in turn, so that a busy machine is as
unkind to one as to the other. CPU is that of the server's whole process tree, by the scheduler's clock.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from tests.benchmarks._footprint import footprint_table
from tests.benchmarks._scenarios import SCENARIOS, Scenario
from tests.support.interpreter import interpreter
from tests.support.peers import PEERS, Peer, Ports
from tests.support.process import cpu_seconds, running_peer
from tests.support.server import INSTALLED

SERVERS = {"slipway": INSTALLED, **PEERS}
ROUNDS = 5
SECONDS = 1.0


@dataclass(frozen=True)
class Round:
    cpu: float
    """Microseconds a request."""
    per_second: float
    p50: float
    p99: float


def measure(scenario: Scenario, servers: list[Peer], rounds: int, seconds: float) -> dict[str, list[Round]]:
    results: dict[str, list[Round]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        models = scenario.write(Path(scratch) / "models")
        running: dict[str, tuple[Popen[bytes], Ports]] = {}
        for peer in servers:
            folder = Path(scratch) / peer.name
            try:
                running[peer.name] = stack.enter_context(running_peer(peer, models, folder))
            except RuntimeError as error:
                print(f"{peer.name} did not start: {str(error)[-600:]}", flush=True)
        servers = [peer for peer in servers if peer.name in running]
        for peer in servers:
            warm = scenario.start(peer, running[peer.name][1], 0.5)
            if warm.failures:
                print(f"{peer.name}: {warm.failures} failures: {warm.first_failure!r}", flush=True)
        for _ in range(rounds):
            for peer in servers:
                process, ports = running[peer.name]
                before = cpu_seconds(process.pid)
                load = scenario.start(peer, ports, seconds)
                used = cpu_seconds(process.pid) - before
                if load.failures or not load.latencies:
                    print(f"{peer.name}: {load.failures} failures: {load.first_failure!r}", flush=True)
                    continue
                results[peer.name].append(
                    Round(
                        used / len(load.latencies) * 1e6,
                        load.per_second,
                        load.quantile(0.5) * 1e6,
                        load.quantile(0.99) * 1e6,
                    )
                )
    return results


def table(scenario: Scenario, results: dict[str, list[Round]]) -> str:
    lines = [
        f"### {scenario.title}",
        "",
        "| server | CPU us a request | x ours | requests/s | p50 us | p99 us |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    ours = results.get("slipway", [])
    for name, rounds in results.items():
        # The ratio is that of the same round, so that what else the machine did weighs on both.
        ratios = [theirs.cpu / mine.cpu for theirs, mine in zip(rounds, ours, strict=False)]
        cells = [
            SERVERS[name].title,
            _median([r.cpu for r in rounds]),
            f"{statistics.median(ratios):.1f}" if ratios else "-",
            _median([r.per_second for r in rounds]),
            _median([r.p50 for r in rounds]),
            _median([r.p99 for r in rounds]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _median(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f}"


def run(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.serving")
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--scenarios", nargs="+", choices=[*SCENARIOS, "footprint"], default=None)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    options = parser.parse_args(arguments or [])
    # A time limit ends this with SIGTERM; the servers must end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    servers = [SERVERS[name] for name in options.servers]
    print(f"All servers run in {interpreter()}.\n", flush=True)
    for peer in servers:
        peer.install()
    for name in options.scenarios or [*SCENARIOS, "footprint"]:
        if name == "footprint":
            print(footprint_table(servers), flush=True)
            continue
        scenario = SCENARIOS[name]
        able = [peer for peer in servers if scenario.serves(peer)]
        print(table(scenario, measure(scenario, able, options.rounds, options.seconds)), "\n", flush=True)


if __name__ == "__main__":
    run(sys.argv[1:])
