"""The command of `make bench`."""

from __future__ import annotations

import logging
import resource
import shlex
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import structlog

from tests.bench import messages
from tests.bench.bus import running_bus
from tests.bench.contenders import CONTENDERS, Contender
from tests.bench.cores import choose_cores
from tests.bench.errors import BenchError
from tests.bench.goals import check_goals
from tests.bench.machine import describe_machine, describe_versions
from tests.bench.plots import draw_plots
from tests.bench.report import Report, Section
from tests.bench.rounds import measure_rounds
from tests.bench.scenarios import SCENARIOS, Bench, Scenario

_RESULTS = Path(__file__).parent / "results"
# A server's own files, beside one socket for each subscriber.
_SPARE_FILES = 1000


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured unless an option says otherwise."""

    rounds: int
    seconds: float
    connections: int
    rates: str


_FULL = Extent(rounds=3, seconds=3.0, connections=10_000, rates="100,400,1000,4000")
_QUICK = Extent(rounds=1, seconds=2.0, connections=2_000, rates="100,1000,4000")


def _rates(value: str) -> list[int]:
    rates = [int(rate) if rate.isdigit() else 0 for rate in value.split(",")]
    if not all(rates):
        raise click.BadParameter("whole numbers above 0 with commas between, for example 100,1000")
    return sorted(rates)


def _contenders(_context: click.Context, _option: click.Parameter, value: str) -> list[Contender]:
    names = value.split(",")
    if not set(names) <= set(CONTENDERS):
        raise click.BadParameter(f"choose from {', '.join(CONTENDERS)}, with commas between")
    return [CONTENDERS[name] for name in names]


def _scenarios(_context: click.Context, _option: click.Parameter, value: str) -> list[Scenario]:
    names = value.split(",")
    if not set(names) <= set(SCENARIOS):
        raise click.BadParameter(f"choose from {', '.join(SCENARIOS)}, with commas between")
    return [SCENARIOS[name] for name in names]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--scenarios", default=",".join(SCENARIOS), callback=_scenarios, help="What is measured.")
@click.option("--contenders", default=",".join(CONTENDERS), callback=_contenders, help="Servers, in turn.")
@click.option("--quick", is_flag=True, help="One round, short windows, fewer connections: less than 5 minutes.")
@click.option("--rates", help="Messages published per second.  [default: 100,400,1000,4000]")
@click.option("--rounds", type=click.IntRange(1, 99), help="Runs of each; tables have their medians.  [default: 3]")
@click.option("--seconds", type=click.FloatRange(1, 600), help="Measured window of a run.  [default: 3]")
@click.option("--subscribers", default=500, type=click.IntRange(1), help="WebSockets in the room.")
@click.option("--connections", type=click.IntRange(100), help="WebSockets of the storm.  [default: 10000]")
@click.option("--size", default=128, type=click.IntRange(messages.MIN_BYTES, 60000), help="Bytes of a message.")
@click.option("--name", default="bench", help="Of the files written to tests/bench/results/.")
def main(
    *,
    scenarios: list[Scenario],
    contenders: list[Contender],
    quick: bool,
    rates: str | None,
    rounds: int | None,
    seconds: float | None,
    subscribers: int,
    connections: int | None,
    size: int,
    name: str,
) -> None:
    """Measure this service beside others: one server at a time, alone on a core."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM, as Ctrl-C, ends all that was started
    extent = _QUICK if quick else _FULL
    round_count = rounds or extent.rounds
    connection_count = _allow_files(connections or extent.connections)
    present = _present(contenders)
    cores = choose_cores()
    cores.pin_load()
    try:
        with running_bus() as bus:
            bench = Bench(
                bus=bus,
                cores=cores,
                rates=_rates(rates or extent.rates),
                subscriber_count=subscribers,
                connection_count=connection_count,
                seconds=seconds or extent.seconds,
                size_bytes=size,
            )
            sections = [
                Section(
                    scenario.name,
                    scenario.title,
                    scenario.columns,
                    measure_rounds(scenario, present, bench, round_count=round_count, tell=click.echo),
                )
                for scenario in scenarios
            ]
            versions = describe_versions(bus.version)
    except BenchError as exc:
        raise click.ClickException(str(exc)) from exc
    for contender in present:
        versions |= contender.version()
    report = Report(
        command=shlex.join(["python", "-m", "tests.bench", *sys.argv[1:]]),
        facts={
            "load": f"{subscribers} subscribers, {size} B messages, windows of {bench.seconds:g} s, "
            f"medians of {round_count} (lost, twice, delivered: the worst round)",
            "placement": str(cores),
            **describe_machine(),
            "versions": ", ".join(f"{package} {version}" for package, version in versions.items()),
        },
        sections=sections,
        goals=check_goals(sections),
        plots=draw_plots(sections, _RESULTS, name),
    )
    report.write(_RESULTS, name)
    click.echo(f"\n{report.text()}")


def _present(contenders: list[Contender]) -> list[Contender]:
    """Return those that can run; say why the others cannot."""
    present = []
    for contender in contenders:
        missing = contender.missing()
        if missing is None:
            present.append(contender)
        else:
            click.echo(f"skipped: {contender.name}: {missing}")
    if not present:
        raise click.ClickException("none of these contenders is installed")
    return present


def _allow_files(count: int) -> int:
    """Let this process and those it starts open files for so many connections; return for how many they may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _SPARE_FILES
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < wanted:
        click.echo(f"only {soft - _SPARE_FILES} connections: this system allows {soft} open files")
    return min(count, soft - _SPARE_FILES)


if __name__ == "__main__":
    main()
