"""A node of role driver runs nothing (RULES S-19): its machine, the store, its program."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import pytest

from shoal import errors
from shoal._base.config import NodeConfig
from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core import node_row, placement
from shoal._core.members import interface as on
from shoal._core.node import NodeMachine
from shoal._core.policies import view
from shoal._core.resources import parse
from shoal._proto import membership as m
from shoal._proto import messages
from shoal._proto.views import NodeRow, Wish
from shoal._runtime import elsewhere
from shoal._runtime.links import keys
from tests.unit.members_by_hand import Cluster
from tests.unit.why_node import NODE, Node


def notices(commands: list[do.Command]) -> list[str]:
    bodies = [c.body for c in commands if isinstance(c, do.Notify)]
    return [body.text for body in bodies if isinstance(body, messages.Notice)]


# ---- the machine
@pytest.mark.parametrize("amounts", [{}, {"CPU": 1.0}, {"memory": 1.0}])
def test_nothing_is_feasible_not_even_what_asks_for_nothing(amounts: dict[str, float]) -> None:
    node = Node.of_a_driver()
    number = node.queue(amounts)
    queue = node.machine.tables.scheduler.held.queues[number]
    assert not queue.is_feasible and not node.starts
    row = node_row.row_of(node.machine.tables, 1, 1)
    assert row.is_driver and not row.total
    assert view.slots_ever(row, Wish()) == 0


def others(node: Node, *totals: dict[str, float]) -> None:
    """These are the other nodes, with what each has."""
    ids = [f"{number:032x}" for number in range(len(totals))]
    rows = [NodeRow(each, 1, 1, dict(parse(total))) for each, total in zip(ids, totals)]
    known = tuple(seen.KnownNode(row.node[-2:], row) for row in rows)
    node.tell(seen.NodesChanged(frozenset(ids), known))


def test_what_others_can_run_waits_quietly_and_what_nobody_can_is_said_once() -> None:
    node = Node.of_a_driver()
    number = node.queue({"CPU": 1.0})
    others(node, {"CPU": 2.0}, {})
    node.now += 60
    assert not notices(node.tell(seen.AlarmRang()))
    others(node, {"CPU": 0.5})
    node.now += 5
    (said,) = notices(node.tell(seen.AlarmRang()))
    assert "no node of the cluster has that (CPU: the most is 0.5, on 00)" in said
    node.now += 60
    assert not notices(node.tell(seen.AlarmRang()))
    assert node.machine.tables.scheduler.held.queues[number].dead_record is None, "one may join"


def test_a_head_that_is_alone_says_it_without_being_told() -> None:
    config = NodeConfig("s", "/d", NODE, {"CPU": 1.0}, 2, in_cluster=True)
    node = Node.__new__(Node)
    node._begin(config)
    node.queue({"CPU": 9.0})
    node.now += 5
    assert len(notices(node.tell(seen.AlarmRang()))) == 1


@pytest.mark.parametrize(("soft", "refused"), [(False, True), (True, False)])
def test_an_affinity_to_it(soft: bool, refused: bool) -> None:
    tables = Node.of_a_driver().machine.tables
    found = placement.resolve(tables, messages.NodeAffinity(NODE.hex(), soft))
    assert isinstance(found, bytes) == refused
    if isinstance(found, bytes):
        assert b"it runs nothing" in found
    else:
        assert not found.labels, "any node will do"


def test_other_nodes_are_as_they_were() -> None:
    tables = NodeMachine(NodeConfig("s", "/d", NODE, {"CPU": 1.0}, 2, in_cluster=True)).tables
    found = placement.resolve(tables, messages.NodeAffinity(NODE.hex(), False))
    assert not isinstance(found, bytes) and found.room.accounts
    assert not node_row.row_of(tables, 1, 1).is_driver


# ---- the store
def test_it_is_not_drained_and_its_end_is_no_news() -> None:
    cluster = Cluster("a")
    cluster.ask_to_join("d", role=m.ROLE_DRIVER)
    cluster.report("d")
    cluster.told.clear()
    cluster.step(on.Heard(m.Ask("a", 1, cluster.life, 1, 0, m.DrainMember("d", 5.0))))
    (told,) = [body for _, body in cluster.told if isinstance(body, m.Told)]
    assert isinstance(told.body, m.DrainRefused) and "leaves with its program" in told.body.why
    assert "d" not in cluster.machine.nodes.rooms()
    cluster.step(on.Heard(m.Obituary("d", 1)))
    assert not cluster.notices
    cluster.step(on.Heard(m.Obituary("a", 1)))
    assert len(cluster.notices) == 1


# ---- its program
@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1:6380", "10.0.0.1:6380"),
        ("ray://head.example:10001", "head.example:10001"),
        ("shoal://head.example", "head.example:6380"),
        ("shoal://[fd00::1]:7000/", "[fd00::1]:7000"),
    ],
)
def test_what_is_an_address(text: str, address: str) -> None:
    assert elsewhere.address_of(text) == address


@pytest.mark.parametrize("text", ["http://a:1", "a:b", "a:0", ":1", "ray://"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(errors.OptionError, match="What to do"):
        elsewhere.address_of(text)


def test_where_the_secret_comes_from(tmp_path: pathlib.Path) -> None:
    line = keys.JoinLine(("h:1", "h:2"), keys.Secret.new(), "a" * 64)
    path = tmp_path / "token"
    path.write_text(line.text() + "\n")
    path.chmod(0o600)
    assert elsewhere.credentials(line.text(), "") == line
    assert elsewhere.credentials(line.text(), "/no/such") == line, "the line has it"
    (found,) = [elsewhere.credentials("shoal://x:5", str(path))]
    assert found is not None and found.secret == line.secret and found.addresses == ("x:5",)
    path.write_text(line.secret.text())
    bare = elsewhere.credentials("x:5", str(path))
    assert bare is not None and bare.secret == line.secret and not bare.fingerprint
    assert elsewhere.credentials("x:5", "") is None
    os.chmod(path, 0o640)
    for given, token_file, option in (
        ("x:5", str(path), "token_file"),
        ("x:5", str(tmp_path / "none"), "token_file"),
        ("shoal-1 half", "", "address"),
    ):
        with pytest.raises(errors.OptionError) as caught:
            elsewhere.credentials(given, token_file)
        assert caught.value.option == option and line.secret.text() not in str(caught.value)


def test_a_node_of_that_cluster_is_known_by_its_secret_or_its_address(
    tmp_path: pathlib.Path,
) -> None:
    place = str(tmp_path / "keys")
    line = keys.new_cluster(place, "h:1")
    row: dict[str, Any] = {"address": "", "store_address": "h:1", "keys": place}
    assert elsewhere._is_of(row, "h:1", None) and not elsewhere._is_of(row, "h:2", None)
    assert elsewhere._is_of(row, "", line)
    other = keys.JoinLine(("h:1",), keys.Secret.new())
    assert not elsewhere._is_of(row, "h:1", other), "another cluster at an address of that name"
