"""`python -m infra.bench gateway|worker`: the benchmarks.

One JSON line for each figure on stdout, then one for each ratio with its median and spread; progress and a table for
people on stderr; a report with curves, one HTML page, in the folder of --report. Exit code 0 when something was
measured, 1 when nothing was, 2 for wrong usage. What cannot be measured here says so, `NOT MEASURED: ...`.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from infra.bench import gateway, report, worker
from infra.bench.contest import Asked, Contest
from infra.bench.figures import Missing
from infra.bench.ground import Failed, Given, Ground, Servers
from infra.bench.plan import SCENARIOS, TITLES, Bench, scenarios
from infra.local.errors import LocalError
from infra.local.settings import LocalSettings
from infra.local.stack import LocalStack, to_stderr
from infra.runtime.settings import load_or_exit

_DEFAULTS = Asked()
_GROUP_DELAY_MS = 3_000
"""Kafka's own default: a group's first assignment has all its members, so that two workers begin together."""


def main(arguments: list[str] | None = None) -> int:
    """Measure what the arguments ask for; the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if bool(options.kafka) != bool(options.postgres):
        parser.error("--kafka and --postgres name servers together, or neither")
    bench: Bench = options.bench
    try:
        chosen = scenarios(bench, options.only)
    except ValueError as error:
        to_stderr(f"error: {error}")
        return 2
    settings = load_or_exit(LocalSettings)
    asked = _asked(options, settings)
    contest = Contest(
        asked.rounds,
        to_stderr,
        figure=lambda figure: _tell(figure.as_object(bench)),
        missing=lambda missing: _tell_missing(bench, missing),
        outcome=lambda outcome: _tell(outcome.as_object(bench)),
    )
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a topic's first seconds are no news
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends us like Ctrl-C: in order
    try:
        folder = Path(tempfile.mkdtemp(prefix="plutus-bench-", dir=options.home))
        with Ground(folder, _servers(options, settings, folder), to_stderr) as ground:
            play = gateway.contestants if bench == "gateway" else worker.contestants
            for scenario in chosen:
                to_stderr(f"--- {scenario.title}")
                try:
                    with play(scenario.name, ground, asked) as contestants:
                        contest.play(scenario, contestants)
                except Failed as failed:
                    _tell_missing(bench, Missing(scenario.name, "all", str(failed)))
    except LocalError as error:
        to_stderr(f"error: {error}")
    except KeyboardInterrupt:
        to_stderr("interrupted")
    for line in [*report.medians(contest.results), "", *report.table(contest.results)]:
        to_stderr(line)
    page = report.write(options.report, bench, TITLES[bench], chosen, contest.results)
    to_stderr(f"report: {page}")
    return 0 if contest.results.figures else 1


def _parser() -> argparse.ArgumentParser:
    names = {bench: ", ".join(s.name for s in SCENARIOS if s.bench == bench) for bench in TITLES}
    parser = argparse.ArgumentParser(
        prog="python -m infra.bench",
        description="Measure Plutus and what people would use instead, in turn, on one machine.",
        epilog="; ".join(f"scenarios of {bench}: {listed}" for bench, listed in names.items()),
    )
    parser.add_argument("bench", choices=tuple(TITLES))
    parser.add_argument("--only", nargs="+", default=[], metavar="SCENARIO", help="these scenarios alone")
    parser.add_argument("--rounds", type=int, default=_DEFAULTS.rounds)
    parser.add_argument("--seconds", type=float, default=_DEFAULTS.seconds, help="of each HTTP load")
    parser.add_argument("--warmup", type=float, default=_DEFAULTS.warmup, help="seconds of load before each")
    parser.add_argument("--events", type=int, default=_DEFAULTS.events, help="records that workers drain")
    parser.add_argument("--each-events", type=int, default=_DEFAULTS.each_events, help="the same, one call each")
    parser.add_argument("--long-events", type=int, default=_DEFAULTS.long_events, help="where memory is watched")
    parser.add_argument("--grown", type=int, default=_DEFAULTS.grown, help="keys and events that are there already")
    parser.add_argument("--grown-warmup", type=int, default=_DEFAULTS.grown_warmup, help="events before these count")
    parser.add_argument(
        "--own-load", action="store_true", help="send with our own generator even where wrk is installed"
    )
    parser.add_argument("--kafka", metavar="HOST:PORT", help="a Kafka to use instead of an own one; with --postgres")
    parser.add_argument("--postgres", metavar="URL", help="the same; its role may create databases")
    parser.add_argument("--kafka-java-options", default="-Xmx1g -XX:TieredStopAtLevel=4", metavar="OPTIONS")
    parser.add_argument("--shared-buffers", default="1GB", help="of Postgres, for every contestant")
    parser.add_argument("--max-wal-size", default="4GB", help="the same")
    parser.add_argument("--home", type=Path, help="a folder on a disk with room for the data; removed afterwards")
    parser.add_argument("--peers-home", type=Path, default=Path.home() / ".cache" / "plutus-peers")
    parser.add_argument("--report", type=Path, default=Path("bench-report"), help="folder of the report")
    return parser


def _asked(options: argparse.Namespace, settings: LocalSettings) -> Asked:
    return Asked(
        rounds=options.rounds,
        seconds=options.seconds,
        warmup=options.warmup,
        events=options.events,
        each_events=options.each_events,
        long_events=options.long_events,
        grown=options.grown,
        grown_warmup=options.grown_warmup,
        own_load=options.own_load,
        peers=settings.plutus_bench_peers.absolute() if settings.plutus_bench_peers else None,
        peers_home=options.peers_home.absolute(),
    )


def _servers(options: argparse.Namespace, settings: LocalSettings, folder: Path) -> Servers:
    """Those that were named, or own ones, as large as they are in production."""
    if options.kafka:
        return Given(options.kafka, options.postgres)
    ours = {
        "kafka_port": 0,
        "postgres_port": 0,
        "gateway_port": 0,
        "kafka_java_options": options.kafka_java_options,
        "kafka_group_delay_ms": _GROUP_DELAY_MS,
        "postgres_shared_buffers": options.shared_buffers,
        "postgres_max_wal_size": options.max_wal_size,
    }
    return LocalStack(folder, settings.model_copy(update=ours), to_stderr)


def _tell(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def _tell_missing(bench: Bench, missing: Missing) -> None:
    _tell(missing.as_object(bench))
    to_stderr(f"NOT MEASURED: {missing.scenario}, {missing.who}: {missing.why}")


if __name__ == "__main__":
    sys.exit(main())
