"""One copy per machine: a matrix put once is read by tasks and actors, without copying it."""

import numpy as np

import shoal


@shoal.remote
def row_sum(matrix: np.ndarray, row: int) -> float:
    return float(matrix[row].sum())


@shoal.remote
class Reader:
    def __init__(self, matrix: np.ndarray) -> None:
        self.matrix = matrix

    def column_sum(self, column: int) -> float:
        return float(self.matrix[:, column].sum())

    def can_write(self) -> bool:
        return bool(self.matrix.flags.writeable)


matrix = np.arange(1_000_000, dtype=np.float64).reshape(1000, 1000)
matrix_ref = shoal.put(matrix)

rows = shoal.get([row_sum.remote(matrix_ref, row) for row in range(8)])
assert rows == [float(matrix[row].sum()) for row in range(8)]

readers = [Reader.remote(matrix_ref) for _ in range(3)]
columns = shoal.get([reader.column_sum.remote(i) for i, reader in enumerate(readers)])
print(columns)
assert columns == [float(matrix[:, i].sum()) for i in range(3)]

# What many processes share, nobody may change: `matrix.copy()` gives one's own.
assert not any(shoal.get([reader.can_write.remote() for reader in readers]))
