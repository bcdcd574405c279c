"""A session that begins in a process which multiprocessing has spawned: the program's file has
another name there, and no worker can import it."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

LONG_S = 100.0
PROGRAM = """
import multiprocessing
import sys


class Odd(Exception):
    pass


class Point:
    def __init__(self, x):
        self.x = x


def add_one(x):
    return x + 1


def move(point):
    if point.x > 10:
        raise Odd(point.x)
    return Point(add_one(point.x))


def child():
    import shoal

    with shoal.init(num_cpus=1, log_to_driver=False):
        task = shoal.remote(move)
        assert type(shoal.get(task.remote(Point(1)))) is Point
        assert shoal.get(task.remote(shoal.put(Point(2)))).x == 3
        assert shoal.get(shoal.remote(Mover).remote().move.remote(Point(3))).x == 4
        assert list(shoal.map(add_one, range(3))) == [1, 2, 3]
        try:
            shoal.get(task.remote(Point(11)))
        except Odd as error:
            assert error.args == (11,)
        else:
            raise AssertionError("it was not raised")


class Mover:
    def move(self, point):
        return move(point)


if __name__ == "__main__":
    process = multiprocessing.get_context(sys.argv[1]).Process(target=child)
    process.start()
    process.join()
    print("exit", process.exitcode)
"""


@pytest.mark.parametrize("way", ["spawn", "forkserver", "fork"])
def test_what_the_program_defines_travels(tmp_path: pathlib.Path, way: str) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(path), way],
        capture_output=True,
        text=True,
        timeout=LONG_S,
        env={**os.environ, "SHOAL_DIR": str(tmp_path / "s")},
        check=False,
    )
    assert done.stdout == "exit 0\n", done.stderr
