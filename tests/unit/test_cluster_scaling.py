"""What the configuration of the autoscaler may say."""

from __future__ import annotations

import pytest

from shoal._core.autoscaler_fitting import NodeType
from shoal._core.resources import parse
from shoal.cluster.provider import ScalingError, read_scaling

GOOD = """
max_nodes = 8
idle_timeout_s = 60

[types.small]
resources = {CPU = 2, licence = 1.5}
labels = {zone = "a"}
min = 1
max = 6
[types.small.options]
object_store_memory = 100_000_000
"""


def test_a_configuration_is_read() -> None:
    scaling = read_scaling(GOOD)
    settings = scaling.settings()
    assert settings.types == (
        NodeType(
            "small",
            parse({"CPU": 2, "licence": 1.5}),
            (("zone", "a"), ("shoal.io/node-type", "small")),
            min_count=1,
            max_count=6,
        ),
    )
    assert (settings.nodes_most, settings.idle_timeout_s) == (8, 60.0)
    named = scaling.named_types()["small"]
    assert named.name == "small" and named.options == {"object_store_memory": 100_000_000}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "types"),
        ("[types]", r"no \[types.NAME\]"),
        ("[types.a]\nmaxx = 3", "maxx"),
        ("[types.a]\nmax = 1\nmin = 2", "min is 2 and max 1"),
        ("[types.a]\nmax = 1\nresources = {CPU = -1}", "types.a.resources"),
        ("[types.'a b']\nmax = 1", "simple name"),
        ("idle_timeout_s = 0\n[types.a]\nmax = 1", "idle_timeout_s must be more than 0"),
        ("[types.a]\nmax = 'many'", "Expected `int`"),
        ("nonsense", "Expected '='"),
    ],
)
def test_what_cannot_be_meant_is_said(text: str, why: str) -> None:
    with pytest.raises(ScalingError, match=why):
        read_scaling(text)
