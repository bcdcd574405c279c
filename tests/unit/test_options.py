"""The table of options: every option, every kind of mistake."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from shoal import errors
from shoal._runtime import options

GOOD: dict[str, Any] = {
    "num_cpus": 0.5,
    "num_gpus": 2,
    "memory": 1 << 20,
    "resources": {"disk": 0.25},
    "num_returns": 0,
    "timeout_s": 1.5,
    "_generator_backpressure_num_objects": 4,
    "max_retries": -1,
    "retry_exceptions": [ValueError],
    "help": False,
    "max_calls": 3,
    "max_restarts": -1,
    "max_task_retries": 5,
    "max_concurrency": 8,
    "max_pending_calls": 3,
    "allow_out_of_order_execution": True,
    "checkpoint_every": 10,
    "thread": True,
    "lifetime": "detached",
    "namespace": "n",
    "get_if_exists": True,
    "concurrency_groups": {"io": 2},
    "concurrency_group": "io",
    "name": "n",
    "runtime_env": None,
    "scheduling_strategy": "SPREAD",
    "accelerator_type": "A100",
    "enable_task_events": False,
    "label_selector": {"zone": "in(a, b)", "shoal.io/node-id": "!x"},
    "fallback_strategy": [{"label_selector": {"zone": "c"}}],
    "placement_group": "default",
    "placement_group_bundle_index": 2,
    "placement_group_capture_child_tasks": True,
}
BAD: dict[str, Any] = {
    "num_cpus": "1",
    "num_gpus": -1,
    "memory": float("inf"),
    "resources": {"": 1},
    "num_returns": 10**9,
    "timeout_s": 0,
    "_generator_backpressure_num_objects": 0,
    "max_retries": 1.5,
    "retry_exceptions": "ValueError",
    "help": 1,
    "max_calls": -1,
    "max_restarts": -2,
    "max_task_retries": True,
    "max_concurrency": 0,
    "max_pending_calls": -2,
    "allow_out_of_order_execution": 1,
    "checkpoint_every": 0,
    "thread": "yes",
    "lifetime": "long",
    "namespace": 3,
    "get_if_exists": "yes",
    "concurrency_groups": {"io": 0},
    "concurrency_group": 5,
    "name": b"n",
    "runtime_env": "env",
    "scheduling_strategy": 1,
    "accelerator_type": "",
    "enable_task_events": 1,
    "label_selector": {"zone": 1},
    "fallback_strategy": [{"zone": "c"}],
    "placement_group": "mine",
    "placement_group_bundle_index": -2,
    "placement_group_capture_child_tasks": 1,
}


@pytest.mark.parametrize("name", options.TABLE)
def test_each_option(name: str) -> None:
    for where in options.TABLE[name].where:
        assert options.check(where, {name: GOOD[name]}) == {name: GOOD[name]}
        with pytest.raises(errors.OptionError) as caught:
            options.check(where, {name: BAD[name]})
        assert caught.value.option == name and name in str(caught.value)
        assert caught.value.valid == options.valid_names(where)
    for where in set("tam") - set(options.TABLE[name].where):
        with pytest.raises(errors.OptionError, match="Valid: "):
            options.check(where, {name: GOOD[name]})


def test_decorator_only_options() -> None:
    with pytest.raises(errors.OptionError, match="belongs into"):
        options.check("t", {"max_calls": 1}, in_options=True)


def test_amounts() -> None:
    assert options.amounts({}, 1.0) == {"CPU": 1.0}
    assert options.amounts({"num_cpus": 0}, 1.0) == {}
    given = {"num_gpus": 0.25, "resources": {"disk": 1.00004}, "memory": 5}
    assert options.amounts(given, 1.0) == {"CPU": 1, "GPU": 0.25, "disk": 1.0, "memory": 5}
    with pytest.raises(errors.OptionError, match="whole"):
        options.amounts({"num_gpus": 1.5}, 1.0)


def test_amounts_of_actors() -> None:
    assert options.actor_amounts({}) == ({"CPU": 1.0}, {})
    assert options.actor_amounts({"num_cpus": 0}) == ({}, {})
    assert options.actor_amounts({"num_gpus": 1}) == ({"CPU": 1, "GPU": 1},) * 2


def test_type_of_accelerator_is_a_share_of_a_resource() -> None:
    given = {"accelerator_type": "A100"}
    asked = options.amounts(given, 1.0)
    assert asked == {"CPU": 1.0, "accelerator_type:A100": options.ACCELERATOR_SHARE}
    assert options.actor_amounts(given) == (asked, asked)


# ---- the page
DOCS = Path(__file__).resolve().parents[2] / "docs"
KINDS = {"t": "tasks", "a": "actors", "m": "methods"}


def test_the_page_of_options_says_what_the_table_says() -> None:
    rows = {
        name: (where, expected, default)
        for name, where, expected, default in re.findall(
            r"^\| `(\w+)` \| ([^|]*) \| ([^|]*) \| ([^|]*) \|",
            (DOCS / "options.md").read_text(),
            re.M,
        )
    }
    for name, option in options.TABLE.items():
        where = ", ".join(KINDS[letter] for letter in option.where)
        default = "" if option.default is None else repr(option.default)
        assert rows.pop(name, None) == (where, option.expected, default), name
    assert not rows, "options that are not there"


@pytest.mark.parametrize("name", options.TABLE)
def test_every_option_stands_in_a_program_that_runs(name: str) -> None:
    """`tests/scenario/test_examples.py` runs these programs."""
    programs = "".join(
        "".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
        for page in DOCS.glob("*.md")
    )
    assert re.search(rf"\b{name}=", programs), f"no program in docs/ uses {name}"
