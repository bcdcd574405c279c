"""Values leave for files when the store is full, and come back: with a real disk.

The store has 32 MB here, values 1 to 4 MB.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import errors
from shoal._runtime import cluster

STORE = 32 << 20
ONE = 1 << 20


@pytest.fixture
def spilled(tmp_path: Path) -> Iterator[Path]:
    """A session, and the directory that its values go to."""
    path = tmp_path / "spilled"
    path.mkdir()
    with shoal.init(num_cpus=2, object_store_memory=STORE, object_spilling_directory=str(path)):
        yield path


def array(i: int, size: int = ONE) -> Any:
    return np.full(size // 8 - 100, i, dtype=np.int64)


@shoal.remote
def total(values: Any) -> int:
    return int(values.sum())


@shoal.remote
def made(i: int) -> Any:
    return array(i)


def leave_nothing(path: Path) -> None:
    deadline = time.monotonic() + 30
    while any(path.iterdir()) or any(row.size_bytes >= ONE // 2 for row in shoal.state.objects()):
        assert time.monotonic() < deadline, (list(path.iterdir()), shoal.state.objects())
        time.sleep(0.01)


def test_ten_times_the_store_is_put_and_got(spilled: Path) -> None:
    refs = [shoal.put(array(i)) for i in range(320)]
    assert any(spilled.iterdir())
    for i in (*range(319, -1, -3), *range(0, 320, 7)):
        value = shoal.get(refs[i])
        assert value[0] == value[-1] == i and value.flags.writeable is False
        del value
    del refs
    leave_nothing(spilled)


def test_tasks_take_and_return_more_than_there_is_room_for(spilled: Path) -> None:
    refs = [made.remote(i) for i in range(100)]
    sums = shoal.get([total.remote(ref) for ref in refs])
    assert sums == [i * (ONE // 8 - 100) for i in range(100)]
    del refs
    leave_nothing(spilled)


@shoal.remote
def firsts(*pieces: Any) -> list[int]:
    return [int(piece[0]) for piece in pieces]


def test_a_task_takes_more_pieces_than_there_are_places_for_them(spilled: Path) -> None:
    """Each stands in a place of two megabytes, alone or beside one that the task does not take."""
    for size in (ONE + 800, ONE):
        refs = [shoal.put(array(i, size)) for i in range(60)]
        assert shoal.get(firsts.remote(*refs[::3])) == [*range(0, 60, 3)]
        del refs
        leave_nothing(spilled)


@shoal.remote
def firsts_of(refs: list[Any]) -> list[int]:
    return [int(piece[0]) for piece in shoal.get(refs)]


@pytest.mark.parametrize("how", ["arguments", "get"])
def test_those_who_load_half_of_the_store_take_turns(spilled: Path, how: str) -> None:
    """Each of four looks at more than half of the store at once: two never fit."""
    refs = [shoal.put(array(i)) for i in range(72)]
    parts = [refs[k::4] for k in range(4)]
    if how == "arguments":
        found = shoal.get([firsts.options(num_cpus=0).remote(*part) for part in parts])
    else:
        found = shoal.get([firsts_of.options(num_cpus=0).remote(part) for part in parts])
    assert found == [[*range(k, 72, 4)] for k in range(4)]
    del refs, parts
    leave_nothing(spilled)


def test_refs_inside_a_value_that_left_are_alive(spilled: Path) -> None:
    inner = [shoal.put(i) for i in range(40)]
    outer = [shoal.put({"ref": inner[i], "bytes": b"x" * ONE}) for i in range(40)]
    del inner
    for i, ref in enumerate(outer):
        value = shoal.get(ref)
        assert shoal.get(value["ref"]) == i and value["bytes"] == b"x" * ONE
    del outer, ref, value
    leave_nothing(spilled)


def test_what_somebody_looks_at_stays(spilled: Path) -> None:
    kept = [shoal.get(shoal.put(array(i))) for i in range(10)]
    refs = [shoal.put(array(100 + i)) for i in range(60)]
    assert [int(value[0]) for value in kept] == list(range(10))
    assert [int(shoal.get(ref)[5]) for ref in refs] == list(range(100, 160))
    del kept, refs
    leave_nothing(spilled)


def test_a_store_full_of_what_is_looked_at_says_so(spilled: Path) -> None:
    kept = []
    with pytest.raises(errors.ObjectStoreFullError):
        for i in range(100):
            kept.append(shoal.get(shoal.put(array(i))))
    assert len(kept) >= 10 and [int(v[0]) for v in kept] == list(range(len(kept)))
    kept.clear()
    assert shoal.get(total.remote(array(1))) == ONE // 8 - 100
    leave_nothing(spilled)


def test_a_value_larger_than_the_store_fails_at_once(spilled: Path) -> None:
    with pytest.raises(errors.ObjectStoreFullError, match="larger than the whole"):
        shoal.put(np.zeros(2 * STORE, dtype=np.uint8))
    assert not any(spilled.iterdir())


@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_a_damaged_file_is_an_error_and_never_a_wrong_value(spilled: Path, damage: str) -> None:
    refs = [shoal.put(array(i)) for i in range(80)]
    for path in spilled.iterdir():
        if damage == "delete":
            path.unlink()
        elif damage == "cut":
            os.truncate(path, 1000)
        else:
            with open(path, "r+b") as file:
                for at in range(5000, path.stat().st_size, ONE // 2):
                    file.seek(at)
                    byte = file.read(1)
                    file.seek(at)
                    file.write(bytes([byte[0] ^ 1]))
    lost = 0
    for i, ref in enumerate(refs):
        try:
            value = shoal.get(ref)
            assert value[0] == value[-1] == i
            del value
        except errors.ObjectLostError as error:
            lost += 1
            assert str(spilled) in str(error)
            with pytest.raises(errors.ObjectLostError):
                shoal.get(ref)
    assert lost >= 40
    with pytest.raises(errors.ObjectLostError):
        shoal.get([total.remote(ref) for ref in refs])
    del refs, ref
    leave_nothing(spilled)


@shoal.remote(max_retries=0)
def read_and_die(refs: list[Any]) -> None:
    for ref in refs:
        shoal.get(ref)
    os.kill(os.getpid(), signal.SIGKILL)


def test_readers_that_die_leave_nothing(spilled: Path) -> None:
    refs = [shoal.put(array(i)) for i in range(60)]
    deaths = [read_and_die.remote(refs[i::3]) for i in range(3)]
    for death in deaths:
        with pytest.raises(errors.WorkerCrashedError):
            shoal.get(death)
    assert [int(shoal.get(ref)[0]) for ref in refs] == list(range(60))
    del refs, deaths, death
    leave_nothing(spilled)


def spilling_row() -> dict[str, Any]:
    (row,) = cluster.table("session")
    found: dict[str, Any] = row["spilling"]
    return found


def fill(n: int = 40) -> list[Any]:
    return [shoal.put(array(i)) for i in range(n)]


def test_a_place_that_fails_is_told_and_tried_again(tmp_path: Path) -> None:
    """As a disk that is full, and has room later."""
    (tmp_path / "file").write_text("in the way")
    place = str(tmp_path / "file" / "spilled")
    with shoal.init(num_cpus=1, object_store_memory=STORE, object_spilling_directory=place):
        kept = []
        with pytest.raises(errors.ObjectStoreFullError) as caught:
            for i in range(40):
                kept.append(shoal.put(array(i)))
        assert place in caught.value.reason and "Not a directory" in str(caught.value)
        assert "the program" in caught.value.holders[0]
        (tmp_path / "file").unlink()
        kept += fill(20)
        assert len(list(Path(place).iterdir())) >= 1
        assert [int(shoal.get(ref)[0]) for ref in kept[-20:]] == list(range(20))
    assert list(Path(place).iterdir()) == []


def test_without_spilling_the_error_says_who_holds_what() -> None:
    with shoal.init(num_cpus=1, object_store_memory=STORE, object_spilling_directory=False):
        kept = []
        with pytest.raises(
            errors.ObjectStoreFullError, match=r"held are .* by the program"
        ) as caught:
            for i in range(40):
                kept.append(shoal.get(shoal.put(array(i))))
        assert "are being looked at" in caught.value.holders[0] and not caught.value.reason
        assert not spilling_row()["on"] and spilling_row()["places"] == []


def test_by_default_files_stand_in_the_directory_of_the_session(tmp_path: Path) -> None:
    with shoal.init(num_cpus=1, object_store_memory=STORE):
        refs = fill()
        row = spilling_row()
        assert row["values"] >= 10 and row["bytes"] >= 10 << 20 and not row["problem"]
        (place,) = row["places"]
        assert any(Path(place).iterdir())
        told = [line.text for line in shoal.state.story(refs[0].hex())]
        assert told[:2] == ["put", "left for a file"]
    assert not os.path.exists(place)


def test_several_places_also_through_fsspec_take_turns(tmp_path: Path) -> None:
    places = [str(tmp_path / "a"), f"file://{tmp_path}/b"]
    with shoal.init(num_cpus=1, object_store_memory=STORE, object_spilling_directory=places):
        refs = fill(80)
        assert spilling_row()["places"] == places
        assert any((tmp_path / "a").iterdir()) and any((tmp_path / "b").iterdir())
        assert [int(shoal.get(ref)[0]) for ref in refs] == list(range(80))
        del refs
        leave_nothing(tmp_path / "a")
        leave_nothing(tmp_path / "b")


@shoal.remote(max_retries=0)
def put_and_die() -> None:
    values = [shoal.put(array(i)) for i in range(60)]
    assert len(values) == 60
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_only_a_dead_process_had_leaves_no_record(spilled: Path) -> None:
    with pytest.raises(errors.WorkerCrashedError):
        shoal.get(put_and_die.remote())
    leave_nothing(spilled)
    assert spilling_row()["spilled_bytes"] > 0 and spilling_row()["bytes"] == 0


PROGRAM = """
import shoal
from shoal import _native, errors
from tests.scenario.test_spilling import STORE, array

@shoal.remote(max_retries=0)
def finds_no_room():
    raise _native.FullError(STORE // 2, STORE)  # as after its wait, which takes 30 s

with shoal.init(num_cpus=1, object_store_memory=STORE, object_spilling_directory=False):
    refs = [shoal.put(array(i, STORE // 32)) for i in range(8)]
    kept = shoal.get(refs[:5])
    try:
        shoal.get(finds_no_room.remote())
    except errors.ObjectStoreFullError as error:
        assert error.asked_bytes == STORE // 2 and error.capacity_bytes == STORE
        print(error.holders[0])
"""


def test_a_task_that_finds_no_room_says_who_holds_what_since_when_and_from_where(
    tmp_path: Path,
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, "SHOAL_RECORD_CALL_SITES": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        r"[\d,]+ bytes in 8 values by the program \(pid \d+\) \([\d,]+ bytes of it are being looked"
        r" at; the oldest was made [\d.]+ s ago; the largest came from .*program.py:11 in .*\)",
        done.stdout.strip(),
    ), done.stdout
