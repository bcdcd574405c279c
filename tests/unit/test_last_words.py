"""What is kept for the case that a daemon is killed (that it is said: cluster/test_joining.py)."""

from __future__ import annotations

import pathlib

import msgspec
import pytest

from shoal._runtime import last_words, session_dir

MEMBER = last_words.Member("aa", 1, 7, "/keys", "127.0.0.1:1")


def test_the_newest_epoch_is_kept_whole(tmp_path: pathlib.Path) -> None:
    newest = msgspec.structs.replace(MEMBER, epoch=2)
    for member in (MEMBER, newest):
        last_words.keep(str(tmp_path), member)
    (path,) = tmp_path.iterdir()
    assert path.name == session_dir.MEMBER_NAME
    assert msgspec.json.decode(path.read_bytes(), type=last_words.Member) == newest


def test_a_member_that_cannot_write_it_down_is_one_nevertheless(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last_words.keep(str(tmp_path / "gone"), MEMBER)
    assert "only its lease will tell" in capsys.readouterr().err
