"""What code can know about where it runs, and what a program can know about the cluster."""

import json
import os
import tempfile

import ray
from ray.util.state import list_actors, list_nodes
from telling import caught, tell


@ray.remote
class Known:
    def facts(self):
        context = ray.get_runtime_context()
        return {
            "actor_id": context.get_actor_id(),
            "task_id": context.get_task_id(),
            "job_id": context.get_job_id(),
            "node_id": context.get_node_id(),
            "worker_id": context.get_worker_id(),
            "namespace": context.namespace,
            "name": context.get_actor_name(),
            "task_name": context.get_task_name(),
            "function": context.get_task_function_name(),
        }


def story_in_the_driver():
    context = ray.get_runtime_context()
    return (
        context.get_actor_id(),
        context.get_actor_name(),
        isinstance(context.get_job_id(), str),
        isinstance(context.get_node_id(), str),
        context.namespace,
    )


def story_in_an_actor():
    known = Known.options(name="known").remote()
    facts = ray.get(known.facts.remote())
    driver = ray.get_runtime_context()
    return (
        facts["actor_id"] == known._actor_id.hex(),
        facts["job_id"] == driver.get_job_id(),
        facts["node_id"] == driver.get_node_id(),
        facts["namespace"],
        facts["name"],
        facts["task_name"],
        isinstance(facts["task_id"], str),
    )


def story_in_a_task():
    @ray.remote
    def named():
        context = ray.get_runtime_context()
        return context.get_actor_id(), context.get_task_name(), context.get_assigned_resources()

    return ray.get([named.remote(), named.options(name="called").remote()])[1][1:]


def story_task_ids_of_refs():
    """A ref knows the task that makes it; the task knows its own id."""

    @ray.remote
    def mine():
        return ray.get_runtime_context().get_task_id()

    ref = mine.remote()
    return ref.task_id().hex() == ray.get(ref)


def story_job_of_a_ref():
    ref = ray.remote(lambda: 1).remote()
    return ref.job_id().hex() == ray.get_runtime_context().get_job_id()


def story_current_actor_outside():
    return caught(lambda: ray.get_runtime_context().current_actor, RuntimeError)


def story_attempts():
    folder = tempfile.mkdtemp()

    @ray.remote(max_retries=1)
    def crash_once():
        if not os.listdir(folder):
            open(os.path.join(folder, "x"), "w").close()
            os._exit(1)
        return ray.get_runtime_context().get_task_id() is not None

    return ray.get(crash_once.remote())


def story_nodes():
    (node,) = ray.nodes()
    names = ("NodeID", "Alive", "Resources", "NodeManagerAddress", "NodeManagerHostname", "Labels")
    return [name in node for name in names], node["Alive"], node["Resources"]["CPU"]


def story_cluster_resources():
    resources = ray.cluster_resources()
    return resources["CPU"], resources.get("GPU", 0), "memory" in resources


def story_init_twice():
    return (
        caught(lambda: ray.init(), RuntimeError),
        ray.init(ignore_reinit_error=True) is not None,
        ray.is_initialized(),
    )


def story_list_actors():
    kept = Known.options(name="listed").remote()
    ray.get(kept.facts.remote())
    rows = list_actors(filters=[("name", "=", "listed"), ("state", "=", "ALIVE")])
    row = rows[0]
    return len(rows), row["class_name"], row.state, row.ray_namespace, isinstance(row.pid, int)


def story_list_nodes():
    (row,) = list_nodes()
    return row.state, row["resources_total"]["CPU"]


def story_list_named_actors():
    kept = Known.options(name="seen").remote()
    ray.get(kept.facts.remote())
    names = ray.util.list_named_actors()
    everywhere = ray.util.list_named_actors(all_namespaces=True)
    return "seen" in names, {"name": "seen", "namespace": "stories"} in everywhere


def story_timeline():
    ray.get([ray.remote(lambda: 1).remote() for _ in range(3)])
    path = os.path.join(tempfile.mkdtemp(), "timeline.json")
    ray.timeline(filename=path)
    with open(path) as file:
        return isinstance(json.load(file), list)


def story_gpu_ids_without_gpus():
    return ray.get_gpu_ids(), ray.get(ray.remote(lambda: ray.get_gpu_ids()).remote())


def story_ids():
    """Ids have a text, bytes and a nil."""
    node = ray.NodeID.from_hex(ray.get_runtime_context().get_node_id())
    return (
        node.hex() == ray.get_runtime_context().get_node_id(),
        bytes.fromhex(node.hex()) == node.binary(),
        node.is_nil(),
        ray.NodeID.nil().is_nil(),
        node == ray.NodeID(node.binary()),
    )


def story_log_once():
    from ray.util import log_once

    return log_once("key of this story"), log_once("key of this story")


def story_accelerator_ids():
    @ray.remote
    def mine():
        return ray.get_runtime_context().get_accelerator_ids()["GPU"]

    return ray.get(mine.remote())


if __name__ == "__main__":
    tell(globals())
