"""What has room on an Incident's status, which the API server takes up to 1.5 MiB of."""

from __future__ import annotations

import json

import pytest

from builders import step
from paramedic.core.room import has_room


@pytest.mark.parametrize(("kilobytes", "fits"), [(0, True), (500, True), (530, False)])
def test_a_change_is_noted_twice(kilobytes: int, fits: bool) -> None:
    one = step()
    assert has_room([one], one, {"a": "x" * (kilobytes << 10)}, {}) is fits


def test_all_steps_count() -> None:
    big = {"a": "x" * (120 << 10)}
    steps = [step(f"s{number}", "Succeeded", before=big, after=big) for number in range(2)]
    assert has_room(steps, steps[1], big, big)
    assert has_room(steps, step("next"), {}, {})
    assert not has_room(steps, step("next"), {}, big)


def test_what_has_room_fits_into_an_object() -> None:
    texts = ("x", "é", "\N{PILE OF POO}", '"', "\\", "\x01")
    for text in texts:
        largest = max(n for n in (1 << exponent for exponent in range(21)) if has_room([], step(), {"a": text * n}, {}))
        stored = json.dumps({"a": text * largest}, ensure_ascii=False).encode()
        assert 100_000 < 2 * len(stored) <= 1 << 20
