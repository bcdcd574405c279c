"""The daemon's loop: readiness, timers, idle work, and what happens to errors."""

from __future__ import annotations

import os

import pytest

from shoal._runtime import daemon_loop
from shoal._runtime.daemon_loop import Loop


def test_callbacks_timers_and_idle_work_come_in_their_order() -> None:
    loop = Loop()
    seen: list[str] = []
    read, write = os.pipe()

    def ready(_: int) -> None:
        seen.append(os.read(read, 10).decode())
        loop.unwatch(read)

    loop.watch(read, ready)
    os.write(write, b"ready")
    loop.call_when_idle(lambda: seen.append("idle"))
    loop.call_later(0.002, lambda: seen.append("timer"))
    loop.call_later(0.004, loop.stop)
    loop.run()
    assert sorted(seen) == ["idle", "ready", "timer"]
    assert seen[-1] == "timer"
    os.close(read)
    os.close(write)


def test_a_cancelled_timer_is_not_called() -> None:
    loop = Loop()
    seen: list[int] = []
    loop.call_later(0.001, lambda: seen.append(1)).cancel()
    loop.call_later(0.002, loop.stop)
    loop.run()
    assert seen == []


def test_cancelled_timers_are_forgotten_before_their_time() -> None:
    """An alarm that is set anew with every event, and one that is near now and then."""
    loop = Loop()
    seen: list[int] = []
    kept = loop.call_later(3600.0, lambda: seen.append(1))
    for _ in range(10_000):
        loop.call_later(3600.0, lambda: seen.append(2)).cancel()
    assert loop.sizes()["timers"] <= 2 * daemon_loop.STALE_TIMERS_LEAST
    kept.cancel()
    loop.call_later(0.001, lambda: seen.append(3))
    loop.call_later(0.002, loop.stop)
    loop.run()
    assert seen == [3]


def test_a_descriptor_forgotten_in_the_same_look_is_not_called() -> None:
    loop = Loop()
    pipes = [os.pipe(), os.pipe()]
    seen: list[int] = []

    def ready(_: int) -> None:
        seen.append(1)
        for read, _ in pipes:
            loop.unwatch(read)
        loop.call_later(0.001, loop.stop)

    for read, write in pipes:
        os.write(write, b"x")
        loop.watch(read, ready)
    loop.run()
    assert seen == [1]
    for pipe in pipes:
        os.close(pipe[0])
        os.close(pipe[1])


def test_an_error_in_one_callback_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    loop = Loop()

    def fail() -> None:
        raise ZeroDivisionError

    loop.call_later(0.0, fail)
    loop.call_later(0.001, loop.stop)
    loop.run()
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_errors_without_end_do_not_burn_a_core_for_ever() -> None:
    loop = Loop()
    read, write = os.pipe()
    os.write(write, b"x")
    calls = 0

    def fail(_: int) -> None:
        nonlocal calls
        calls += 1
        raise ZeroDivisionError

    loop.watch(read, fail)
    with pytest.raises(ZeroDivisionError):
        loop.run()
    assert calls == daemon_loop.ERRORS_IN_A_ROW_MOST
    os.close(read)
    os.close(write)
