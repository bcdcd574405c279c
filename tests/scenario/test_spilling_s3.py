"""Spilled values go to S3 and come back, through s3fs and a server that checks each signature; what
is wrong there is said, and loses nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import s3fs

import shoal
from shoal import errors
from shoal._runtime import cluster, spill_places
from shoal._runtime.spill_files import SpillError, SpillFiles
from shoal._runtime.spill_places import Remote
from tests.scenario.s3_server import LEAST_PART, S3Server

STORE = 32 << 20
ONE = 1 << 20
PLACE = "s3://values/of this/session"
STATED_S = 60.0
"""docs/spilling.md: until something that is wrong has been said."""


def begin(patch: pytest.MonkeyPatch) -> S3Server:
    server = S3Server()
    server.buckets["values"] = {}
    for name, value in server.variables().items():
        patch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    return server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with begin(monkeypatch) as server:
        yield server


def files_at(place: str = PLACE) -> SpillFiles:
    return SpillFiles([Remote(place)], "s")


def empty(server: S3Server) -> bool:
    return server.buckets == {"values": {}} and not server.uploads


def wait_until(is_so: Callable[[], bool]) -> None:
    late = time.monotonic() + STATED_S
    while not is_so():
        assert time.monotonic() < late
        time.sleep(0.01)


def array(i: int) -> Any:
    return np.full(ONE // 8 - 100, i, dtype=np.int64)


@shoal.remote
def total(values: Any) -> int:
    return int(values.sum())


def values_go_and_come_back(server: S3Server) -> None:
    refs = [shoal.put(array(i)) for i in range(80)]
    names = [*server.buckets["values"]]
    assert names and all(name.startswith("of this/session/") for name in names)
    for i in range(0, 80, 3):
        assert np.array_equal(shoal.get(refs[i]), array(i))
    sums = shoal.get([total.remote(ref) for ref in refs[1::9]])
    assert sums == [i * (ONE // 8 - 100) for i in range(1, 80, 9)]
    (row,) = cluster.table("session")
    assert row["spilling"]["places"] == [PLACE] and row["spilling"]["lost"] == 0
    del refs
    wait_until(lambda: empty(server))


def an_outage_is_told_to_who_puts_and_waited_through_by_who_gets(server: S3Server) -> None:
    refs = [shoal.put(array(i)) for i in range(60)]
    server.go_away()
    began = time.monotonic()
    with pytest.raises(errors.ObjectStoreFullError) as caught:
        for i in range(60, 120):
            refs.append(shoal.put(array(i)))
    assert time.monotonic() - began < STATED_S
    assert PLACE in caught.value.reason and "Could not connect" in caught.value.reason
    assert [shoal.get(ref)[0] for ref in refs[-20:]] == [*range(len(refs) - 20, len(refs))]
    del refs[-10:]  # then there is room for one that has to come back
    waiter = total.remote(refs[0])
    ready, _ = shoal.wait([waiter], timeout=0.3)
    assert not ready
    server.come_back()
    assert shoal.get(waiter) == 0 and shoal.get(refs[1])[0] == 1
    assert server.buckets["values"]  # the end of the session tidies up


def test_values_that_have_no_room_are_kept_in_s3(server: S3Server) -> None:
    with shoal.init(num_cpus=1, object_store_memory=STORE, object_spilling_directory=PLACE):
        values_go_and_come_back(server)
        an_outage_is_told_to_who_puts_and_waited_through_by_who_gets(server)
    wait_until(lambda: empty(server))


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"bucket": "value"}, "s3://value/x: The specified bucket does not exist"),
        ({"AWS_SECRET_ACCESS_KEY": "other"}, "PermissionError: the signature is another one"),
        ({"AWS_ACCESS_KEY_ID": "other"}, "PermissionError: nobody here has the access key other"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "EndpointConnectionError: Could not connect"),
    ],
)
def test_what_is_wrong_with_a_place_is_said(
    server: S3Server, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str], said: str
) -> None:
    place = f"s3://{wrong.pop('bucket', 'values')}/x"
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    files = files_at(place)
    began = time.monotonic()
    with pytest.raises(SpillError) as caught:
        files.write([memoryview(b"value")])
    assert time.monotonic() - began < STATED_S
    assert str(caught.value).startswith(f"{place}: ") and said in str(caught.value)
    files.close()
    assert empty(server) and files.records == {}


def test_a_large_value_goes_and_comes_in_pieces(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spill_places, "PIECE_BYTES", LEAST_PART)
    files = files_at()
    data = os.urandom(2 * LEAST_PART + 1000)
    small, large = files.write([memoryview(b"small"), memoryview(data)])
    assert server.asked.count("PUT uploadId") == 3
    found = bytearray(len(data))
    files.read_into(large, memoryview(found))
    is_equal = found == data  # not in the assert, which would look for the difference for long
    assert is_equal and server.asked.count("GET") == 3
    files.drop(large)
    found = bytearray(5)
    files.read_into(small, memoryview(found))
    assert found == b"small"
    files.drop(small)
    assert empty(server)


def test_an_upload_that_fails_in_the_middle_leaves_no_half(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spill_places, "PIECE_BYTES", LEAST_PART)
    files = files_at()
    server.refused = {"PUT uploadId"}
    with pytest.raises(SpillError, match="PermissionError: nobody may PUT uploadId"):
        files.write([memoryview(bytes(LEAST_PART + 1))])
    assert "POST uploads" in server.asked and "DELETE uploadId" in server.asked
    assert empty(server)


def test_what_could_not_be_removed_is_removed_later(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spill_places, "PAUSE_S", 0.0)
    files = files_at()
    numbers = [files.write([memoryview(b"value")])[0] for _ in range(5)]
    server.go_away()
    files.drop(numbers[0])
    server.come_back()
    assert len(server.buckets["values"]) == 5
    files.drop(numbers[1])
    assert len(server.buckets["values"]) == 3
    server.asked.clear()
    server.refused = {"POST delete"}  # as servers that do not know it
    files.close()
    assert empty(server) and server.asked == ["POST delete", "DELETE", "DELETE", "DELETE"]
