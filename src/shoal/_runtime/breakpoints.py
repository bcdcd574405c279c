"""``breakpoint()`` in a task or a method: pdb at the driver's terminal, or debugpy for an editor.

The task stands still where it is, on its own thread; the CPU that it was granted is lent to others
meanwhile, as in ``get``. Its terminal is a socket of the session (``terminals``), and the driver of
its job is told, which joins it if it has a terminal of its own (``console``). ``shoal debug`` joins
it from any other.

::

    c        the task goes on, the terminal is given back
    q, EOF   the task fails with ``bdb.BdbQuit``
    Ctrl-C   at the prompt: a new one; while the task steps on: it stops at its next line

Nothing hangs: where nobody joins within ``SHOAL_DEBUGGER_WAIT_S`` seconds, or everybody has gone
for so long, the task goes on by itself and says so; and once nobody has come, a process waits no
more. An editor that goes lets the task go on.
"""

from __future__ import annotations

import inspect
import os
import pdb
import sys
import threading
import types
from typing import Any

from shoal import errors
from shoal._base import clock, environment
from shoal._proto import messages
from shoal._runtime import context, execute, terminals
from shoal._runtime import session as sessions
from shoal._runtime.cancelling import Interrupted
from shoal._runtime.terminals import Stop, Terminal

DEBUGPY = "debugpy"
OFF = "off"
_LOOK_S = 1.0
ALONE_S = 0.5
"""How long is waited where nobody has come before."""
_YIELDS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class _Present(threading.local):
    """The session of this thread that has not ended."""

    session: TaskPdb | None = None


_present = _Present()
_is_alone = False
"""Nobody has come to the last breakpoint here."""


class TaskPdb(pdb.Pdb):
    """pdb that ends with the user's outermost function: what is below is not stepped through."""

    def __init__(self, terminal: Terminal, patience_s: float) -> None:
        super().__init__(stdin=terminal, stdout=terminal, nosigint=True)  # type: ignore[arg-type]
        self._terminal = terminal
        self._patience_s = patience_s
        terminal.on_interrupt = self.set_step

    def set_trace(self, frame: types.FrameType | None = None) -> None:
        """Stop at the next line of ``frame``."""
        assert frame is not None
        self.reset()
        self.botframe = below = frame
        while below is not None and not execute.is_ours(below.f_code.co_filename):
            below.f_trace = self.trace_dispatch
            self.botframe = below
            below = below.f_back  # type: ignore[assignment]
        self.set_step()
        sys.settrace(self.trace_dispatch)

    def dispatch_return(self, frame: types.FrameType, arg: Any) -> Any:
        """The end of the user's code ends the session."""
        result = super().dispatch_return(frame, arg)
        if frame is self.botframe and not frame.f_code.co_flags & _YIELDS:
            self.end()
        return result

    def set_continue(self) -> None:
        """``c``: without breakpoints the session is over."""
        super().set_continue()
        if not self.breaks:
            self.end()

    def set_quit(self) -> None:
        """``q`` and EOF."""
        super().set_quit()
        self.end()

    def end(self) -> None:
        """Give the terminal back."""
        sys.settrace(None)
        self._terminal.close()
        if _present.session is self:
            _present.session = None

    def interaction(self, frame: Any, trace: Any) -> None:
        """At the prompt the CPU is lent to others."""
        memory = sessions.current().memory
        is_task = memory.running != 0
        watch = threading.Thread(target=self._watch, daemon=True)
        self._terminal.is_asking = True
        watch.start()
        if is_task:
            memory.set_blocked(True)
        try:
            super().interaction(frame, trace)
        finally:
            self._terminal.is_asking = False
            if is_task:
                memory.set_blocked(False)

    def _cmdloop(self) -> None:
        while True:
            try:
                self.allow_kbdint = True
                self.cmdloop()
                self.allow_kbdint = False
                return
            except Interrupted:  # the task was cancelled
                self.end()
                raise
            except KeyboardInterrupt:
                self.message("--KeyboardInterrupt--")

    def do_EOF(self, arg: str) -> Any:
        """Ctrl-D, or nobody has been here for too long: then the task goes on."""
        if self._is_deserted():
            _say("everybody has gone from the breakpoint: the task goes on")
            return self.do_continue("")
        return self.do_quit(arg)

    def _is_deserted(self) -> bool:
        return self._terminal.deserted_s() > self._patience_s

    def _watch(self) -> None:
        pause = threading.Event()
        while self._terminal.is_asking:
            pause.wait(_LOOK_S)
            if self._terminal.is_asking and self._is_deserted():
                self._terminal.give_up()
                return


def hook(*args: Any, **kwargs: Any) -> Any:
    """``sys.breakpointhook`` of workers."""
    session = sessions.current_or_none()
    asked = environment.read().python_breakpoint
    if session is None or asked not in ("", "pdb.set_trace"):
        return sys.__breakpointhook__(*args, **kwargs)
    frame = sys._getframe().f_back
    while frame is not None and execute.is_ours(frame.f_code.co_filename):
        frame = frame.f_back
    assert frame is not None
    set_trace(frame)
    return None


def set_trace(frame: types.FrameType) -> None:
    """Stop the task that runs ``frame`` there."""
    present = _present.session
    if present is not None:
        present.set_trace(frame)
        return
    seen = environment.read()
    if seen.debugger == OFF:
        return
    if seen.debugger == DEBUGPY:
        _stop_in_editor(frame, seen.debugger_wait_s)
        return
    _open(frame, seen.debugger_wait_s)


def _open(frame: types.FrameType, patience_s: float) -> None:
    global _is_alone
    session = sessions.current()
    stop = _stop(frame, terminals.new_name())
    terminal = Terminal(session.directory, stop)
    terminal.write(f"shoal: {stop.place}\n")
    session.tell(messages.TaskStopped(stop.name, stop.place))
    memory = session.memory
    is_task = memory.running != 0
    if is_task:
        memory.set_blocked(True)
    has_come = None
    try:
        has_come = terminal.wait_joined(ALONE_S if _is_alone else patience_s)
    finally:
        if is_task:
            memory.set_blocked(False)
        if not has_come:
            terminal.close()
    if not has_come:
        _is_alone = True
        _say(f"nobody has come to the breakpoint of {stop.place}: the task goes on")
        return
    _is_alone = False
    debugger = TaskPdb(terminal, patience_s)
    _present.session = debugger
    debugger.set_trace(frame)


def _stop(frame: types.FrameType, name: str) -> Stop:
    task = context.running.get()
    return Stop(
        name=name,
        pid=os.getpid(),
        task=context.task_name(task) if task is not None else context.process.class_name or "code",
        task_id=context.id_of(task) if task is not None else "",
        attempt=task.attempt if task is not None else 1,
        job=sessions.current().job,
        file=os.path.basename(frame.f_code.co_filename),
        line=frame.f_lineno,
        began=clock.now(),
    )


def _say(text: str) -> None:
    sys.stderr.write(f"shoal: {text}\n")
    sys.stderr.flush()


# ---- editors
_EDITOR_LOOK_S = 0.05
_port = 0
_listening = threading.Lock()


def _stop_in_editor(frame: types.FrameType, patience_s: float) -> None:
    """Stop ``frame`` in an editor that speaks the debug adapter protocol."""
    try:
        import debugpy  # type: ignore[import-not-found]
    except ImportError:
        raise errors.NotSupportedError(
            "SHOAL_DEBUGGER=debugpy needs debugpy in the worker's Python."
            " What to do: pip install debugpy, or leave the variable out for pdb"
        ) from None
    if not debugpy.is_client_connected() and not _has_come(debugpy, frame, patience_s):
        return
    # As debugpy.breakpoint() does it, which would stop in this frame, not in the user's.
    sys.modules["pydevd"].settrace(
        suspend=True,
        trace_only_current_thread=True,
        patch_multiprocessing=False,
        stop_at_frame=frame,
    )


def _has_come(debugpy: Any, frame: types.FrameType, patience_s: float) -> bool:
    """Wait for an editor, on the loopback only; False if none has come in time."""
    global _is_alone, _port
    with _listening:
        if not _port:
            _port = debugpy.listen(("127.0.0.1", 0))[1]
    stop = _stop(frame, "")
    configuration = (
        f'{{"type": "debugpy", "request": "attach", "name": "{stop.task}",'
        f' "connect": {{"host": "127.0.0.1", "port": {_port}}}}}'
    )
    session = sessions.current()
    session.tell(messages.TaskStopped("", f"{stop.place}: {configuration}"))
    memory = session.memory
    is_task = memory.running != 0
    if is_task:
        memory.set_blocked(True)
    try:
        # Not debugpy's own wait, which has no limit and can not be left before it has begun.
        deadline = clock.now() + (ALONE_S if _is_alone else patience_s)
        pause = threading.Event()
        while not debugpy.is_client_connected() and clock.now() < deadline:
            pause.wait(_EDITOR_LOOK_S)
    finally:
        if is_task:
            memory.set_blocked(False)
    _is_alone = not debugpy.is_client_connected()
    if _is_alone:
        _say(f"no editor has come to the breakpoint of {stop.place}: the task goes on")
    return not _is_alone
