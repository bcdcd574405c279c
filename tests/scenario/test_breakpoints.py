"""``breakpoint()`` in tasks and methods: real programs at real terminals."""

from __future__ import annotations

import os
import subprocess
import sys
import termios
import textwrap
from pathlib import Path

import pytest

from tests.scenario.ptys import LONG_S, Program

PROMPT = "(Pdb) "
HEAD = r"""
import os, sys
import shoal
shoal.init(num_cpus=2)

@shoal.remote(max_retries=0)
def stops(x):
    y = x + 1
    breakpoint()
    z = y * 2
    return z

@shoal.remote
class Keeper:
    def stops(self, x):
        self.kept = x
        breakpoint()
        return self.kept

def show(ref):
    try:
        text = f"result {shoal.get(ref, timeout=100)}"
    except BaseException as error:
        text = f"error {type(getattr(error, 'cause', error)).__name__}"
    sys.stdout.write(text + "\n")  # in one piece: others write to the terminal, too
    sys.stdout.flush()
"""


def program(tmp_path: Path, body: str) -> str:
    path = tmp_path / "program.py"
    path.write_text(HEAD + textwrap.dedent(body))
    return str(path)


def test_a_person_at_the_terminal_of_the_program(tmp_path: Path) -> None:
    body = """
        for x in range(4):
            show(stops.remote(x))
        keeper = Keeper.remote()
        show(keeper.stops.remote(7))
        show(stops.remote(50))
        """
    with Program(program(tmp_path, body)) as person:
        assert "stops (pid" in person.answer(PROMPT, "p y\n")
        assert "1\n" in person.answer(PROMPT, "y = 100\n")
        person.answer(PROMPT, "\x03")
        assert "--KeyboardInterrupt--" in person.answer(PROMPT, "n\n")
        assert "return z" in person.answer(PROMPT, "c\n")
        person.expect("result 200")
        person.answer(PROMPT, "q\n")
        person.expect("error BdbQuit")
        person.answer(PROMPT, "\x04")
        person.expect("error BdbQuit")
        for _ in range(3):  # to the end of the task: what is ours is not stepped through
            person.answer(PROMPT, "n\n")
        person.expect("result 8")
        assert "Keeper.stops (pid" in person.answer(PROMPT, "self.kept = 'changed'\n")
        person.answer(PROMPT, "c\n")
        person.expect("result changed")
        person.answer(PROMPT, "b 11\n")  # another stop: c leads to it, and the session goes on
        person.answer(PROMPT, "c\n")
        assert "return z" in person.answer(PROMPT, "p z\n")
        person.answer(PROMPT, "c\n")
        person.expect("result 102")
        assert person.end() == 0
        assert termios.tcgetattr(person.fd) == person.attributes
        assert "shoal/_runtime" not in person.said


def test_several_at_once_queue_up_and_lend_their_cpus(tmp_path: Path) -> None:
    body = """
        @shoal.remote
        def plain():
            return "ran"
        refs = [stops.remote(x) for x in (10, 10)]
        show(plain.remote())
        for ref in refs:
            show(ref)
        """
    with Program(program(tmp_path, body)) as person:
        person.see("result ran")  # both CPUs stand at a breakpoint, and are lent
        person.answer(PROMPT, "c\n")
        person.answer(PROMPT, "c\n")
        assert person.end() == 0
        assert person.said.count("result 22") == 2


def run(path: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONG_S,
        env={**os.environ, **variables},
        check=True,
    )
    return done.stdout


def test_without_a_terminal_the_task_goes_on(tmp_path: Path) -> None:
    body = "show(stops.remote(1)); show(stops.remote(2)); sys.stdin.readline()"
    missing = [
        "result 4",
        "result 6",
        "no terminal is here: `shoal debug ",
        "nobody has come to the breakpoint of stops",
    ]
    with subprocess.Popen(
        [sys.executable, program(tmp_path, body)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "SHOAL_DEBUGGER_WAIT_S": "0.1"},
    ) as other:
        assert other.stdout is not None
        while missing:
            line = other.stdout.readline()
            assert line, f"it ended without {missing}"
            missing = [text for text in missing if text not in line]
        other.communicate("\n", timeout=LONG_S)


@pytest.mark.parametrize("value", ["0", "sys.exc_info"])
def test_the_variable_of_python_is_honoured(tmp_path: Path, value: str) -> None:
    said = run(program(tmp_path, "show(stops.remote(1))"), PYTHONBREAKPOINT=value)
    assert said == "result 4\n"


def test_an_editor_needs_debugpy(tmp_path: Path) -> None:
    body = """
        class Missing:
            def find_spec(self, name, path=None, target=None):
                if name == "debugpy":
                    raise ImportError(name)
        @shoal.remote(max_retries=0)
        def without():
            sys.meta_path.insert(0, Missing())
            sys.modules.pop("debugpy", None)
            breakpoint()
        show(without.remote())
        """
    assert "error NotSupportedError" in run(program(tmp_path, body), SHOAL_DEBUGGER="debugpy")


def test_another_terminal_joins_and_leaves(tmp_path: Path) -> None:
    body = """
        failed = stops.remote("text")
        try:
            shoal.get(failed)
        except TypeError:
            print("failed", failed.hex(), flush=True)
        ref = stops.remote(1)
        sys.stdin.readline()
        shoal.cancel(ref)
        show(ref)
        """
    where = {"SHOAL_DIR": str(tmp_path / "s")}
    with subprocess.Popen(
        [sys.executable, program(tmp_path, body)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **where, "SHOAL_DEBUGGER_WAIT_S": "60"},
    ) as other:
        assert other.stdin is not None and other.stdout is not None and other.stderr is not None
        with Program("-m", "shoal", "debug", "nothing", env=where) as person:
            assert person.end() == 1
            assert "--list` shows all" in person.said
        failed = other.stdout.readline().split()
        assert failed[0] == "failed"
        with Program("-m", "shoal", "debug", failed[1], env=where) as person:
            person.answer(PROMPT, "p x\n")
            person.expect("'text'")
            person.answer(PROMPT, "q\n")
            assert person.end() == 0
        assert "has stopped" in other.stderr.readline()
        with Program("-m", "shoal", "debug", "--list", env=where) as person:
            assert person.end() == 0
            assert "program.py:" in person.said and "stops" in person.said
        with Program("-m", "shoal", "debug", env=where) as person:
            person.expect(PROMPT)
        # Its terminal is gone, and the next one sees what was said.
        with Program("-m", "shoal", "debug", env=where) as person:
            person.answer(PROMPT, "p y\n")
            person.expect("2\n")
            other.stdin.write("\n")
            other.stdin.flush()
            assert other.stdout.readline() == "error TaskCancelledError\n"
            assert person.end() == 0
        other.communicate(timeout=LONG_S)
