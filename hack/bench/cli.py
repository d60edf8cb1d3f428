"""`python hack/bench [--quick] [--only NAME …]`."""

from __future__ import annotations

import argparse
import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench import diagnosis, hanging, latency, stored, storm, writes
from bench.bed import QUICK, Bed, Scale, bed
from bench.figures import Figure, save, table
from testbed import toolchain
from testbed.access import KubectlError
from testbed.janitor import temporary_folder
from testbed.processes import ProcessError
from testbed.progress import say

Row = Callable[[Bed], Awaitable[list[Figure]]]

ROWS: dict[str, Row] = {
    "latency": latency.measure,
    "hanging": hanging.measure,
    "storm": storm.storm,
    "one-post": storm.one_post,
    "hot-target": storm.hot_target,
    "writes": writes.measure,
    "stored": stored.measure,
    "diagnosis": diagnosis.measure,
}


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0 when every bar is reached (with --quick: every count is right), else 1."""
    given = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        figures, errors = _measure(list(dict.fromkeys(given.only or ROWS)), QUICK if given.quick else Scale())
    except (ProcessError, KubectlError, toolchain.ToolchainError) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; nothing is left running")
        return 130
    print(f"\n{table(figures)}")
    save(figures, given.output, quick=given.quick)
    print("\n".join(["", *errors, f"written to {given.output}"]))
    judged = [one for one in figures if one.exact or not given.quick]
    return 0 if not errors and all(one.reached for one in judged) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description="Measures Paramedic, each figure beside its floor.")
    parser.add_argument("--quick", action="store_true", help="little of everything: counts hold, times say nothing")
    parser.add_argument("--only", action="append", choices=list(ROWS), metavar="NAME", help=f"one of {', '.join(ROWS)}")
    default = toolchain.HACK.parent / "bench-results.json"
    parser.add_argument("--output", type=Path, default=default, help="where the figures go as JSON")
    return parser


def _measure(names: list[str], scale: Scale) -> tuple[list[Figure], list[str]]:
    """Figures, and what went wrong. Each row has a control plane of its own; quick ones share one."""
    toolchain.ensure(*toolchain.CLUSTER)
    groups = [names] if scale is QUICK else [[name] for name in names]
    figures: list[Figure] = []
    errors: list[str] = []
    with temporary_folder("paramedic-bench-") as folder:
        for group in groups:
            asyncio.run(_rows(group, folder / group[0], scale, figures, errors))
    return figures, errors


async def _rows(names: list[str], folder: Path, scale: Scale, figures: list[Figure], errors: list[str]) -> None:
    async with bed(folder, scale) as b:
        for name in names:
            began = time.monotonic()
            try:
                rows = await ROWS[name](b)
            except Exception as error:  # the other rows are worth having
                errors.append(f"{name} failed: {_innermost(error)!r}")
                say(f"{errors[-1]}\nThe end of Paramedic's log:\n{b.operator.log_tail()}\n")
                continue
            say(f"{table(rows)}\n{name}: {time.monotonic() - began:.0f} s\n")
            figures += rows


def _innermost(error: BaseException) -> BaseException:
    """What really happened, out of the groups that tasks wrap it in."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
