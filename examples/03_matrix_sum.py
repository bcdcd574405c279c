"""Arguments: a small matrix is passed by value, a large one is put once and passed by ref."""

import numpy as np

import shoal


@shoal.remote
def total(matrix: np.ndarray) -> float:
    return float(np.sum(matrix))


by_value = shoal.get(total.remote(np.ones((100, 100))))
print(by_value)
assert by_value == 10_000.0

# A ref as argument arrives as its value, read from shared memory without a copy.
matrix_ref = shoal.put(np.ones((1000, 1000)))
by_ref = shoal.get(total.remote(matrix_ref))
print(by_ref)
assert by_ref == 1_000_000.0
