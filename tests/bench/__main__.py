"""The command of `make bench`."""

from __future__ import annotations

import resource
import shlex
import signal
import sys
from pathlib import Path

import click

from tests.bench import messages
from tests.bench.bus import running_bus
from tests.bench.contenders import CONTENDERS, Contender
from tests.bench.cores import choose_cores
from tests.bench.errors import BenchError
from tests.bench.fanout import Load, measure_rounds
from tests.bench.machine import describe_machine, describe_versions
from tests.bench.report import Report

_RESULTS = Path(__file__).parent / "results"
# A server's own files, beside one socket for each subscriber.
_SPARE_FILES = 200


def _rates(_context: click.Context, _option: click.Parameter, value: str) -> list[int]:
    rates = [int(rate) if rate.isdigit() else 0 for rate in value.split(",")]
    if not all(rates):
        raise click.BadParameter("whole numbers above 0 with commas between, for example 100,1000")
    return rates


def _contenders(_context: click.Context, _option: click.Parameter, value: str) -> list[Contender]:
    names = value.split(",")
    if not set(names) <= set(CONTENDERS):
        raise click.BadParameter(f"choose from {', '.join(CONTENDERS)}, with commas between")
    return [CONTENDERS[name] for name in names]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--subscribers", default=500, type=click.IntRange(1), help="WebSockets in the room.")
@click.option("--rates", default="100,1000", callback=_rates, help="Messages published per second.")
@click.option("--seconds", default=8.0, type=click.FloatRange(1, 600), help="Measured window of a run.")
@click.option("--rounds", default=3, type=click.IntRange(1, 99), help="Runs of each; the table has their medians.")
@click.option("--contenders", default=",".join(CONTENDERS), callback=_contenders, help="Servers, in turn.")
@click.option("--size", default=128, type=click.IntRange(messages.MIN_BYTES, 65536), help="Bytes of a message.")
def main(
    *, subscribers: int, rates: list[int], seconds: float, rounds: int, contenders: list[Contender], size: int
) -> None:
    """Measure fan-out: one room on one server, published to through Redis. Writes tests/bench/results/fanout.*."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM, as Ctrl-C, ends all that was started
    _allow_files(subscribers + _SPARE_FILES)
    cores = choose_cores()
    cores.pin_load()
    loads = [Load(subscribers, rate, seconds, size) for rate in rates]
    try:
        with running_bus() as bus:
            rows = measure_rounds(contenders, loads, bus, cores, round_count=rounds, tell=click.echo)
            versions = describe_versions(bus.version)
    except BenchError as exc:
        raise click.ClickException(str(exc)) from exc
    report = Report(
        title=f"Fan-out: {subscribers} WebSockets, {size} B messages, {seconds:g} s, medians of {rounds} rounds",
        command=shlex.join(["python", "-m", "tests.bench", *sys.argv[1:]]),
        machine=describe_machine(),
        versions=versions,
        placement=str(cores),
        rows=rows,
    )
    report.write(_RESULTS, "fanout")
    click.echo(f"\n{report.text()}")


def _allow_files(count: int) -> None:
    """Raise the number of files that this process and those it starts may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (count if hard == resource.RLIM_INFINITY else min(count, hard), hard)
        )


if __name__ == "__main__":
    main()
