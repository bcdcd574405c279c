"""What follows from somebody asking why: rounds of looking, until the chain is complete."""

from __future__ import annotations

import msgspec

from shoal._core import commands as do
from shoal._core import why
from shoal._core.answers import Commands, refuse
from shoal._core.events import Inspected, Requested
from shoal._core.sights import Need, Sights
from shoal._core.tables import Inquiry, NodeTables
from shoal._proto import messages as m
from shoal._proto import reasons

ROUNDS_MOST = 300
"""Looks for one answer; what is still unknown then is the end of its chain."""


def on_ask(t: NodeTables, now: float, event: Requested, body: m.AskWhy) -> Commands:
    """Look at queues and workers first, so that the tables are of this moment."""
    ticket = t.new_ticket()
    t.inquiries[ticket] = Inquiry(event.index, event.request, body.about, Sights())
    return [t.scheduler.look_list(), do.Inspect(ticket)]


def on_inspected(t: NodeTables, now: float, event: Inspected) -> Commands:
    """One more round, or the answer."""
    inquiry = t.inquiries.pop(event.ticket, None)
    if inquiry is None:
        return []
    sights = inquiry.sights
    sights.tasks.update((task.key, task) for task in event.tasks)
    sights.processes.update((process.index, process) for process in event.processes)
    sights.queues.update((queue.queue, queue) for queue in event.queues)
    sights.used_bytes, sights.capacity_bytes = event.used_bytes, event.capacity_bytes
    if event.held_bytes is not None:
        sights.held_bytes = event.held_bytes
    is_last = inquiry.rounds >= ROUNDS_MOST
    asked = Requested(inquiry.index, inquiry.request, m.AskWhy(inquiry.about))
    try:
        reason = why.explain(t, now, inquiry.index, inquiry.about, sights, is_last)
    except Need as need:
        t.inquiries[event.ticket] = msgspec.structs.replace(inquiry, rounds=inquiry.rounds + 1)
        return [do.Inspect(event.ticket, need.tasks, need.processes, need.queues, need.has_holders)]
    except why.UnknownIdError as error:
        return refuse(asked, error.record)
    answer = m.WhyAnswer(reasons.pack(reason))
    return [do.Reply(inquiry.index, inquiry.request, answer)]
