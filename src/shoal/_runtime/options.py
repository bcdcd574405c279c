"""Every option of tasks, actors and methods, as data; and the one function that checks them.

An option that nobody checks is a misspelt ``num_cpu`` that runs a job on one core for a month. So
every unknown, ill-typed or out-of-range option is an ``OptionError`` that lists the valid ones.

Checklist to add an option: a row in the table, a line in the docstring of ``remote``, a test in
``tests/unit/test_options.py``.
"""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from shoal import errors
from shoal._runtime import strategies
from shoal._runtime.environments import given as given_env

RESOURCE_STEP = 0.0001
"""Resources are counted in steps of this size."""

ACCELERATOR_SHARE = 0.001
"""What a task asks of the resource that says which accelerators a node has."""

MOST_RETURNS = 10_000
INFINITE = -1


class Option(msgspec.Struct, frozen=True):
    """One row of the table."""

    expected: str
    """What a valid value is, for the error."""
    check: Callable[[Any], bool]
    where: str
    """Letters: t task, a actor, m method."""
    default: Any = None
    not_yet: bool = False
    """Known to people, and not there yet unless it has its default."""
    decorator_only: bool = False
    """Not allowed in ``.options()`` (RULES T7)."""


def _number(least: float) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        return is_number and math.isfinite(value) and value >= least

    return check


def _integer(least: int, most: int | None = None) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        return is_integer and value >= least and (most is None or value <= most)

    return check


def _amounts(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    good = _number(0)
    reserved = ("CPU", "GPU", "memory")
    return all(isinstance(k, str) and k and k not in reserved and good(v) for k, v in value.items())


def _exceptions(value: Any) -> bool:
    if isinstance(value, bool):
        return True
    if not isinstance(value, list | tuple):
        return False
    return all(isinstance(v, type) and issubclass(v, BaseException) for v in value)


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _groups(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    good = _integer(1)
    return all(isinstance(name, str) and name and good(n) for name, n in value.items())


def _one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


TABLE: dict[str, Option] = {
    # ---- resources
    "num_cpus": Option("a number >= 0", _number(0), "ta"),
    "num_gpus": Option("a number >= 0", _number(0), "ta"),
    "memory": Option("a number of bytes >= 0", _number(0), "ta"),
    "resources": Option(
        "a dict of names (other than CPU, GPU, memory) to numbers >= 0", _amounts, "ta"
    ),
    # ---- tasks
    "num_returns": Option(
        f"an integer from 0 to {MOST_RETURNS}, 'streaming' or 'dynamic'",
        lambda v: _integer(0, MOST_RETURNS)(v) or v in ("streaming", "dynamic"),
        "tm",
        1,
    ),
    "_generator_backpressure_num_objects": Option(
        "an integer >= 1, or -1 for no limit",
        lambda v: v == -1 or _integer(1)(v),
        "tm",
    ),
    "timeout_s": Option("a number of seconds > 0", lambda v: _number(0)(v) and v > 0, "tm"),
    "max_retries": Option("an integer >= -1 (-1: without end)", _integer(-1), "t", 3),
    "retry_exceptions": Option(
        "True, False or a list of exception classes", _exceptions, "tm", False
    ),
    "help": Option("True or False", _is_bool, "t", True),
    "max_calls": Option("an integer >= 0", _integer(0), "t", 0, decorator_only=True),
    # ---- actors
    "max_restarts": Option("an integer >= -1 (-1: without end)", _integer(-1), "a", 0),
    "max_task_retries": Option("an integer >= -1 (-1: without end)", _integer(-1), "am", 0),
    "max_concurrency": Option("an integer >= 1", _integer(1), "a", 1),
    "max_pending_calls": Option("an integer >= -1 (-1: without end)", _integer(-1), "a", -1),
    "allow_out_of_order_execution": Option("True or False", _is_bool, "a"),
    "checkpoint_every": Option("a number of calls >= 1", _integer(1), "a", 1),
    "thread": Option("True or False", _is_bool, "am"),
    "lifetime": Option("None or 'detached'", _one_of(None, "detached", "non_detached"), "a"),
    "namespace": Option("a text that is not empty", _text, "a"),
    "get_if_exists": Option("True or False", _is_bool, "a", False),
    "concurrency_groups": Option(
        "a dict of names to integers >= 1", _groups, "a", None, decorator_only=True
    ),
    "concurrency_group": Option("a text that is not empty", _text, "m"),
    # ---- both
    "name": Option("a text that is not empty", _text, "tam"),
    "runtime_env": Option("a dict", _mapping, "ta"),
    "accelerator_type": Option("a text that is not empty", _text, "ta"),
    "enable_task_events": Option("True or False", _is_bool, "ta", True),
    "scheduling_strategy": Option(strategies.EXPECTED, strategies.is_strategy, "ta"),
    "label_selector": Option(
        "a dict of labels to 'x', '!x', 'in(x, y)' or '!in(x, y)'", strategies.is_selector, "ta"
    ),
    "fallback_strategy": Option(
        "a list of dicts with a label_selector each", strategies.is_fallback, "ta"
    ),
    "placement_group": Option("a placement group or 'default'", strategies.is_group, "ta"),
    "placement_group_bundle_index": Option("an integer >= -1", _integer(-1), "ta", -1),
    "placement_group_capture_child_tasks": Option("True or False", _is_bool, "ta"),
}

_KINDS = {"t": "tasks", "a": "actors", "m": "methods"}


def valid_names(where: str) -> list[str]:
    """Names of the options of tasks (``t``), actors (``a``) or methods (``m``)."""
    return sorted(name for name, option in TABLE.items() if where in option.where)


def check(where: str, given: Mapping[str, Any], in_options: bool = False) -> dict[str, Any]:
    """Return ``given`` once every option in it is known, allowed and of the right type.

    Raises:
        OptionError: names the option, what it may be, and the valid ones.
        NotSupportedError: the option is not there yet.
    """
    for name, value in given.items():
        option = TABLE.get(name)
        if option is None or where not in option.where:
            raise _unknown(where, name)
        if in_options and option.decorator_only:
            text = f"option {name} belongs into @shoal.remote(...), not into .options()"
            raise errors.OptionError(text, option=name)
        if value is None and name != "max_retries":
            continue
        if value is not None and not option.check(value):
            raise errors.OptionError(
                f"option {name} must be {option.expected}, not {value!r}."
                f" Options of {_KINDS[where]}: {', '.join(valid_names(where))}",
                option=name,
                valid=valid_names(where),
            )
        if name == "runtime_env":
            given_env.check(value)
        if option.not_yet and value != option.default:
            raise errors.NotSupportedError(f"option {name} is not there yet")
    if given.get("num_returns") == "dynamic":
        warnings.warn(
            'num_returns="dynamic" waits for the whole generator: use num_returns="streaming",'
            " which gives each ref as soon as it is there",
            DeprecationWarning,
            stacklevel=4,
        )
    # None means what is usual for the function: leave it out.
    return {k: v for k, v in given.items() if k != "num_returns" or v is not None}


def _unknown(where: str, name: str) -> errors.OptionError:
    valid = valid_names(where)
    hint = given_env.hint(name, valid)
    return errors.OptionError(
        f"{_KINDS[where]} have no option {name!r}.{hint} Valid: {', '.join(valid)}",
        option=name,
        valid=valid,
    )


def get(given: Mapping[str, Any], name: str) -> Any:
    """The given value of an option, else its default."""
    value = given.get(name)
    return TABLE[name].default if value is None else value


def amounts(given: Mapping[str, Any], default_cpus: float) -> dict[str, float]:
    """The resources that the options ask for, rounded to steps, without zeros."""
    wanted: dict[str, float] = dict(given.get("resources") or {})
    cpus = given.get("num_cpus")
    wanted["CPU"] = default_cpus if cpus is None else cpus
    wanted["GPU"] = given.get("num_gpus") or 0
    wanted["memory"] = given.get("memory") or 0
    if given.get("accelerator_type"):
        wanted[f"accelerator_type:{given['accelerator_type']}"] = ACCELERATOR_SHARE
    return rounded(wanted)


def is_amount(value: Any) -> bool:
    """Whether ``value`` may say how much of something is asked for."""
    return _number(0)(value)


def rounded(wanted: Mapping[str, float]) -> dict[str, float]:
    """Amounts of ``wanted`` in steps, without zeros.

    Raises:
        OptionError: more than one GPU, and no whole number.
    """
    gpus = wanted.get("GPU", 0)
    if gpus > 1 and gpus != int(gpus):
        text = f"option num_gpus must be a whole number above 1, not {gpus!r}"
        raise errors.OptionError(text, option="num_gpus")
    steps = {name: round(float(amount), 4) for name, amount in wanted.items()}
    return {name: amount for name, amount in steps.items() if amount > 0}


def actor_amounts(given: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """(what a node must own, what is held) of an actor: RULES S-18."""
    names = ("num_cpus", "num_gpus", "memory", "resources", "accelerator_type")
    if all(given.get(name) is None for name in names):
        return {"CPU": 1.0}, {}
    held = amounts(given, 1.0)
    return held, held
