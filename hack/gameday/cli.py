"""`python hack/gameday [NAME…] [--cap SECONDS] [--helped-only]`."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gameday import chaos, report
from gameday.chaos import CHAOS, Aftermath, Chaos
from gameday.days import DAYS, GameDay
from gameday.ground import Ground
from gameday.report import Row, table
from gameday.run import namespace_of, run
from testbed.janitor import temporary_folder
from testbed.progress import say
from testbed.realnode import why_not

CAP_SECONDS = 180.0
RESULTS = "gameday-results.json"
NAMES = [*(day.name for day in DAYS), *(one.name for one in CHAOS)]


@dataclass
class Results:
    """What has been played until now."""

    rows: list[Row] = field(default_factory=list)
    aftermaths: list[Aftermath] = field(default_factory=list)

    def problems(self) -> list[str]:
        """What did not go as it should."""
        found = [one.problems() for one in self.rows] + [one.problems() for one in self.aftermaths]
        return [problem for problems in found for problem in problems]

    def as_json(self) -> dict[str, Any]:
        """All figures."""
        return {"days": [one.as_json() for one in self.rows], "chaos": [one.as_json() for one in self.aftermaths]}

    def tables(self) -> list[str]:
        """In Markdown; those that have lines."""
        days = table(report.HEAD, [one.cells() for one in self.rows]) if self.rows else ""
        broken = table(chaos.HEAD, [one.cells() for one in self.aftermaths]) if self.aftermaths else ""
        return [one for one in (days, broken) if one]


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 when all went as it should, 1 when not, 130 when interrupted."""
    given = _parser().parse_args(arguments)
    if reason := why_not():
        say(f"no game day here: {reason}")
        return 1
    for number in (signal.SIGTERM, signal.SIGHUP):  # they leave as little behind as Ctrl-C
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    results = Results()
    try:
        ended = _played(given, results)
    finally:  # whatever has ended it: what was measured until then took long
        problems = _tell(results, given.output)
    return ended or problems


def _played(given: argparse.Namespace, results: Results) -> int:
    """0 when all was played, else the exit code, and said why."""
    try:
        with temporary_folder("paramedic-gameday-") as folder:
            _play(folder, given, results)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        say(f"broken off: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; nothing is left running")
        return 130
    return 0


def _play(folder: Path, given: argparse.Namespace, results: Results) -> None:
    """Each day with Paramedic, then the same fault with nobody acting; then chaos."""
    days = [one for one in DAYS if _wanted(one, given.names)]
    breaking = [one for one in CHAOS if _wanted(one, given.names)]
    namespaces = [namespace_of(day, helped=helped) for day in days for helped in (True, False)]
    with Ground(folder, [*namespaces, *map(chaos.namespace_of, breaking)], say) as ground:
        for day in days:
            results.rows.append(Row(day, run(ground, day, helped=True, cap=given.cap), None))
            if day.compared and not given.helped_only:
                alone = run(ground, day, helped=False, cap=given.cap)
                results.rows[-1] = replace(results.rows[-1], alone=alone)
            say(" | ".join(results.rows[-1].cells()))
        for one in breaking:
            results.aftermaths.append(chaos.run_chaos(ground, one, given.cap))
            say(" | ".join(results.aftermaths[-1].cells()))


def _wanted(one: GameDay | Chaos, names: Sequence[str]) -> bool:
    return not names or one.name in names


def _tell(results: Results, output: Path) -> int:
    """Prints the tables and writes the figures, if there are any. 1 when there are problems, else 0."""
    if not (results.rows or results.aftermaths):
        return 0
    for text in results.tables():
        print(f"\n{text}")
    output.write_text(json.dumps(results.as_json(), indent=1) + "\n")
    problems = results.problems()
    for problem in problems:
        say(problem)
    say(f"{len(results.rows)} faults, {len(results.aftermaths)} times chaos, {len(problems)} problems; see {output}")
    return 1 if problems else 0


def _known(name: str) -> str:
    if name not in NAMES:
        raise argparse.ArgumentTypeError(f"there is no {name!r}; there are {', '.join(NAMES)}")
    return name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gameday", description="Faults under load, with Paramedic and without.")
    parser.add_argument("names", nargs="*", type=_known, metavar="NAME", help=f"all, or of {', '.join(NAMES)}")
    parser.add_argument("--cap", type=float, default=CAP_SECONDS, help="seconds after which nobody waits any longer")
    parser.add_argument("--helped-only", action="store_true", help="leave out the runs in which nobody acts")
    parser.add_argument("--output", type=Path, default=Path(RESULTS), help="where all figures go, as JSON")
    return parser
