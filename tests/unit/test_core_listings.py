"""Tables of a cluster: what is one row, where filters are applied, what is said to be missing."""

from __future__ import annotations

from shoal._core import listings
from shoal._core.listings import Answer, Gathering, Row

ME, FAR, THIRD = "aa", "bb", "cc"
NAMES = {ME: "node-1", FAR: "node-2", THIRD: "node-3"}


def name_of(node: str) -> str:
    return NAMES[node]


def together(table: str, *answers: Answer) -> list[Row]:
    return listings.together(table, list(answers), ME, name_of)


def task(node: str, key: int, state: str = "RUNNING", **more: object) -> Row:
    row: Row = {
        "key": key,
        "task_id": f"{node}-{key}",
        "state": state,
        "worker": 1 if state == "RUNNING" else -1,
        "started_s": 5.0 if state == "RUNNING" else None,
        "ended_s": None,
        "parent": "",
        "node": "",
        "node_id": node,
    }
    return {**row, **more}


def shown(rows: list[Row], *fields: str) -> list[tuple[object, ...]]:
    return [tuple(row[name] for name in fields) for row in rows]


# ---- tasks
def test_a_lent_task_and_its_visit_are_one_row() -> None:
    home = task(ME, 7, "FORWARDED", node_id=FAR)
    visit = task(FAR, 9, worker=4, home=[ME, 7])
    child = task(FAR, 10, parent="bb-9")
    rows = together("tasks", Answer(ME, [home]), Answer(FAR, [visit, child]))
    assert shown(rows, "task_id", "state", "node", "node_id", "worker", "parent") == [
        ("aa-7", "RUNNING", "node-2", FAR, 4, ""),
        ("bb-10", "RUNNING", "node-2", FAR, 1, "aa-7"),
    ]


def test_a_visit_that_has_not_begun_leaves_the_task_forwarded() -> None:
    home = task(ME, 7, "FORWARDED", node_id=FAR)
    visit = task(FAR, 9, "QUEUED", home=[ME, 7])
    rows = together("tasks", Answer(ME, [home]), Answer(FAR, [visit]))
    assert shown(rows, "state", "node", "worker") == [("FORWARDED", "node-2", -1)]


def test_a_call_that_goes_by_way_of_a_home_is_where_it_runs() -> None:
    called = task(ME, 7, "FORWARDED", node_id=FAR)
    passed = task(FAR, 9, "FORWARDED", node_id=THIRD, home=[ME, 7])
    run = task(THIRD, 3, worker=2, home=[FAR, 9])
    rows = together("tasks", Answer(ME, [called]), Answer(FAR, [passed]), Answer(THIRD, [run]))
    wanted = [("aa-7", "RUNNING", "node-3", 2)]
    assert shown(rows, "task_id", "state", "node", "worker") == wanted


def test_what_has_ended_meanwhile_is_not_said_to_run() -> None:
    home = task(ME, 7, "FINISHED", ended_s=8.0)
    rows = together("tasks", Answer(ME, [home]), Answer(FAR, [task(FAR, 9, home=[ME, 7])]))
    assert shown(rows, "task_id", "state") == [("aa-7", "FINISHED")]


def test_visits_of_a_home_that_is_silent_are_shown_and_others_are_not() -> None:
    of_silent, of_me = task(FAR, 9, home=[THIRD, 7]), task(FAR, 10, home=[ME, 8])
    rows = together("tasks", Answer(ME, []), Answer(FAR, [of_silent, of_me]))
    assert shown(rows, "task_id", "node") == [("bb-9", "node-2")]


def test_what_has_ended_comes_last_the_last_one_first() -> None:
    ours = [task(ME, 1, "FINISHED", ended_s=1.0), task(ME, 2)]
    theirs = [task(FAR, 3, "FAILED", ended_s=2.0), task(FAR, 4)]
    rows = together("tasks", Answer(ME, ours), Answer(FAR, theirs))
    assert shown(rows, "task_id") == [("aa-2",), ("bb-4",), ("bb-3",), ("aa-1",)]


def test_times_of_another_machine_are_told_as_here() -> None:
    rows = listings.shifted([task(FAR, 1, submitted_s=3.0)], 100.0)
    assert shown(rows, "submitted_s", "started_s", "ended_s") == [(103.0, 105.0, None)]


def test_a_job_has_the_number_that_its_program_has() -> None:
    guests = {4: (FAR, 2)}, {2: (ME, 1), 5: (FAR, 5)}
    theirs: list[Row] = [{"worker": 1, "job": 2}, {"worker": 2, "job": 3}, {"worker": 3, "job": 5}]
    rows = together(
        "workers",
        Answer(ME, [{"worker": 1, "job": 1}]),
        Answer(FAR, theirs, guests=guests[1]),
        Answer(THIRD, [{"worker": 1, "job": 4}], guests=guests[0]),
    )
    assert shown(rows, "job") == [(1,), (1,), (3,), (5,), (1,)]


# ---- values, groups, memory
def test_a_value_has_the_id_that_it_has_where_it_is_asked_for() -> None:
    proxy: Row = {"key": 5, "object_id": "ours", "state": "PENDING", "home": [FAR, 9]}
    orphan: Row = {"key": 6, "object_id": "of a silent node", "home": [THIRD, 1]}
    value: Row = {"key": 9, "object_id": "theirs", "state": "VALUE"}
    other: Row = {"key": 5, "object_id": "another", "state": "VALUE"}
    rows = together("objects", Answer(ME, [proxy, orphan]), Answer(FAR, [value, other]))
    assert shown(rows, "object_id") == [("ours",), ("another",), ("of a silent node",)]
    assert rows[0]["state"] == "VALUE"


def test_other_nodes_do_not_tell_of_their_proxies() -> None:
    rows: list[Row] = [{"key": 1}, {"key": 2, "home": [FAR, 9]}]
    assert listings.for_others("objects", rows) == [{"key": 1}]
    assert listings.for_others("tasks", rows) == rows, "visits say where a task is"


def test_a_group_is_told_by_who_made_it_else_by_who_knows_most() -> None:
    def group(name: str, state: str, job: int) -> Row:
        return {"group_id": name, "state": state, "job": job}

    here = [group("g", "REMOVED", 0), group("h", "PENDING", 0)]
    there = [group("g", "CREATED", 3), group("h", "CREATED", 0), group("i", "PENDING", 1)]
    rows = together("groups", Answer(ME, here), Answer(FAR, there))
    assert rows == [there[0], there[1], there[2]]


def test_memory_is_told_from_the_largest_value() -> None:
    rows = together("memory", Answer(ME, [{"size_bytes": 1}]), Answer(FAR, [{"size_bytes": 2}]))
    assert rows == [{"size_bytes": 2}, {"size_bytes": 1}]


def test_rows_that_nobody_understands_are_left_out() -> None:
    odd: list[Row] = [{}, {"key": []}, {"size_bytes": "many"}, {"group_id": [], "state": 1}]
    for table in listings.TABLES:
        kept = together(table, Answer(ME, []), Answer(FAR, [dict(row) for row in odd]))
        assert kept == (odd if table not in listings.NEEDED else []), table
    odd_home = task(FAR, 9, home=[ME, []])
    rows = together("tasks", Answer(ME, [task(ME, 7)]), Answer(FAR, [odd_home]))
    assert shown(rows, "task_id") == [("aa-7",), ("bb-9",)]


# ---- choosing
def test_nodes_choose_only_by_what_no_other_node_changes() -> None:
    given = {"name": "a", "pid": 7, "node_id": FAR, "cause": "killed"}
    assert listings.for_nodes("actors", given) == {"name": "a"}
    assert listings.for_nodes("tasks", {"state": "RUNNING"}) == {}
    assert listings.for_nodes("actors", {"name": object()}) == {}


def test_rows_are_chosen_by_equal_fields() -> None:
    rows: list[Row] = [{"name": "a", "cause": b"record"}, {"name": "b", "cause": b""}]
    assert listings.fitting(rows, {"name": "a"}) == rows[:1]
    assert listings.fitting(rows, {"cause": "killed"}) == rows, "who asks knows the words"
    assert listings.fitting(rows, {"unknown": 1}) == rows
    assert listings.fitting(rows, {}) == rows


def test_rows_are_cut_at_a_limit_and_at_a_size() -> None:
    rows: list[Row] = [{"text": "x" * 100} for _ in range(10)]
    assert listings.cut(rows, 3, 10_000) == (rows[:3], 0), "as was asked for"
    few, left_out = listings.cut(rows, 9, 500)
    assert (len(few), left_out) == (4, 5)
    assert listings.cut(rows, -1, 500) == ([], 0)


# ---- gathering
def test_a_table_is_complete_when_all_nodes_have_told_or_are_lost() -> None:
    gathering = Gathering([ME, FAR, THIRD])
    gathering.told(Answer(FAR, [{"name": "far"}]))
    gathering.told(Answer(FAR, [{"name": "twice"}]))
    gathering.told(Answer(ME, []))
    assert gathering.awaited == {THIRD}
    gathering.lost(THIRD)
    assert not gathering.awaited
    gathering.told(Answer(THIRD, [{"name": "late"}]))
    assert [each.node for each in gathering.answers(ME, name_of)] == [ME, FAR]
    assert gathering.notices(2.0, name_of) == []


def test_who_is_silent_and_who_has_more_is_named() -> None:
    gathering = Gathering([ME, FAR, THIRD])
    gathering.told(Answer(ME, [], left_out=1200))
    assert gathering.notices(2.0, name_of) == [
        "nodes node-2, node-3 have not answered within 2 s: what only they know is not shown",
        "node node-1 has 1,200 rows more than one message holds: they are not shown",
    ]
    gathering.lost(THIRD)
    (silent, _) = gathering.notices(2.0, name_of)
    assert silent == "node node-2 has not answered within 2 s: what only it knows is not shown"
