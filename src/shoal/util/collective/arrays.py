"""Arrays as the operations see them: flat, contiguous, of one dtype; and how two are combined.

NumPy arrays and Torch tensors of the CPU are used where they are. One that is not contiguous is
copied before, and copied back after, an operation that writes it. Types that NumPy does not know
(``torch.bfloat16``) are moved as integers of their size and combined by Torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from shoal.util.collective.types import ReduceOp

Combine = Callable[[Any, Any, Any], Any]
"""``combine(a, b, out)``, as a ufunc of NumPy."""

_UFUNCS: dict[ReduceOp, Combine] = {
    ReduceOp.SUM: np.add,
    ReduceOp.PRODUCT: np.multiply,
    ReduceOp.MIN: np.minimum,
    ReduceOp.MAX: np.maximum,
    ReduceOp.AVERAGE: np.add,
}
_OF_TORCH = {
    ReduceOp.SUM: "add",
    ReduceOp.PRODUCT: "mul",
    ReduceOp.MIN: "minimum",
    ReduceOp.MAX: "maximum",
    ReduceOp.AVERAGE: "add",
}
_NUMBERS = "biufc"


class Flat(NamedTuple):
    """One array of a call."""

    array: Any
    """One-dimensional and contiguous: the user's own memory, or a copy."""
    text: str
    """Its dtype and shape, which must be equal on all ranks."""
    dtype: str
    """As Torch calls it, for types that NumPy does not know; else empty."""
    target: Any
    """What is not contiguous and gets the result in the end; else None."""

    def give_back(self) -> None:
        """Copy the result to where the user wants it, if it is not there."""
        if self.target is not None:
            np.copyto(self.target, self.array.reshape(self.target.shape))


def flat(tensor: Any, *, is_written: bool) -> Flat:
    """The array of ``tensor``.

    Raises:
        TypeError: it is no array of the CPU, or an array of objects.
        ValueError: it is to be written, and is read-only.
    """
    foreign = ""
    if isinstance(tensor, np.ndarray):
        array = tensor
    else:
        array, foreign = _of_torch(tensor)
    if array.dtype.hasobject or not array.dtype.itemsize:
        raise TypeError(f"arrays of {array.dtype} can not be shared: only those of plain data")
    if is_written and not array.flags.writeable:
        raise ValueError(
            "this array is read-only (what get() returned is): copy it, and give the copy"
        )
    text = f"{foreign or array.dtype} {array.shape}"
    if array.flags.c_contiguous:
        return Flat(array.reshape(-1), text, foreign, None)
    target = array if is_written else None
    return Flat(np.ascontiguousarray(array).reshape(-1), text, foreign, target)


def _of_torch(tensor: Any) -> tuple[Any, str]:
    torch: Any = sys.modules.get("torch")
    if torch is None or not isinstance(tensor, torch.Tensor):
        kind = type(tensor).__name__
        raise TypeError(f"a NumPy array or a Torch tensor of the CPU is needed, not a {kind}")
    if tensor.device.type != "cpu" or tensor.layout != torch.strided:
        raise TypeError(
            f"a dense tensor of the CPU is needed, not one of {tensor.device}, {tensor.layout}"
        )
    plain = tensor.detach().resolve_conj().resolve_neg()
    try:
        return plain.numpy(), ""
    except TypeError:
        like = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        return plain.view(like[tensor.element_size()]).numpy(), str(tensor.dtype)


def as_bytes(array: Any) -> Any:
    """The same memory as bytes, for what is only moved."""
    return array.view(np.uint8)


def combiner(one: Flat, op: ReduceOp) -> Combine:
    """What combines two arrays of this dtype.

    Raises:
        TypeError: ``op`` is none, or there are no such numbers.
    """
    if not isinstance(op, ReduceOp):
        raise TypeError(f"op must be a ReduceOp, not {op!r}")
    if one.dtype:
        return _foreign(one.dtype, _OF_TORCH[op])
    kind = one.array.dtype.kind
    if kind not in _NUMBERS:
        raise TypeError(f"only numbers can be combined, not {one.array.dtype}")
    if op is ReduceOp.AVERAGE and kind not in "fc":
        raise TypeError(f"the average of {one.array.dtype} is no {one.array.dtype}: use SUM")
    return _UFUNCS[op]


def average(one: Flat, ranks: int) -> Callable[[Any], Any]:
    """What divides sums of this dtype by the number of ranks, in place."""
    if one.dtype:
        torch: Any = sys.modules["torch"]
        dtype = _torch_dtype(one.dtype)
        return lambda sums: torch.from_numpy(sums).view(dtype).div_(ranks)
    return lambda sums: np.divide(sums, ranks, out=sums)


def _foreign(dtype: str, name: str) -> Combine:
    torch: Any = sys.modules["torch"]
    function, kind = getattr(torch, name), _torch_dtype(dtype)
    if not (kind.is_floating_point or kind.is_complex):
        raise TypeError(f"only numbers can be combined, not {dtype}")

    def combine(a: Any, b: Any, out: Any) -> None:
        of = torch.from_numpy
        function(of(a).view(kind), of(b).view(kind), out=of(out).view(kind))

    return combine


def _torch_dtype(dtype: str) -> Any:
    return getattr(sys.modules["torch"], dtype.removeprefix("torch."))
