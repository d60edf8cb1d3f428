"""Traffic from inside of the cluster, out of a pod that somebody has taken over."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from gameday.load import Sample

SCRIPT = """
import sys, time, urllib.error, urllib.request
while True:
    at, began = time.time(), time.perf_counter()
    try:
        outcome = f"HTTP {urllib.request.urlopen(sys.argv[1], timeout=1).status}"
    except urllib.error.HTTPError as error:
        outcome = f"HTTP {error.code}"
    except OSError:
        outcome = "cut off"
    print(at, time.perf_counter() - began, outcome, flush=True)
    time.sleep(0.05)
"""


class Insider:
    """Asks one URL again and again, by `argv` (kubectl exec … python3); a sample's failure is what came of it."""

    def __init__(self, argv: Sequence[str | Path], url: str) -> None:
        self._argv = [*map(str, argv), "-c", SCRIPT, url]
        self.samples: list[Sample] = []
        self._thread = threading.Thread(target=self._read, name="insider", daemon=True)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._argv, stdout=subprocess.PIPE, text=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                at, seconds, outcome = line.strip().split(" ", 2)
                self.samples.append(Sample(float(at), float(seconds), outcome))
