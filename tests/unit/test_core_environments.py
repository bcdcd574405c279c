"""Runtime environments in the node's machine: who waits, who fails, what is made once."""

from __future__ import annotations

from shoal._base import records
from shoal._core import commands as do
from shoal._core import events as seen
from shoal._core.environments import FAILED_KEPT_S, Environments, Phase
from shoal._proto import messages as m
from shoal._proto.environments import Conda, Environment, Packages
from tests.unit.test_core_node import DRIVER, WORKER, Node, kinds, refusal, reply

BUILT = Environment(key="built", packages=Packages("digest", ["a"]))
PLAIN = Environment(key="plain", env_vars={"A": "1"})
OTHER_DRIVER = 9


def open_queue(node: Node, environment: Environment | None, queue: int = 5) -> list[do.Command]:
    out = node.ask(DRIVER, m.OpenQueue({"CPU": 1.0}, environment=environment))
    tickets = [c.ticket for c in out if isinstance(c, do.NewQueue)]
    return out + (node.tell(seen.QueueCreated(tickets[0], queue, 1)) if tickets else [])


def fill(node: Node, queue: int = 5) -> list[do.Command]:
    return node.tell(seen.Looked((seen.QueueState(queue, 1, 0),)))


def begun() -> Node:
    node = Node()
    node.tell(seen.Began())
    node.driver()
    return node


def built(commands: list[do.Command]) -> list[str]:
    return [c.environment.key for c in commands if isinstance(c, do.BuildEnvironment)]


def test_what_needs_nothing_made_is_ready_at_once() -> None:
    node = begun()
    node.worker(WORKER)
    assert built(open_queue(node, PLAIN)) == []
    assignment = reply(fill(node), m.Assignment)
    assert assignment.environment == PLAIN and assignment.config.environment is None


def test_a_queue_waits_for_its_environment_and_nobody_else_does() -> None:
    node = begun()
    node.worker(WORKER)
    node.worker(WORKER + 1)
    assert built(open_queue(node, BUILT)) == ["built"]
    assert not [c for c in fill(node) if isinstance(c, do.Reply)], "it is not there yet"
    assert node.machine.tables.account.free["CPU"] == 20_000, "and keeps nothing from others"
    open_queue(node, None, queue=6)
    assert reply(fill(node, 6), m.Assignment).environment is None
    out = node.tell(seen.EnvironmentBuilt("built"), after=30.0)
    assert reply(out, m.Assignment).environment == BUILT


def test_it_is_made_once_for_all_that_ask() -> None:
    node = begun()
    node.driver(OTHER_DRIVER)
    assert built(open_queue(node, BUILT)) == ["built"]
    other = m.OpenQueue({"CPU": 2.0}, environment=BUILT)
    assert built(node.ask(DRIVER, other)) == built(node.ask(OTHER_DRIVER, other)) == []
    assert built(node.actor(queue=8)) == []


def test_the_same_class_with_another_environment_is_another_queue_and_worker() -> None:
    node = begun()
    node.worker(WORKER)
    node.worker(WORKER + 1)
    open_queue(node, PLAIN)
    assert do.Assign(WORKER, 5) in fill(node)
    other = Environment(key="other", env_vars={"A": "2"})
    assert kinds(open_queue(node, PLAIN)) == ["Reply"], "equal: the same"
    assert "NewQueue" in kinds(open_queue(node, other, queue=6))
    # The first worker is idle again, and may not serve the other queue.
    node.tell(seen.Looked((seen.QueueState(5, 0, 1),), (seen.WorkerState(WORKER, 5, 5, 0, False),)))
    out = fill(node, 6)
    assert do.Assign(WORKER + 1, 6) in out and reply(out, m.Assignment).environment == other


def test_the_jobs_own_is_made_when_it_begins_unless_that_is_to_wait() -> None:
    node = Node()
    out = node.driver(environment=BUILT)
    assert built(out) == ["built"]
    lazy = Environment(key="lazy", packages=Packages("x"), is_eager=False)
    node = Node(started=True)
    assert built(node.driver(environment=lazy)) == []
    assert built(open_queue(node, None)) == ["lazy"]
    assert built(open_queue(node, lazy)) == [], "named or not, it is the same"


def test_a_failed_one_fails_what_waits_and_may_be_tried_again() -> None:
    node = begun()
    open_queue(node, BUILT)
    fill(node)
    info = reply(node.actor(queue=8), m.ActorInfo)
    node.tell(seen.Requested(DRIVER, 77, m.CreateActor(actor_spec(), BUILT)))
    ticket = max(node.machine.tables.tickets)
    waiting = reply(node.tell(seen.QueueCreated(ticket, 9, 1)), m.ActorInfo)
    out = node.tell(seen.EnvironmentFailed("built", "pip", "uv said no", ("line 1", "line 2")))
    killed = {c.queue: c.record for c in out if isinstance(c, do.KillQueue)}
    assert set(killed) == {5, 9} and do.FreeQueue(5) in out
    name, facts = records.unpack(killed[5])
    assert name == "RuntimeEnvSetupError" and facts["step"] == "pip"
    assert facts["output"] == ["line 1", "line 2"] and "uv said no" in facts["message"]
    assert node.state(waiting.actor_id).state == "DEAD"
    assert node.state(info.actor_id).state == "PENDING", "it has another environment"
    asked = m.OpenQueue({"CPU": 1.0}, environment=BUILT)
    assert refusal(node.ask(DRIVER, asked)) == "RuntimeEnvSetupError", "a moment ago it failed"
    out = node.ask(DRIVER, asked, after=FAILED_KEPT_S)
    assert built(out) == ["built"] and "NewQueue" in kinds(out)


def actor_spec() -> m.ActorSpec:
    return m.ActorSpec(function=50, arguments=99, class_name="C", methods=b"")


def test_an_actor_waits_and_comes_back_with_its_environment() -> None:
    node = begun()
    node.worker(WORKER)
    out = node.ask(DRIVER, m.CreateActor(restartable_spec(), BUILT))
    assert built(out) == ["built"]
    (ticket,) = [c.ticket for c in out if isinstance(c, do.NewQueue)]
    out = node.tell(seen.QueueCreated(ticket, 6, 1))
    assert [type(c.body) for c in out if isinstance(c, do.Reply)] == [m.ActorInfo]
    out = node.tell(seen.EnvironmentBuilt("built"))
    assert reply(out, m.Assignment).environment == BUILT
    node.tell(seen.ProcessDied(WORKER, None, 9))
    node.worker(WORKER + 1)
    out = node.tell(seen.AlarmRang(), after=1.0)
    assert reply(out, m.Assignment).environment == BUILT


def restartable_spec() -> m.ActorSpec:
    return m.ActorSpec(
        function=50, arguments=99, class_name="C", methods=b"", max_restarts=1, hold={"CPU": 1.0}
    )


def test_a_hook_that_raises_fails_what_waits() -> None:
    node = begun()
    node.worker(WORKER)
    open_queue(node, PLAIN)
    assert do.Assign(WORKER, 5) in fill(node)
    out = node.ask(WORKER, m.SetupFailed("worker_process_setup_hook", "it raised", ["x"]))
    (failed,) = [c for c in out if isinstance(c, do.FailQueued)]
    assert failed.queue == 5 and records.unpack(failed.record)[0] == "RuntimeEnvSetupError"
    assert reply(out, m.Done) == m.Done()


def test_an_actors_hook_that_raises_ends_the_actor() -> None:
    node = begun()
    node.worker(WORKER)
    out = node.ask(DRIVER, m.CreateActor(actor_spec(), PLAIN))
    (ticket,) = [c.ticket for c in out if isinstance(c, do.NewQueue)]
    info = reply(node.tell(seen.QueueCreated(ticket, 6, 1)), m.ActorInfo)
    out = node.ask(WORKER, m.SetupFailed("worker_process_setup_hook", "it raised", []))
    assert [c.queue for c in out if isinstance(c, do.KillQueue)] == [6]
    assert records.unpack(node.state(info.actor_id).cause)[0] == "RuntimeEnvSetupError"


def test_the_end_of_the_last_job_lets_go() -> None:
    node = Node(started=True)
    node.driver()
    node.driver(OTHER_DRIVER)
    open_queue(node, BUILT)
    asked = m.OpenQueue({"CPU": 1.0}, environment=BUILT)
    out = node.ask(OTHER_DRIVER, asked)
    ticket = next(c.ticket for c in out if isinstance(c, do.NewQueue))
    node.tell(seen.QueueCreated(ticket, 7, 1))
    assert do.DropEnvironment("built") not in node.ask(DRIVER, m.LeaveJob())
    assert do.DropEnvironment("built") in node.ask(OTHER_DRIVER, m.LeaveJob())
    assert not node.machine.tables.environments.entries
    assert node.tell(seen.EnvironmentBuilt("built")) == [], "nobody waits for it any more"
    assert node.tell(seen.EnvironmentFailed("built", "pip", "late")) == []


def test_its_own_interpreter_is_execd() -> None:
    node = begun()
    node.worker(WORKER)
    conda = Environment(key="c", conda=Conda("digest", name="base"))
    open_queue(node, conda)
    node.machine.step(node.now, seen.EnvironmentBuilt("c"))
    started = node.machine.step(node.now, seen.Looked((seen.QueueState(5, 1, 0),)))
    assert [c.python for c in started if isinstance(c, do.StartWorker)] == ["conda:digest"]


def test_the_table_by_itself() -> None:
    table = Environments()
    assert table.want(0.0, 1, Environment()) == [] and not table.entries
    assert table.is_ready("") and table.get("") is None and table.failure("") == b""
    assert table.want(0.0, 1, BUILT) == [do.BuildEnvironment(BUILT)]
    assert not table.is_ready("built")
    assert table.failed(1.0, "built", b"why") is not None and table.failure("built") == b"why"
    assert table.failed(1.0, "built", b"again") is None
    assert table.want(1.0 + FAILED_KEPT_S - 0.1, 2, BUILT) == []
    assert table.want(1.0 + FAILED_KEPT_S, 2, BUILT) == [do.BuildEnvironment(BUILT)]
    assert table.failure("built") == b"" and table.built(20.0, "built") is not None
    assert table.entries["built"].phase is Phase.READY
    table.validate()
    assert table.end_job(1) == [] and table.end_job(2) == [do.DropEnvironment("built")]


def test_a_call_to_a_dead_actor_whose_last_handle_goes_at_once_is_answered() -> None:
    node = begun()
    open_queue(node, BUILT)
    node.tell(seen.EnvironmentFailed("built", "pip", "no"))
    out = node.ask(DRIVER, m.CreateActor(actor_spec(), BUILT))
    (ticket,) = [c.ticket for c in out if isinstance(c, do.NewQueue)]
    assert reply(node.tell(seen.QueueCreated(ticket, 6, 1)), m.ActorInfo).queue == 6
    out = node.tell(seen.BellRang(gone=(99,), dead=(6,)))
    about = [type(c) for c in out if isinstance(c, do.KillQueue | do.FreeQueue)]
    assert about == [do.KillQueue, do.FreeQueue]
