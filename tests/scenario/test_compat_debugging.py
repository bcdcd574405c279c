"""Ray's names for debuggers and logs: ``rpdb``, ``RAY_DEBUG``, ``get_log``, ``list_logs``."""

from __future__ import annotations

import pathlib

import pytest

from shoal._base import environment
from tests.scenario.test_compat import as_ray

PROGRAM = r"""
import os, sys
import ray
from ray.util import rpdb
from ray.util.state import get_log, list_logs
from ray.util.state.exception import RayStateApiException

ray.init(num_cpus=1, log_to_driver=False)

@ray.remote(max_retries=0)
def stops():
    print("\x1b[31mbefore\x1b[0m", 1)
    rpdb.set_trace()
    print("after", 2)
    return os.getpid(), ray.get_runtime_context().get_task_id()

@ray.remote
class Speaker:
    def speak(self):
        print("first\nsecond")

pid, task = ray.get(stops.remote())
assert list(get_log(task_id=task)) == ["\x1b[31mbefore\x1b[0m 1\n", "after 2\n"]
assert next(get_log(pid=pid, filter_ansi_code=True)) == "before 1\n"
assert "nobody has come to the breakpoint of stops" in "".join(get_log(pid=pid, suffix="err"))
assert list(get_log(task_id=task, attempt_number=1)) == []

speaker = Speaker.remote()
ray.get(speaker.speak.remote())
assert list(get_log(actor_id=speaker._actor_id.hex(), tail=1, encoding=None)) == [b"second\n"]

node = ray.nodes()[0]["NodeID"]
names = list_logs(node_id=node)
(name,) = [name for name in names["worker_out"] if f"-{pid}." in name]
assert list_logs(glob_filter=f"*-{pid}.err")["worker_err"] == [name[:-3] + "err"]
assert list(get_log(filename=name, node_id=node, tail=1)) == ["after 2\n"]
assert next(get_log(task_id=task, follow=True)).endswith("1\n")
for wrong in ({}, {"filename": "raylet.out"}, {"pid": pid, "suffix": "log"},
              {"pid": pid, "node_id": "0"}, {"submission_id": "raysubmit_1"}):
    try:
        get_log(**wrong)
    except RayStateApiException as error:
        assert str(error)
    else:
        raise AssertionError(wrong)
sys.stdout.write("said\n")
"""


def test_a_stop_and_what_was_printed(tmp_path: pathlib.Path) -> None:
    assert as_ray(PROGRAM, tmp_path, SHOAL_DEBUGGER_WAIT_S="0.1") == "said\n"


def test_nothing_stops_where_ray_would_not(tmp_path: pathlib.Path) -> None:
    program = (
        "import ray\n"
        "ray.init(num_cpus=1)\n"
        "@ray.remote(max_retries=0)\n"
        "def goes_on():\n"
        "    ray.util.rpdb.set_trace()\n"
        "    ray.util.pdb.set_trace()\n"
        "    breakpoint()\n"
        "    return 'went on'\n"
        "print(ray.get(goes_on.remote()))\n"
    )
    output = as_ray(program, tmp_path, RAY_DEBUG="0", SHOAL_DEBUGGER_WAIT_S="1000")
    assert output == "went on\n"


@pytest.mark.parametrize(
    ("said", "meant"), [("", "pdb"), ("legacy", "pdb"), ("1", "debugpy"), ("0", "off")]
)
def test_which_debugger_a_variable_means(said: str, meant: str) -> None:
    variables = {"RAY_DEBUG": said, environment.AS_RAY_VARIABLE: "1"}
    assert environment.read(variables).debugger == meant
    assert environment.read({"RAY_DEBUG": said}).debugger == "pdb"
    assert environment.read({**variables, "SHOAL_DEBUGGER": "own"}).debugger == "own"
