"""What is kept is whole, hashed, private and bounded; what fails is said. On a directory and on an S3 server."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import resource
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path

import pytest

from evidence.places import Bucket, Directory, Place, opened
from paramedic.api.incident import Evidence
from paramedic.api.reasons import Reason
from paramedic.clients.evidence import EvidenceStore, LimitReached, Limits, StoreFailed, safe_name
from paramedic.clients.evidence_directory import DirectoryBackend
from paramedic.clients.evidence_s3 import S3Backend
from paramedic.errors import Retry, Terminal

MIB = 1 << 20
TEXT = "text/plain"
OPERATION = "0193-operation"


async def chunks(*parts: bytes, then: Exception | None = None) -> AsyncGenerator[bytes, None]:
    for part in parts:
        yield part
    if then:
        raise then


def noise(size: int) -> bytes:
    return os.urandom(size)


def check(place: Place, item: Evidence, content: bytes) -> None:
    assert item.uri is not None
    stored = place.read(item.uri)
    assert stored == content
    assert item.size_bytes == len(content)
    assert item.sha256 == hashlib.sha256(content).hexdigest()


def by_name(items: Iterable[Evidence]) -> dict[str, Evidence]:
    return {item.name: item for item in items}


@pytest.mark.parametrize("size", [0, 1, 5 * MIB, 5 * MIB + 1, 13 * MIB + 7])
async def test_what_is_kept_is_what_came(place: Place, size: int) -> None:
    content = noise(size)
    with opened(place) as store:
        async with store.collection("covet", "api-down", OPERATION) as kept:
            item = await kept.keep(
                "logs/a/main.log", TEXT, chunks(*(content[at : at + 100_000] for at in range(0, size, 100_000)))
            )
    assert item.note is None
    check(place, item, content)
    assert place.names() == [f"covet/api-down/{OPERATION}/{n}" for n in ("index.json", "logs/a/main.log")]


async def test_the_index_lists_everything_and_whose_it_is(place: Place) -> None:
    with opened(place) as store:
        async with store.collection("covet", "api-down", OPERATION, about={"target": "Deployment/x"}) as kept:
            await kept.keep("one", TEXT, chunks(b"1"))
            await kept.keep("two", TEXT, chunks(then=Retry("the answer was lost")))
    first = kept.items[0]
    assert first.name == "index.json"
    assert first.uri is not None
    content = place.read(first.uri)
    check(place, first, content)
    index = json.loads(content)
    assert {k: index[k] for k in ("namespace", "incident", "operation", "target")} == {
        "namespace": "covet", "incident": "api-down", "operation": OPERATION, "target": "Deployment/x"
    }  # fmt: skip
    assert index["startedAt"] <= index["finishedAt"]
    assert index["items"] == [item.to_wire() for item in kept.items[1:]]
    assert index["items"][1] == {"name": "two", "note": "not captured: the answer was lost"}


async def test_done_again_under_the_same_operation_it_takes_the_place_of_what_was_there(place: Place) -> None:
    with opened(place) as store:
        for content in (noise(6 * MIB), b"second"):
            async with store.collection("covet", "api-down", OPERATION) as kept:
                item = await kept.keep("one", TEXT, chunks(content))
    check(place, item, b"second")
    assert len(place.names()) == 2


@pytest.mark.parametrize("size", [3, 6 * MIB])
async def test_what_was_read_before_a_failure_is_kept_and_said(place: Place, size: int) -> None:
    content = noise(size)
    with opened(place) as store:
        async with store.collection("covet", "api-down", OPERATION) as kept:
            item = await kept.keep("one", TEXT, chunks(content, then=Retry("the kubelet does not answer")))
    assert item.note == "incomplete: the kubelet does not answer"
    check(place, item, content)


async def test_reading_that_never_ends_is_cut_when_the_time_is_over(place: Place) -> None:
    async def endless(*parts: bytes) -> AsyncGenerator[bytes, None]:
        for part in parts:
            yield part
        await asyncio.sleep(60)

    with opened(place) as store:
        async with store.collection("covet", "api-down", OPERATION, seconds=0.3) as kept:
            first = await kept.keep("one", TEXT, endless(b"so far"))
            second = await kept.keep("two", TEXT, endless())
    assert first.note == "incomplete: the time for this step was over"
    check(place, first, b"so far")
    assert second == Evidence(name="two", note="not captured: the time for this step was over")
    assert kept.items[0].uri is not None, "the index is written all the same"


@pytest.mark.parametrize("size", [3000, 12 * MIB])
async def test_an_exception_leaves_nothing_of_an_item(place: Place, size: int) -> None:
    with opened(place) as store:
        kept = store.collection("covet", "api-down", OPERATION)
        with pytest.raises(ZeroDivisionError):
            async with kept.open("one", TEXT) as item:
                await item.write(noise(size))
                raise ZeroDivisionError
    assert place.names() == []
    assert kept.used_bytes == 0


async def test_being_cancelled_leaves_nothing_of_an_item(place: Place) -> None:
    begun = asyncio.Event()

    async def slow() -> AsyncGenerator[bytes, None]:
        yield noise(12 * MIB)
        begun.set()
        await asyncio.sleep(60)

    with opened(place) as store:
        kept = store.collection("covet", "api-down", OPERATION)
        task = asyncio.create_task(kept.keep("one", TEXT, slow()))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert place.names() == []


# -- limits ------------------------------------------------------------------------------------------------------------


async def test_an_item_is_cut_at_its_limit_and_not_before(place: Place) -> None:
    limits = Limits(item_bytes=6 * MIB, total_bytes=100 * MIB)
    exact, more = noise(6 * MIB), noise(6 * MIB + 1)
    with opened(place, limits) as store:
        async with store.collection("covet", "api-down", OPERATION) as kept:
            whole = await kept.keep("whole", TEXT, chunks(exact))
            cut = await kept.keep("cut", TEXT, chunks(more))
    assert whole.note is None
    check(place, whole, exact)
    assert cut.note == "cut at 6 MiB, the most for one item (6 MiB)"
    check(place, cut, more[:-1])


async def test_all_items_together_are_cut_at_theirs(place: Place) -> None:
    with opened(place, Limits(item_bytes=3000, total_bytes=5000)) as store:
        async with store.collection("covet", "api-down", OPERATION) as kept:
            first = await kept.keep("first", TEXT, chunks(noise(3000)))
            second = await kept.keep("second", TEXT, chunks(noise(1000), noise(2000)))
            third = await kept.keep("third", TEXT, chunks(b"x"))
    assert first.note is None
    assert second.note is not None
    assert second.note.startswith("cut at")
    assert "the most for all items" in second.note
    assert second.size_bytes == 2000
    assert third.size_bytes == 0
    assert third.note is not None
    assert kept.items[0].uri is not None, "there is always room for the index"


async def test_a_step_can_lower_the_limit_but_not_raise_it(directory: Directory) -> None:
    with opened(directory, Limits(item_bytes=10, total_bytes=20)) as store:
        assert store.collection("a", "b", "c", total_bytes=1000).limits == Limits(10, 20)
        assert store.collection("a", "b", "c", total_bytes=5).limits == Limits(5, 5)
        kept = store.collection("a", "b", "c", total_bytes=5)
        async with kept.open("one", TEXT) as item:
            with pytest.raises(LimitReached):
                await item.write(b"123456")
    assert item.size_bytes == 5


# -- memory ------------------------------------------------------------------------------------------------------------


async def test_200_mb_pass_through_a_few(place: Place) -> None:
    block = noise(100_000)

    async def many() -> AsyncGenerator[bytes, None]:
        for _ in range(2000):
            yield block

    whole = hashlib.sha256()
    for _ in range(2000):
        whole.update(block)
    with opened(place) as store:
        async with store.collection("covet", "api-down", OPERATION) as kept:
            await kept.keep("warm", TEXT, chunks(noise(6 * MIB)))
            tracemalloc.start()
            item = await kept.keep("large", TEXT, many())
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
    assert item.size_bytes == 200_000_000
    assert item.sha256 == whole.hexdigest()
    assert hashlib.sha256(place.read(item.uri or "")).hexdigest() == whole.hexdigest()
    assert peak < 25 * MIB, f"{peak / MIB:.1f} MiB"


async def test_however_many_collect_at_once_few_items_are_open(directory: Directory) -> None:
    most, now = 0, 0

    async def counted() -> AsyncGenerator[bytes, None]:
        nonlocal most, now
        now += 1
        most = max(most, now)
        yield b"x"
        await asyncio.sleep(0.01)
        now -= 1

    async def case(store: EvidenceStore, number: int) -> None:
        async with store.collection("covet", f"incident-{number}", OPERATION) as kept:
            await asyncio.gather(*(kept.keep(f"{n}", TEXT, counted(), long=n == 4) for n in range(5)))

    with opened(directory) as store:
        await asyncio.gather(*(case(store, number) for number in range(20)))
    assert len([name for name in directory.names() if not name.endswith("index.json")]) == 100
    assert 4 < most <= 12


# -- a store that fails ------------------------------------------------------------------------------------------------


async def test_a_store_that_goes_away_in_the_middle_is_said_and_given_up(place: Place) -> None:
    async def going() -> AsyncGenerator[bytes, None]:
        yield noise(6 * MIB)
        place.take_away()
        yield noise(6 * MIB)

    with opened(place) as store:
        async with store.collection("covet", "api-down", OPERATION) as kept:
            before = await kept.keep("before", TEXT, chunks(b"kept"))
            for name in ("one", "two", "three", "four", "five"):
                await kept.keep(name, TEXT, going() if name == "one" else chunks(b"x"))
    items = by_name(kept.items)
    assert before.uri is not None
    for name in ("one", "two", "three", "four", "five", "index.json"):
        assert items[name].uri is None
        assert items[name].sha256 is None
        assert (items[name].note or "").startswith("not captured: ")
    assert "not tried any more after 3 failures in a row" in (items["five"].note or "")


async def test_a_full_disk_costs_the_item_that_did_not_fit(directory: Directory) -> None:
    """The limit on the size of files, which fails a write in the middle as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(directory) as store:
        async with store.collection("covet", "api-down", OPERATION) as kept:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, before[1]))
            try:
                large = await kept.keep("large", TEXT, chunks(noise(5 * MIB)))
                small = await kept.keep("small", TEXT, chunks(b"x"))
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert large.note is not None
    assert "File too large" in large.note
    check(directory, small, b"x")
    assert [name.rpartition("/")[2] for name in directory.names()] == ["index.json", "small"]


async def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    store = EvidenceStore(DirectoryBackend(tmp_path / "nowhere"))
    with pytest.raises(StoreFailed, match=r"nowhere \(evidence\.directory\) is not a directory: is the volume mounted"):
        async with store.collection("a", "b", "c").open("one", TEXT):
            pass
    store.close()
    assert not (tmp_path / "nowhere").exists()


async def test_a_bucket_that_is_not_there_is_named(bucket: Bucket) -> None:
    store = EvidenceStore(S3Backend("elsewhere", region="eu-central-1", endpoint_url=bucket.url))
    with pytest.raises(StoreFailed, match=r"s3://elsewhere.*NoSuchBucket"):
        async with store.collection("a", "b", "c").open("one", TEXT) as item:
            await item.write(b"x")
    store.close()


async def test_objects_are_encrypted_and_typed(bucket: Bucket) -> None:
    with opened(bucket) as store:
        async with store.collection("covet", "api-down", OPERATION) as kept:
            await kept.keep("small", "text/x-small", chunks(b"x"))
            await kept.keep("large", "text/x-large", chunks(noise(6 * MIB)))
    for name in ("small", "large"):
        head = bucket.client.head_object(Bucket=bucket.name, Key=f"cases/covet/api-down/{OPERATION}/{name}")
        assert head["ServerSideEncryption"] == "AES256"
        assert head["ContentType"] == f"text/x-{name}"


def test_without_boto3_the_error_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['boto3'] = None\n"
        "from paramedic.clients.evidence_s3 import S3Backend\n"
        "from paramedic.errors import Terminal\n"
        "try: S3Backend('b')\n"
        "except Terminal as error: print(error.reason, error)\n"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.startswith(str(Reason.INVALID_PARAMETERS))
    assert "pip install 'paramedic[aws]'" in said


def test_an_endpoint_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(Terminal, match=r"evidence\.s3 cannot be used"):
        S3Backend("b", endpoint_url="no url")


def test_boto3_is_imported_only_where_it_is_used() -> None:
    program = "import sys, paramedic.app; print(sorted(m for m in sys.modules if m.startswith('boto')))"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"


# -- names -------------------------------------------------------------------------------------------------------------

HOSTILE = [
    "..", "../../etc/passwd", "/etc/passwd", "a/../../b", ".", "", "a\x00b", "a\nb", "~root", "-rf", "ü" * 300,
    "x" * 5000,
    "con\\..\\..", "%2e%2e%2f", "logs/" + "../" * 20 + "tmp/x", "\ud800", "a b", "$(id)", ".hidden",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_names_stay_inside_and_apart(directory: Directory, name: str) -> None:
    with opened(directory) as store:
        async with store.collection(name, name, name) as kept:
            await kept.keep(f"logs/{name}/main.log", TEXT, chunks(b"one"))
    everything = list(directory.root.parent.rglob("*"))
    assert everything
    for path in everything:
        assert path == directory.root or directory.root in path.parents
    assert len(directory.names()) == 2
    item = next(one for one in kept.items if one.name != "index.json")
    assert item.uri is not None
    assert directory.read(item.uri) == b"one"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_safe_name_is_one_part_of_a_path(name: str) -> None:
    safe = safe_name(name)
    assert safe not in ("", ".", "..")
    assert not set(safe) & set("/\\\x00\n ")
    assert len(safe.encode()) <= 220
    assert not safe.startswith(".")


def test_names_that_look_the_same_stay_two() -> None:
    names = ["a/b", "a_b", "a b", "a\\b", "x" * 300, "x" * 301, "..", ".", ""]
    assert len({safe_name(name) for name in names}) == len(names)
    assert safe_name("covet-app-7d9f.log") == "covet-app-7d9f.log"


async def test_files_and_folders_are_private(directory: Directory) -> None:
    old = os.umask(0)
    try:
        with opened(directory) as store:
            async with store.collection("covet", "api-down", OPERATION) as kept:
                await kept.keep("logs/a/main.log", TEXT, chunks(b"one"))
    finally:
        os.umask(old)
    for path in directory.root.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


async def test_what_a_killed_process_left_is_cleared_away(directory: Directory) -> None:
    program = (
        "import asyncio, os, sys, pathlib\n"
        "from paramedic.clients.evidence import EvidenceStore\n"
        "from paramedic.clients.evidence_directory import DirectoryBackend\n"
        "async def main():\n"
        "    kept = EvidenceStore(DirectoryBackend(pathlib.Path(sys.argv[1]))).collection('covet', 'api-down', 'op')\n"
        "    async with kept.open('one', 'text/plain') as item:\n"
        "        await item.write(b'x' * 3_000_000)\n"
        "        os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", program, str(directory.root)], check=False)
    assert len(directory.names()) == 1
    assert not (directory.root / "covet" / "api-down" / "op" / "one").exists(), "half an item never shows"
    with opened(directory) as store:
        async with store.collection("covet", "api-down", "op") as kept:
            item = await kept.keep("one", TEXT, chunks(b"whole"))
    check(directory, item, b"whole")
    assert directory.names() == ["covet/api-down/op/index.json", "covet/api-down/op/one"]


async def test_a_link_in_the_place_of_a_folder_is_not_followed(directory: Directory, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (directory.root / "covet").symlink_to(tmp_path / "elsewhere")
    with opened(directory) as store, pytest.raises(StoreFailed, match="is in the way"):
        async with store.collection("covet", "api-down", OPERATION).open("one", TEXT):
            pass
    assert list((tmp_path / "elsewhere").iterdir()) == []
