"""Frames: any cut of a stream gives the same messages, any damage an error and nothing else."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal._proto import frames, messages
from shoal._proto.frames import FrameDecoder, FrameError

lines = st.builds(
    messages.LogLines, st.integers(0, 2**22), st.text(), st.just("stdout"), st.lists(st.text())
)
bodies = st.one_of(
    lines,
    st.builds(messages.Failure, record=st.binary(max_size=200)),
    st.builds(messages.KvPut, key=st.binary(max_size=20), value=st.binary(max_size=2000)),
    st.builds(messages.Resources, st.dictionaries(st.text(), st.floats(0, 1e9)), st.just({})),
    st.just(messages.GetAssignment()),
)


@given(st.lists(st.tuples(st.integers(0, 2**40), bodies), max_size=8), st.data())
def test_any_cut_of_a_stream_gives_the_same_frames(
    sent: list[tuple[int, messages.Body]], data: st.DataObject
) -> None:
    stream = b"".join(frames.encode(number, body) for number, body in sent)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=10).map(sorted))
    decoder = FrameDecoder()
    got = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += decoder.feed(stream[begin:end])
    assert [(frame.id, frame.body) for frame in got] == sent
    assert decoder.pending_bytes == 0


@given(st.binary(max_size=300))
def test_garbage_is_an_error_or_waits_for_more(garbage: bytes) -> None:
    decoder = FrameDecoder()
    try:
        for frame in decoder.feed(garbage):
            assert isinstance(frame, messages.Frame)
    except FrameError:
        pass


@given(st.data())
def test_a_changed_byte_never_gives_anything_but_frames_or_an_error(data: st.DataObject) -> None:
    stream = bytearray(frames.encode(7, data.draw(bodies)))
    at = data.draw(st.integers(0, len(stream) - 1))
    stream[at] ^= data.draw(st.integers(1, 255))
    try:
        assert all(isinstance(f, messages.Frame) for f in FrameDecoder().feed(stream))
    except FrameError:
        pass


@pytest.mark.parametrize("length", [frames.MAX_FRAME_BYTES + 1, 2**31, 2**32 - 1])
def test_a_length_above_the_limit_is_refused_before_it_is_waited_for(length: int) -> None:
    decoder = FrameDecoder()
    with pytest.raises(FrameError, match="limit"):
        decoder.feed(struct.pack("<I", length))


def test_too_large_a_message_is_refused_where_it_is_made() -> None:
    with pytest.raises(FrameError, match="KvPut of"):
        frames.encode(1, messages.KvPut(b"k", bytes(frames.MAX_FRAME_BYTES)))


def test_deep_nesting_is_an_error() -> None:
    body = b"\x92\x01" + b"\x91" * 1_000_000
    with pytest.raises(FrameError):
        FrameDecoder().feed(struct.pack("<I", len(body)) + body)


def test_every_message_survives_the_wire() -> None:
    spec = messages.ActorSpec(1, 2, "C", b"m", place={"CPU": 1.0})
    info = messages.ActorInfo("a1", 3, 4, spec, "ALIVE")
    config = messages.JobConfig(namespace="n", env_vars={"A": "b"})
    for body in (
        messages.Hello("driver", 1, "0.1", 2**63, "3.11.7", job=config),
        messages.Welcome("s", "/d", b"n" * 16, 1, 2, "ns", {"CPU": 4.0}, True),
        messages.Assignment(1, config, 1, ["0"], {"CPU": 1.0}, info),
        messages.Table([{"a": 1, "b": [1, {"c": None}]}]),
        messages.AcquireLock("l", "t", None),
    ):
        (frame,) = FrameDecoder().feed(frames.encode(9, body))
        assert frame.body == body
