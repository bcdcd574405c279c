"""Tasks: a function becomes remote, each call gives a ref at once, `get` waits for the values."""

import shoal


@shoal.remote
def square(x: int) -> int:
    return x * x


refs = [square.remote(i) for i in range(4)]
squares = shoal.get(refs)
print(squares)
assert squares == [0, 1, 4, 9]
