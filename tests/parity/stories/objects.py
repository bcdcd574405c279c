"""Objects: values in the store, refs, ownership, serialization."""

import asyncio
import concurrent.futures
import pickle
import threading

import numpy as np
import ray
from telling import caught, tell


def story_put_and_get():
    values = [1, "text", b"bytes", None, {"a": [1, 2]}, (1, 2), {3}, 1.5, range(3)]
    return all(ray.get(ray.put(value)) == value for value in values)


def story_put_of_a_ref():
    return caught(lambda: ray.put(ray.put(1)), TypeError)


def story_values_do_not_change():
    """A value is as it was when it was put."""
    value = {"n": [1]}
    ref = ray.put(value)
    value["n"].append(2)
    first = ray.get(ref)
    first["n"].append(3)
    return ray.get(ref)


def story_arrays():
    array = np.arange(1_000_000, dtype=np.float64).reshape(1000, 1000)
    back = ray.get(ray.put(array))
    return back.sum(), back.flags.writeable, back.dtype.name


def story_one_array_used_by_many():
    @ray.remote
    def total(array, row):
        return array[row].sum()

    ref = ray.put(np.ones((100, 100)))
    return ray.get([total.remote(ref, i) for i in range(5)])


def story_refs_inside_values():
    inner = ray.put("inner")
    outer = ray.put({"ref": inner})
    del inner
    return ray.get(ray.get(outer)["ref"])


def story_equality_and_hashing():
    ref = ray.put(1)
    same = ray.get(ray.put([ref]))[0]
    return ref == same, hash(ref) == hash(same), ref == ray.put(1), len({ref, same})


def story_hex_and_binary():
    ref = ray.put(1)
    return (
        bytes.fromhex(ref.hex()) == ref.binary(),
        isinstance(ref.hex(), str),
        ref.hex() in str(ref),
    )


def story_await():
    """A ref is awaited; an error is raised there."""

    @ray.remote
    def fail():
        raise KeyError("x")

    async def main():
        values = await asyncio.gather(ray.put(1), ray.put(2))
        try:
            await fail.remote()
        except KeyError:
            return values, "caught"

    return asyncio.run(main())


def story_future():
    ref = ray.put(5)
    future = ref.future()
    done, _ = concurrent.futures.wait([future], timeout=20)
    return isinstance(future, concurrent.futures.Future), future.result(), len(done)


def story_pickled_outside():
    """cloudpickle outside of a call works: the value is kept."""
    ref = ray.put("kept")
    data = ray.cloudpickle.dumps(ref)
    del ref
    return ray.get(ray.cloudpickle.loads(data))


def story_what_cannot_travel():
    lock = threading.Lock()
    return caught(lambda: ray.put(lock), TypeError)


def story_function_that_cannot_travel():
    lock = threading.Lock()

    @ray.remote
    def uses():
        return lock

    return caught(lambda: uses.remote(), TypeError)


def story_custom_reduce():
    class Connection:
        def __init__(self, address):
            self.address = address
            self.lock = threading.Lock()

        def __reduce__(self):
            return Connection, (self.address,)

    return ray.get(ray.put(Connection("here"))).address


def story_custom_serializer():
    class Connection:
        def __init__(self, address):
            self.address = address
            self.lock = threading.Lock()

    ray.util.register_serializer(
        Connection, serializer=lambda c: c.address, deserializer=lambda a: Connection(a)
    )
    address = ray.get(ray.put(Connection("there"))).address
    ray.util.deregister_serializer(Connection)
    return address, caught(lambda: ray.put(Connection("x")), TypeError)


def story_inspect_serializability():
    lock = threading.Lock()

    def uses():
        return lock

    bad, failures = ray.util.inspect_serializability(uses, name="uses")
    good, none = ray.util.inspect_serializability(lambda: 1, name="fine")
    return bad, len(failures) > 0, good, len(none)


def story_is_the_same_object_each_time():
    """get of a large array maps the same memory: no copy."""
    ref = ray.put(np.zeros(1_000_000))
    first, second = ray.get(ref), ray.get(ref)
    return np.shares_memory(first, second)


def story_pickle_of_a_plain_value():
    return pickle.loads(pickle.dumps(ray.get(ray.put({"a": 1}))))


def story_get_many_with_one_failure():
    """One failure in a list is raised; the others are not lost."""

    @ray.remote
    def sometimes(i):
        if i == 1:
            raise ValueError(i)
        return i

    refs = [sometimes.remote(i) for i in range(3)]
    return caught(lambda: ray.get(refs), ValueError), ray.get([refs[0], refs[2]])


def story_large_arguments():
    """A large argument by value works; by ref it is stored once."""

    @ray.remote
    def size(array):
        return array.nbytes

    array = np.zeros(2_000_000, dtype=np.uint8)
    return ray.get(size.remote(array)), ray.get(size.remote(ray.put(array)))


if __name__ == "__main__":
    tell(globals())
