"""Progress bars of tasks and actors in the driver's terminal, and where there is none."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

COLUMNS = 160
PROGRAM = """
import os, signal, time
import shoal
from shoal.util.progress import safe_print, tqdm, trange

shoal.init(num_cpus=3)

@shoal.remote
def count(name):
    for i in trange(30, desc=name, unit="row"):
        time.sleep(0.01)
        if i == 15:
            print("half of", name)
    return name

@shoal.remote
class Mortal:
    def work(self):
        bar = tqdm(total=10, desc="dies")
        bar.update(3)
        bar.set_postfix(loss=0.5)
        while bar._bar.is_dirty:
            time.sleep(0.01)
        time.sleep(0.1)     # what is not dirty is written in this moment
        os.kill(os.getpid(), signal.SIGKILL)

mortal = Mortal.remote()
refs = [mortal.work.remote(), count.remote("first"), count.remote("second")]
for name in tqdm(["a", "b", "c"], desc="driver"):
    safe_print("got", name)
assert shoal.get(refs[1:]) == ["first", "second"]
shoal.wait(refs, num_returns=3)
time.sleep(0.8)     # more than the board gives to what a dead process may have said last
print("the end")
"""
SAID = {"half of first", "half of second", "got a", "got b", "got c", "the end"}
BARS = {
    "first": r"30 of 30 row, .* s, .*/s",
    "second": r"30 of 30 row, .* s, .*/s",
    "driver": r"3 of 3 it, .* s, .*/s",
    "dies": r"3 of 10 it, .* s, .*, loss=0.5.*its process ended\)?",
}


def start(tmp_path: Path, stderr: int, stdout: int) -> subprocess.Popen[bytes]:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "TERM": "xterm"}
    command = [sys.executable, str(path)]
    return subprocess.Popen(command, stdout=stdout, stderr=stderr, env=environment)


def screen_of(text: str) -> list[str]:
    """What a terminal shows after ``text``: as much of one as rich needs."""
    lines, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[\??[\d;]*[a-zA-Z]|[\r\n]|[^\x1b\r\n]+", text):
        if token == "\r":
            column = 0
        elif token == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif token[0] != "\x1b":
            line = lines[row].ljust(column)
            lines[row] = line[:column] + token + line[column + len(token) :]
            column += len(token)
        elif token[-1] == "A":
            row -= int(token[2:-1] or 1)
        elif token == "\x1b[2K":
            lines[row] = ""
    return [line.strip() for line in lines if line.strip()]


def check(lines: list[str]) -> None:
    """Each line that was printed is there, whole and once; so is the last state of each bar."""
    rest = [re.sub(r"^\((?:count|Mortal) pid=\d+\) ", "", line) for line in lines]
    for said in SAID:
        rest.remove(said)
    for name, figures in BARS.items():
        found = [line for line in rest if re.fullmatch(rf"{name} .*{figures}", line)]
        assert len(found) == 1, f"{name}: {lines}"
        rest.remove(found[0])
    assert not rest


def test_bars_in_a_terminal(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    process = start(tmp_path, slave, slave)
    os.close(slave)
    text = b""
    try:
        while data := os.read(master, 1 << 16):
            text += data
    except OSError:  # how the end of a terminal is told
        pass
    os.close(master)
    assert process.wait(30) == 0, text.decode()
    check(screen_of(text.decode()))
    assert text.decode().rindex("\x1b[?25h") > text.decode().rindex("\x1b[?25l")


def test_lines_without_a_terminal(tmp_path: Path) -> None:
    process = start(tmp_path, subprocess.PIPE, subprocess.PIPE)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err.decode()
    check([*out.decode().splitlines(), *err.decode().splitlines()])
    assert not any(name in out.decode() for name in ("30 of 30", "3 of 10"))
