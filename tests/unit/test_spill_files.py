"""Files of spilled values: what is read is what was written, or a clear error."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from shoal._runtime.spill_files import SpillError, SpillFiles
from shoal._runtime.spill_places import Directory, SpillFile

VALUES = [bytes([i]) * (1000 * i + 1) for i in range(5)]


def views(values: Sequence[bytes]) -> list[memoryview]:
    return [memoryview(value) for value in values]


def read(files: SpillFiles, number: int, size: int) -> bytes:
    buffer = bytearray(size)
    files.read_into(number, memoryview(buffer))
    return bytes(buffer)


def test_values_come_back_in_any_order_and_files_go_with_the_last_record(tmp_path: Path) -> None:
    files = SpillFiles([Directory(str(tmp_path))], "s", file_bytes=5000)
    numbers = [number for value in VALUES * 4 for number in files.write(views([value]))]
    assert len(set(numbers)) == 20 and len(list(tmp_path.iterdir())) > 3
    for number, value in reversed(list(zip(numbers, VALUES * 4, strict=True))):
        assert read(files, number, len(value)) == value
    assert files.bytes_live == 4 * sum(map(len, VALUES))
    for number in numbers:
        files.drop(number)
        files.drop(number)
    assert list(tmp_path.iterdir()) == [] and files.bytes_live == 0


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    files = SpillFiles([Directory(str(tmp_path))], "s", file_bytes=2000)
    for value in VALUES:
        files.write(views([value]))
    files.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("byte", [3, 9, 20, 26, 40, 500, 1032])
def test_a_changed_byte_is_an_error(tmp_path: Path, byte: int) -> None:
    files = SpillFiles([Directory(str(tmp_path))], "s")
    (number,) = files.write(views([b"x" * 1001]))
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[byte] ^= 4
    path.write_bytes(content)
    with pytest.raises(SpillError, match="checksum"):
        read(files, number, 1001)


@pytest.mark.parametrize("length", [0, 10, 32, 900])
def test_a_file_that_was_cut_is_an_error(tmp_path: Path, length: int) -> None:
    files = SpillFiles([Directory(str(tmp_path))], "s")
    (number,) = files.write(views([b"x" * 1001]))
    (path,) = tmp_path.iterdir()
    os.truncate(path, length)
    with pytest.raises(SpillError, match="too short"):
        read(files, number, 1001)


def test_a_file_that_was_deleted_is_an_error_and_no_harm_to_others(tmp_path: Path) -> None:
    files = SpillFiles([Directory(str(tmp_path))], "s", file_bytes=1)
    gone, kept = (files.write(views([value]))[0] for value in (b"a" * 100, b"b" * 100))
    min(tmp_path.iterdir(), key=lambda path: int(path.stem.rpartition("-")[2])).unlink()
    with pytest.raises(SpillError, match="cannot be read: No such file"):
        read(files, gone, 100)
    assert read(files, kept, 100) == b"b" * 100
    files.drop(gone)
    files.close()
    assert list(tmp_path.iterdir()) == []


class Full(Directory):
    """A directory with a byte limit, as a disk has."""

    limit = 2000

    def append(self, file: SpillFile, parts: Sequence[Any]) -> None:
        if file.size + sum(len(part) for part in parts) > self.limit:
            raise OSError(28, "No space left on device")
        super().append(file, parts)


def test_places_take_turns_and_a_full_one_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    places = [Full(str(tmp_path / "a")), Directory(str(tmp_path / "b"))]
    files = SpillFiles(places, "s")
    numbers = [files.write(views([b"v" * 900]))[0] for _ in range(8)]
    assert [read(files, number, 900) for number in numbers] == [b"v" * 900] * 8
    with pytest.raises(SpillError, match="No space left"):
        SpillFiles(places[:1], "s").write(views([b"v" * 3000]))


def test_some_of_a_disk_is_left_to_others(tmp_path: Path) -> None:
    class Nearly(Directory):
        def room(self) -> int:
            return 1 << 20

    with pytest.raises(SpillError, match="only 1 MiB are free"):
        SpillFiles([Nearly(str(tmp_path))], "s").write(views([bytes(1 << 20)]))
    assert list(tmp_path.iterdir()) == []
