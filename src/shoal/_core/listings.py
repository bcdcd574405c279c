"""Tables of the whole cluster: which rows of which node are shown, and what is one thing.

The daemon that is asked has every other node tell its rows (``AskRows``), and puts them together
with its own. What is known on several nodes is one row:

==========  ==================================  ============================================
table       rows of a node                      one row of
==========  ==================================  ============================================
actors      those whose home it is: it is told  one
            where each lives, and how it is
jobs        its programs; no guests             one
groups      all that it has heard of            each group: of the node that made it, else of
                                                who knows most
tasks       its own, and *visits*: what it      each task and the visits that run it: the
            runs for another node               home's, with place, worker and state of the
                                                last visit
objects     its own, no results of visits; of   each object: the home's, with the id that it
            the asker also proxies              has where it is asked for
workers,    all                                 one
memory
==========  ==================================  ============================================

1. A filter is applied where the rows are if no other node can change that field of the row; all
   filters are applied to what comes of it.
2. A node that does not answer is named, and so is one that has more rows than one message holds.
3. Of a home that does not answer, visits and proxies are shown as they are.
4. Whatever a node tells, who asks is answered: rows that nobody could put in their place are left
   out.
5. Times are those of the asker's machine: each node says when its own was booted. The job of a row
   has the number that it has on the node of its program, not that of the guest that stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

Row = dict[str, object]

TABLES: dict[str, frozenset[str]] = {
    "actors": frozenset({"actor_id", "class_name", "name", "namespace", "state", "detached"}),
    "groups": frozenset({"group_id", "name", "namespace"}),
    "jobs": frozenset({"job", "state", "pid", "namespace"}),
    "memory": frozenset({"object_id", "state", "made_by", "site"}),
    "objects": frozenset(),
    "tasks": frozenset(),
    "workers": frozenset({"worker", "pid", "state", "actor_id"}),
}
"""Tables that there are of the whole cluster, and the fields by which each node may choose."""
NEEDED: dict[str, dict[str, type]] = {
    "groups": {"group_id": str, "state": str, "job": int},
    "memory": {"size_bytes": int},
    "objects": {"key": int, "object_id": str},
    "tasks": {"key": int, "task_id": str, "state": str, "parent": str, "node_id": str},
}
"""What is read of rows here; one that has it not is another release's, and is not shown."""
PLAIN = (str, bool, int, float, type(None))
"""What a filter may be that is sent to other nodes."""
ROWS_BYTES_MOST = 4 << 20
"""Of one message between nodes: tasks share its link."""
TABLE_BYTES_MOST = 12 << 20
"""Of what is told to a program."""
TIMES = ("submitted_s", "started_s", "ended_s")
_ENDED = ("FINISHED", "FAILED")
_GROUP_STATES = ("", "PENDING", "RESCHEDULING", "CREATED", "REMOVED")
_encode = msgspec.msgpack.encode


class Answer(msgspec.Struct, frozen=True):
    """What one node has told."""

    node: str
    rows: list[Row]
    left_out: int = 0
    guests: Mapping[int, tuple[str, int]] = {}
    """Jobs of it that stand for those of other nodes."""


class Gathering:
    """One table, on its way from all nodes."""

    def __init__(self, nodes: Iterable[str]) -> None:
        self.awaited = set(nodes)
        self._answers: list[Answer] = []

    def told(self, answer: Answer) -> None:
        """A node has answered."""
        if answer.node in self.awaited:
            self.awaited.discard(answer.node)
            self._answers.append(answer)

    def lost(self, node: str) -> None:
        """It has nothing any more."""
        self.awaited.discard(node)

    def answers(self, me: str, name_of: Callable[[str], str]) -> list[Answer]:
        """This node's first, then by the names of the nodes."""
        return sorted(self._answers, key=lambda each: (each.node != me, name_of(each.node)))

    def notices(self, waited_s: float, name_of: Callable[[str], str]) -> list[str]:
        """What is missing, for people."""
        found = []
        if self.awaited:
            names = ", ".join(sorted(map(name_of, self.awaited)))
            plural = len(self.awaited) > 1
            nodes, have = ("nodes", "have") if plural else ("node", "has")
            found.append(
                f"{nodes} {names} {have} not answered within {waited_s:g} s: what only"
                f" {'they know' if plural else 'it knows'} is not shown"
            )
        for answer in sorted(self._answers, key=lambda each: name_of(each.node)):
            if answer.left_out:
                found.append(
                    f"node {name_of(answer.node)} has {answer.left_out:,} rows more than one"
                    " message holds: they are not shown"
                )
        return found


# ---- choosing
def for_nodes(table: str, filters: Mapping[str, object]) -> dict[str, object]:
    """Those by which each node may choose."""
    fields = TABLES[table]
    return {k: v for k, v in filters.items() if k in fields and isinstance(v, PLAIN)}


def fitting(rows: Iterable[Row], filters: Mapping[str, object]) -> list[Row]:
    """The rows whose fields equal ``filters``; whatever they do not have, or have as bytes that
    people are shown in words, is left to who asks."""
    wanted = list(filters.items())
    return [row for row in rows if all(_agrees(row.get(name, v), v) for name, v in wanted)]


def _agrees(value: object, wanted: object) -> bool:
    return value == wanted or isinstance(value, bytes)


def understood(table: str, rows: Iterable[Row]) -> list[Row]:
    """The rows that can be put together with others."""
    needed = NEEDED.get(table, {}).items()
    return [row for row in rows if all(isinstance(row.get(name), kind) for name, kind in needed)]


def for_others(table: str, rows: list[Row]) -> list[Row]:
    """Without what only programs of this node can name."""
    return [row for row in rows if "home" not in row] if table == "objects" else rows


def cut(rows: list[Row], limit: int, bytes_most: int) -> tuple[list[Row], int]:
    """The first ``limit`` rows, as far as they are no more bytes than that, and how many of them
    are too many."""
    rows = rows[: max(0, limit)]
    size = 0
    for count, row in enumerate(rows):
        size += len(_encode(row))
        if size > bytes_most:
            return rows[:count], len(rows) - count
    return rows, 0


def shifted(rows: list[Row], by_s: float) -> list[Row]:
    """Rows of another machine, with times as they are here."""
    for row in rows:
        for name in TIMES:
            time_s = row.get(name)
            if isinstance(time_s, float):
                row[name] = time_s + by_s
    return rows


# ---- putting together
def together(
    table: str, answers: list[Answer], me: str, name_of: Callable[[str], str]
) -> list[Row]:
    """The rows of the cluster; ``me`` is the node that is asked."""
    answers = [Answer(each.node, understood(table, each.rows)) for each in _numbered(answers)]
    if table == "tasks":
        return _tasks(answers, me, name_of)
    if table == "groups":
        return _groups(answers)
    if table == "objects":
        return _objects(answers)
    rows = [row for answer in answers for row in answer.rows]
    if table == "memory":
        rows.sort(key=lambda row: -_number(row["size_bytes"]))
    return rows


def _numbered(answers: list[Answer]) -> list[Answer]:
    """With the numbers that jobs have where their programs are."""
    guests = {(each.node, job): home for each in answers for job, home in each.guests.items()}
    for answer in answers:
        for row in answer.rows:
            job = row.get("job")
            if isinstance(job, int):
                row["job"] = _at_home((answer.node, job), guests)
    return answers


def _at_home(job: tuple[str, int], guests: Mapping[tuple[str, int], tuple[str, int]]) -> int:
    """A guest may stand for another one."""
    for _ in range(len(guests)):
        if job not in guests:
            break
        job = guests[job]
    return job[1]


def _number(value: object) -> float:
    return value if isinstance(value, int | float) else 0.0


def _groups(answers: list[Answer]) -> list[Row]:
    found: dict[object, Row] = {}
    for answer in answers:
        for row in answer.rows:
            known = found.setdefault(row["group_id"], row)
            if _knowledge(row) > _knowledge(known):
                found[row["group_id"]] = row
    return list(found.values())


def _knowledge(row: Row) -> tuple[bool, int]:
    """The node that made it has the number of a job; others are told later, or have been told
    once."""
    state = str(row["state"])
    return bool(row["job"]), _GROUP_STATES.index(state) if state in _GROUP_STATES else 0


Place = tuple[str, object]
"""A node, and a key there."""


def _home_of(row: Row) -> Place | None:
    """Whose it is, and what it is there, if it is another node's."""
    home = row.pop("home", None)
    if isinstance(home, list | tuple) and len(home) == 2 and isinstance(home[1], int):
        return str(home[0]), home[1]
    return None


def _objects(answers: list[Answer]) -> list[Row]:
    """Those of the asker come first."""
    here: dict[Place, Row] = {}
    found: list[Row] = []
    for answer in answers:
        for row in answer.rows:
            home = _home_of(row)
            if home is not None:
                here[home] = row
            elif (proxy := here.pop((answer.node, row["key"]), None)) is not None:
                found.append({**row, "object_id": proxy["object_id"]})
            else:
                found.append(row)
    return found + list(here.values())


def _tasks(answers: list[Answer], me: str, name_of: Callable[[str], str]) -> list[Row]:
    shown: list[tuple[str, Row]] = []
    visits: dict[Place, tuple[str, Row]] = {}
    for answer in answers:
        for row in answer.rows:
            home = _home_of(row)
            if home is None:
                shown.append((answer.node, row))
            else:
                visits[home] = (answer.node, row)
    called: dict[object, object] = {}
    for node, row in shown:
        _follow(node, row, visits, called)
    told = {answer.node for answer in answers}
    for home in [home for home in visits if home[0] not in told]:
        if home in visits:
            node, row = visits.pop(home)
            _follow(node, row, visits, called)
            shown.append((node, row))
    rows = [row for _, row in shown]
    for row in rows:
        row["parent"] = called.get(row["parent"], row["parent"])
        row["node"] = "" if row["node_id"] == me else name_of(str(row["node_id"]))
    over = [row for row in rows if row["state"] in _ENDED]
    over.sort(key=lambda row: -_number(row.get("ended_s")))
    return [row for row in rows if row["state"] not in _ENDED] + over


def _follow(
    node: str, row: Row, visits: dict[Place, tuple[str, Row]], called: dict[object, object]
) -> None:
    """Say of a task where it is, from node to node."""
    place: Place = (node, row["key"])
    while place in visits:
        host, visit = visits.pop(place)
        called[visit["task_id"]] = row["task_id"]
        if row["state"] not in _ENDED:
            row["node_id"] = visit["node_id"]
            if visit["state"] == "RUNNING":
                row |= {name: visit.get(name) for name in ("state", "worker", "started_s")}
        place = (host, visit["key"])
