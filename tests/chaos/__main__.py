"""The command of `make chaos`."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from pathlib import Path

import click

from tests.chaos.report import markdown, text
from tests.chaos.run import Plan, run
from tests.support.redis_shapes import SHAPES


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--shape", type=click.Choice(list(SHAPES)), default="single", help="Of Redis.")
@click.option("--seconds", default=60.0, type=click.FloatRange(1), help="How long things are broken.")
@click.option("--seed", type=int, help="Which faults, and when.  [default: another one each time]")
@click.option(
    "--only", multiple=True, metavar="FAULT", help="Cause only this fault, by its name in the report; repeatable."
)
@click.option("--report", type=click.Path(path_type=Path), help="File to which the figures are added, as Markdown.")
def main(*, shape: str, seconds: float, seed: int | None, only: tuple[str, ...], report: Path | None) -> None:
    """Break everything at random while clients publish and listen; exit code 1 if a promise was not kept."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM, as Ctrl-C, ends all that was started
    seed = random.randrange(10_000) if seed is None else seed
    plan = Plan(shape=shape, seconds=seconds, seed=seed, only=only)
    outcome = asyncio.run(run(plan))
    click.echo(text(outcome))
    if report is not None:
        with report.open("a") as file:
            file.write(markdown(outcome) + "\n")
    sys.exit(0 if outcome.is_good else 1)


if __name__ == "__main__":
    main()
