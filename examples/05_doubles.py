"""`map`: one function over many items, cut into chunks by itself."""

import shoal


@shoal.remote
def double(x: int) -> int:
    return 2 * x


numbers = [1, 2, 3, 4, 5]
doubles = shoal.get([double.remote(x) for x in numbers])
print(doubles)
assert doubles == [2, 4, 6, 8, 10]

# The same in one call; results come in the order of the input.
assert list(shoal.map(double, numbers)) == doubles
