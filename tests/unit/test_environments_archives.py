"""Archives that want to do harm are refused; honest ones are unpacked."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from shoal._runtime.environments import archives
from shoal._runtime.environments.archives import ArchiveError, Limits


def zipped(path: Path, *entries: tuple[str, bytes | str, int]) -> str:
    """A zip of (name, content, mode); a mode that says link makes the content its target."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return str(path)


FILE = stat.S_IFREG | 0o644
LINK = stat.S_IFLNK | 0o777


def test_files_directories_links_and_the_right_to_be_run(tmp_path: Path) -> None:
    path = zipped(
        tmp_path / "a.zip",
        ("d/", b"", stat.S_IFDIR | 0o755),
        ("d/file.txt", b"hello", FILE),
        ("d/run.sh", b"#!/bin/sh", stat.S_IFREG | 0o4755),
        ("d/link", b"file.txt", LINK),
        ("plain", b"no mode at all", 0),
    )
    target = tmp_path / "out"
    archives.unpack(path, str(target))
    assert (target / "d/file.txt").read_text() == "hello"
    assert (target / "d/link").read_text() == "hello" and (target / "d/link").is_symlink()
    assert stat.S_IMODE((target / "d/run.sh").stat().st_mode) & ~0o022 == 0o755
    assert not os.access(target / "d/file.txt", os.X_OK) or os.geteuid() == 0
    assert archives.only_directory(str(target)) == str(target)


@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/evil", "a/../../evil", "a/../b", "C:\\evil", "..\\evil", "\\evil"],
)
def test_names_that_lead_out(tmp_path: Path, name: str) -> None:
    path = zipped(tmp_path / "a.zip", (name, b"x", FILE))
    with pytest.raises(ArchiveError, match=r"absolute|leads out"):
        archives.unpack(path, str(tmp_path / "out"))
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    "links",
    [
        [("link", "/etc/passwd")],
        [("link", "../secret")],
        # Each alone looks harmless; one by way of the other leads out.
        [("d/up", ".."), ("x", "d/up/..")],
        [("a", "b/.."), ("b", "..")],
    ],
)
def test_links_that_lead_out(tmp_path: Path, links: list[tuple[str, str]]) -> None:
    rows = [(name, leads_to, LINK) for name, leads_to in links]
    path = zipped(tmp_path / "a.zip", ("d/x", b"", FILE), *rows)
    with pytest.raises(ArchiveError, match="link"):
        archives.unpack(path, str(tmp_path / "out"))


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    path = zipped(tmp_path / "a.zip", ("l", str(outside), LINK), ("l/file", b"x", FILE))
    with pytest.raises(ArchiveError):
        archives.unpack(path, str(tmp_path / "out"))
    assert not list(outside.iterdir())


def test_bombs(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", ("zeros", b"\0" * 3_000_000, FILE))
    limits = Limits(ratio_from_bytes=1_000_000, ratio_most=50)
    with pytest.raises(ArchiveError, match="too large"):
        archives.unpack(path, str(tmp_path / "ratio"), limits)
    with pytest.raises(ArchiveError, match="too large"):
        archives.unpack(path, str(tmp_path / "bytes"), Limits(bytes_most=2_999_999))
    archives.unpack(path, str(tmp_path / "good"), Limits(bytes_most=3_000_000))
    many = zipped(tmp_path / "b.zip", *((f"f{i}", b"", FILE) for i in range(11)))
    with pytest.raises(ArchiveError, match="more than 10 entries"):
        archives.unpack(many, str(tmp_path / "many"), Limits(entries_most=10))


def test_a_size_that_lies_is_counted(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", ("zeros", b"\0" * 100_000, FILE))
    data = bytearray(Path(path).read_bytes())
    at = data.index((100_000).to_bytes(4, "little"))
    while at >= 0:
        data[at : at + 4] = (10).to_bytes(4, "little")
        at = data.find((100_000).to_bytes(4, "little"))
    Path(path).write_bytes(data)
    with pytest.raises(ArchiveError):
        archives.unpack(path, str(tmp_path / "out"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_same_name_twice_and_files_for_directories(tmp_path: Path) -> None:
    for number, entries in enumerate(
        [
            [("a", b"1", FILE), ("a", b"2", FILE)],
            [("a", b"1", FILE), ("a/b", b"2", FILE)],
            [("a/b", b"2", FILE), ("a", b"x", LINK)],
        ]
    ):
        path = zipped(tmp_path / f"{number}.zip", *entries)
        with pytest.raises(ArchiveError):
            archives.unpack(path, str(tmp_path / f"out{number}"))


def test_devices_pipes_and_hard_links(tmp_path: Path) -> None:
    for kind in (tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.LNKTYPE, tarfile.BLKTYPE):
        path = tmp_path / "a.tar"
        with tarfile.open(path, "w") as archive:
            info = tarfile.TarInfo("thing")
            info.type = kind
            info.linkname = "/etc/passwd"
            archive.addfile(info)
        target = tmp_path / f"out{kind!r}"
        with pytest.raises(ArchiveError, match="neither a file nor a directory"):
            archives.unpack(str(path), str(target))
    path = zipped(tmp_path / "a.zip", ("pipe", b"", stat.S_IFIFO | 0o644))
    with pytest.raises(ArchiveError, match="neither a file nor a directory"):
        archives.unpack(str(path), str(tmp_path / "zip"))


def test_tar_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("only/file")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    archives.unpack(str(path), str(tmp_path / "out"))
    assert archives.only_directory(str(tmp_path / "out")) == str(tmp_path / "out/only")
    assert (tmp_path / "out/only/file").read_bytes() == b"abc"


def test_what_is_no_archive_or_a_damaged_one(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK nonsense")
    with pytest.raises(ArchiveError, match="neither a zip nor a tar"):
        archives.unpack(str(tmp_path / "a.zip"), str(tmp_path / "out"))
    path = Path(zipped(tmp_path / "b.zip", ("a", os.urandom(9000), FILE)))
    data = bytearray(path.read_bytes())
    data[2000:3000] = bytes(1000)
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match="cannot be unpacked"):
        archives.unpack(str(path), str(tmp_path / "damaged"))
