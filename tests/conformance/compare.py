"""`python -m tests.conformance.compare`: the suite against this server and its peers, as a table.

Peers are installed into environments of their own first. A server that a check kills is started again, so
that it loses that check only.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.conformance import Target, run_checks
from tests.conformance.__main__ import write_models
from tests.conformance.suite import SECTIONS, Report
from tests.support.peers import PEERS, Ports
from tests.support.process import free_ports, stop, wait_ready
from tests.support.server import OURS

SERVERS = {"slipway": OURS, **{name: PEERS[name] for name in ("kserve", "mlserver", "triton")}}


def measure(name: str, models: Path, scratch: Path) -> tuple[Report, int]:
    """The report on one server, and how often it died."""
    peer = SERVERS[name]
    ports = Ports(*free_ports(3))
    starts = 0

    def start() -> None:
        nonlocal process, starts
        starts += 1
        folder = scratch / f"{name}-{starts}"
        folder.mkdir()
        process = peer.start(models, folder, ports, folder / "server.log")
        wait_ready(process, ports.http, peer.ready, folder / "server.log", seconds=90)

    def revive() -> None:
        if process.poll() is not None:
            start()

    process = None
    start()
    target = Target(f"http://127.0.0.1:{ports.http}", f"127.0.0.1:{ports.grpc}")
    try:
        return run_checks(target, after_failure=revive), starts - 1
    finally:
        target.close()
        stop(process)


def table(results: dict[str, tuple[Report, int]]) -> str:
    lines = [
        "| section | what | " + " | ".join(SERVERS[name].title for name in results) + " |",
        "| --- | --- | " + " | ".join("---:" for _ in results) + " |",
    ]
    for section, what in SECTIONS.items():
        scores = [report.score(section) for report, _ in results.values()]
        cells = [f"{passed} / {total}" if total else "-" for passed, total in scores]
        lines.append(f"| {section} | {what} | {' | '.join(cells)} |")
    totals = [report.total() for report, _ in results.values()]
    lines.append("| **all** | | " + " | ".join(f"**{passed} / {total}**" for passed, total in totals) + " |")
    lines.append(
        "| died | killed by a request of the suite | "
        + " | ".join(str(d) for _, d in results.values())
        + " |"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.compare")
    parser.add_argument("servers", nargs="*", choices=[*SERVERS, []], help="default: all")
    parser.add_argument("--failures", action="store_true", help="also print every failure")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        write_models(models)
        results = {name: measure(name, models, Path(folder)) for name in options.servers or SERVERS}
    if options.failures:
        for name, (report, _) in results.items():
            print(f"==== {name}\n{report.text()}\n")
    print(table(results))


if __name__ == "__main__":
    main()
