"""Graphs of tasks and actors, executed as they are and compiled."""

import asyncio

import ray
from ray.dag import InputNode, MultiOutputNode
from ray.exceptions import RayChannelError, RayTaskError
from telling import caught, tell


@ray.remote
def add(x, y):
    return x + y


@ray.remote
def double(x):
    return 2 * x


@ray.remote(num_cpus=0.1)
class Adder:
    def __init__(self, start=0):
        self.start = start
        self.calls = 0

    def add(self, x):
        self.calls += 1
        return self.start + x

    def add_two(self, x, y):
        return self.start + x + y

    def fail_on(self, x, bad=3):
        if x == bad:
            raise ValueError(x)
        return x

    @ray.method(num_returns=2)
    def pair(self, x):
        return x, -x

    def count(self):
        return self.calls


def story_functions():
    graph = add.bind(double.bind(3), double.bind(4))
    return ray.get(graph.execute()), ray.get(graph.execute())


def story_input():
    with InputNode() as given:
        graph = add.bind(double.bind(given), given)
    return ray.get(graph.execute(5)), ray.get(graph.execute(1))


def story_input_attributes():
    with InputNode() as given:
        graph = add.bind(given[0], given.y)
    with InputNode() as value:
        fields = add.bind(value["a"], value["b"])
    return ray.get(graph.execute(1, y=10)), ray.get(fields.execute({"a": 2, "b": 3}))


def story_actor_nodes():
    """An actor that is made when the graph is executed."""
    with InputNode() as given:
        adder = Adder.bind(10)
        graph = double.bind(adder.add.bind(given))
    return ray.get(graph.execute(1)), ray.get(graph.execute(2))


def story_actor_handles():
    adder = Adder.remote(100)
    with InputNode() as given:
        graph = adder.add_two.bind(double.bind(given), given)
    return ray.get(graph.execute(1)), ray.get(graph.execute(2))


def story_several_outputs():
    with InputNode() as given:
        graph = MultiOutputNode([double.bind(given), add.bind(given, 1)])
    return ray.get(graph.execute(5))


def story_shared_nodes_run_once():
    adder = Adder.remote(0)
    with InputNode() as given:
        once = adder.add.bind(given)
        graph = add.bind(once, once)
    value = ray.get(graph.execute(4))
    return value, ray.get(adder.count.remote())


def story_calling_a_node():
    with InputNode() as given:
        node = double.bind(given)
    return (
        caught(lambda: node.remote(1), AttributeError),
        caught(lambda: node(1), TypeError),
        isinstance(node, ray.dag.DAGNode),
        isinstance(node, ray.dag.FunctionNode),
    )


def story_errors():
    adder = Adder.remote()
    with InputNode() as given:
        graph = double.bind(adder.fail_on.bind(given))
    return caught(lambda: ray.get(graph.execute(3)), ValueError), ray.get(graph.execute(1))


def story_compiled():
    first, second = Adder.remote(1), Adder.remote(10)
    with InputNode() as given:
        graph = second.add.bind(first.add.bind(given))
    compiled = graph.experimental_compile()
    results = [ray.get(compiled.execute(i)) for i in range(3)]
    refs = [compiled.execute(i) for i in range(3)]
    results += [ray.get(ref) for ref in refs]
    compiled.teardown()
    return results, ray.get(first.add.remote(0), timeout=20)


def story_compiled_outputs():
    first, second = Adder.remote(1), Adder.remote(10)
    with InputNode() as given:
        graph = MultiOutputNode([first.add.bind(given), second.add_two.bind(given, 100)])
    compiled = graph.experimental_compile()
    refs = compiled.execute(5)
    together = ray.get(compiled.execute(6))
    compiled.teardown()
    return len(refs), together


def story_compiled_attributes():
    adder = Adder.remote(0)
    with InputNode() as given:
        graph = adder.add_two.bind(given[0], given.y)
    compiled = graph.experimental_compile()
    value = ray.get(compiled.execute(1, y=2))
    wrong = caught(lambda: compiled.execute(1), ValueError)
    compiled.teardown()
    return value, wrong


def story_compiled_errors():
    adder = Adder.remote()
    with InputNode() as given:
        graph = adder.fail_on.bind(given)
    compiled = graph.experimental_compile()
    bad = caught(lambda: ray.get(compiled.execute(3)), ValueError, RayTaskError)
    good = ray.get(compiled.execute(4))
    compiled.teardown()
    return bad, good


def story_compiled_get_twice():
    adder = Adder.remote()
    with InputNode() as given:
        graph = adder.add.bind(given)
    compiled = graph.experimental_compile()
    ref = compiled.execute(1)
    value, again = ray.get(ref), caught(lambda: ray.get(ref), ValueError)
    compiled.teardown()
    return value, again


def story_compiled_after_teardown():
    adder = Adder.remote()
    with InputNode() as given:
        graph = adder.add.bind(given)
    compiled = graph.experimental_compile()
    ray.get(compiled.execute(1))
    compiled.teardown()
    compiled.teardown()
    return caught(lambda: compiled.execute(2), RayChannelError)


def story_compiled_same_actor_twice():
    adder, other = Adder.remote(1), Adder.remote(10)
    with InputNode() as given:
        graph = adder.add.bind(other.add.bind(adder.add.bind(given)))
    compiled = graph.experimental_compile()
    value = ray.get(compiled.execute(0))
    compiled.teardown()
    return value


def story_compiled_returns():
    adder, other = Adder.remote(), Adder.remote(10)
    with InputNode() as given:
        first, second = adder.pair.bind(given)
        graph = MultiOutputNode([first, other.add.bind(second)])
    compiled = graph.experimental_compile()
    value = ray.get(compiled.execute(3))
    compiled.teardown()
    return value


def story_compiled_async():
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)  # before compiling, which Ray binds to it
    adder = Adder.remote(5)
    with InputNode() as given:
        graph = adder.add.bind(given)
    compiled = graph.experimental_compile(enable_asyncio=True)

    async def one(i):
        later = await compiled.execute_async(i)
        return await later

    async def main():
        return await asyncio.gather(*(one(i) for i in range(3)))

    values = loop.run_until_complete(main())
    compiled.teardown()
    return values


def story_compiling_what_can_not_be():
    with InputNode() as given:
        functions = double.bind(given)
    adder = Adder.remote()
    without_input = adder.add.bind(1)
    return (
        caught(functions.experimental_compile, NotImplementedError, ValueError),
        caught(without_input.experimental_compile, NotImplementedError, ValueError),
    )


if __name__ == "__main__":
    tell(globals())
