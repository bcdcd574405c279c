"""Dependencies: a chain of tasks is submitted at once; each starts when its argument is there."""

import shoal


@shoal.remote
def load(n: int) -> list[int]:
    return list(range(n))


@shoal.remote
def squares(numbers: list[int]) -> list[int]:
    return [x * x for x in numbers]


@shoal.remote
def total(numbers: list[int]) -> int:
    return sum(numbers)


# No `get` in between: a task that waits for its argument occupies no process.
result_ref = total.remote(squares.remote(load.remote(100)))
result = shoal.get(result_ref)
print(result)
assert result == sum(x * x for x in range(100))
