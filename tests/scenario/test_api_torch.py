"""Torch tensors of the CPU: exact, private copies, identity kept."""

from __future__ import annotations

from typing import Any

import torch

import shoal


@shoal.remote
def echo(value: Any) -> Any:
    return value


def test_tensors_arrive_as_they_were() -> None:
    shoal.init(num_cpus=1)
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "plain": base,
        "transposed": base.T,
        "bfloat16": base.to(torch.bfloat16),
        "large": torch.rand(500_000),
        "empty": torch.zeros(0, 3),
        "with gradient": torch.arange(4.0, requires_grad=True),
    }
    for name, tensor in tensors.items():
        for back in (shoal.get(shoal.put([tensor]))[0], shoal.get(echo.remote(tensor))):
            assert back.dtype == tensor.dtype and back.shape == tensor.shape, name
            assert torch.equal(back.detach(), tensor.detach()), name
            assert back.requires_grad == tensor.requires_grad, name
    first, second = shoal.get(shoal.put([base, base]))
    assert first is second
    ref = shoal.put(torch.zeros(500_000))
    changed = shoal.get(ref)
    changed += 1
    assert float(shoal.get(ref).sum()) == 0
