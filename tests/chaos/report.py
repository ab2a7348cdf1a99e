"""The report of a run, for a terminal and as Markdown."""

from __future__ import annotations

import shlex

from tests.chaos.run import Outcome

_SHOWN_OFFENCES = 5


def figures(outcome: Outcome) -> dict[str, str]:
    """Return the figures of a run by name."""
    return {
        "shape": outcome.plan.shape,
        "seconds": f"{outcome.plan.seconds:g}",
        "seed": str(outcome.plan.seed),
        "publications": str(outcome.publication_count),
        "of them asked for again": str(outcome.retry_count),
        "subscribers": str(outcome.subscriber_count),
        "deliveries": str(outcome.verdict.delivery_count),
        "reconnects": str(outcome.reconnect_count),
        "longest interruption": f"{outcome.longest_interruption_s:.1f} s",
        "all caught up after the last fault": f"{outcome.catch_up_s:.1f} s",
        **{kind: str(count) for kind, count in outcome.verdict.counts().items()},
        "announced losses": str(outcome.verdict.announced.total()),
        **{f"announced: {cause}": str(count) for cause, count in sorted(outcome.verdict.announced.items())},
        "published again after a failover": str(len(outcome.verdict.republished)),
        **outcome.map_figures,
        "map copies compared": str(outcome.map_verdict.note_count + outcome.map_verdict.copy_count),
        **{kind: str(count) for kind, count in outcome.map_verdict.counts().items()},
        "errors in the nodes' logs": str(len(outcome.node_faults)),
    }


def text(outcome: Outcome) -> str:
    """Return the report for a terminal; after broken promises, the evidence and how to see them again."""
    lines = [f"{name:36} {value}" for name, value in figures(outcome).items()]
    lines += ["", f"faults {sum(outcome.faults.values())}"]
    lines += [f"  {name:34} {count}" for name, count in sorted(outcome.faults.items())]
    for offence in [*outcome.verdict.offences[:_SHOWN_OFFENCES], *outcome.map_verdict.offences[:_SHOWN_OFFENCES]]:
        lines += [
            "",
            f"{offence.kind}: {offence.subscriber}: {offence.what}",
            *[f"    {one}" for one in offence.evidence],
        ]
    lines += ["", *[f"node: {line}" for line in outcome.node_faults[:_SHOWN_OFFENCES]]] if outcome.node_faults else []
    if not outcome.is_good:
        lines += ["", f"again: {command(outcome)}"]
    return "\n".join(lines)


def markdown(outcome: Outcome) -> str:
    """Return the report as a Markdown section."""
    rows = [
        *figures(outcome).items(),
        *[(f"fault: {name}", str(count)) for name, count in sorted(outcome.faults.items())],
    ]
    table = ["| | |", "|---|---:|", *[f"| {name} | {value} |" for name, value in rows]]
    return "\n".join([f"## {outcome.plan.shape}", "", f"`{command(outcome)}`", "", *table, ""])


def command(outcome: Outcome) -> str:
    """Return the command that repeats a run."""
    plan = outcome.plan
    only = "".join(f" --only {shlex.quote(name)}" for name in plan.only)
    return f"python -m tests.chaos --seconds {plan.seconds:g} --shape {plan.shape} --seed {plan.seed}{only}"
