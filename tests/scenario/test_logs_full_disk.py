"""A disk that is really full: logs lose lines and say so, and nothing else happens."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import shoal
from shoal import errors, state
from tests.chaos import faults

LONG_S = 100.0


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small disk with the directory of the sessions."""
    with faults.small_disk(tmp_path / "disk") as is_small:
        if not is_small:
            pytest.skip("only who may mount has a disk to fill")
        monkeypatch.setenv("SHOAL_DIR", str(tmp_path / "disk"))
        yield tmp_path / "disk"
        shoal.shutdown()


@shoal.remote(max_retries=0)
def speak(word: str, n: int) -> int:
    for number in range(n):
        print(word, number)
    if word == "dying":
        print("last words", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return n


def test_the_session_lives_and_the_log_goes_on(
    disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with shoal.init(num_cpus=1):
        assert shoal.get(speak.remote("before", 3), timeout=LONG_S) == 3
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(b"x" * 4096)
        # More than the last block of the file can take.
        assert shoal.get(speak.remote("full", 1000), timeout=LONG_S) == 1000
        with pytest.raises(errors.WorkerCrashedError) as caught:
            shoal.get(speak.remote("dying", 1000), timeout=LONG_S)
        assert caught.value.stderr[-1] == "last words"
        filler.unlink()
        assert shoal.get(speak.remote("after", 3), timeout=LONG_S) == 3
        lines = state.logs()
        assert [line.text for line in lines if line.text.startswith("after")] == [
            f"after {number}" for number in range(3)
        ]
        missing = [line.text for line in state.logs(stream="shoal")]
        assert all("no room for them on the disk" in text for text in missing)
        kept = [line for line in lines if line.text.split()[0] in ("full", "dying", "last")]
        assert sum(int(text.split()[0]) for text in missing) == 2001 - len(kept) > 1000
    said = capsys.readouterr()
    assert "there is no room for logs on the disk" in said.out + said.err
