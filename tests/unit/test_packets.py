"""Streams put together from packets, the search for plaintext, and rules of packet filters."""

from __future__ import annotations

import random
import socket
import struct
from pathlib import Path

import pytest

from shoal.testing import packets
from shoal.testing.filters import FaultsOfHost, filter_text
from shoal.testing.packets import HEADER, MAGIC, RECORD

A, B = ("10.77.0.1", 40_000), ("10.77.0.2", 7000)
SYN = 0x02


def frame(
    sequence: int, payload: bytes = b"", flags: int = 0x10, source: packets.Endpoint = A
) -> bytes:
    """A packet of TCP as it is on the wire, without checksums."""
    target = B if source == A else A
    tcp = struct.pack("!HHIIBBHHH", source[1], target[1], sequence, 0, 5 << 4, flags, 99, 0, 0)
    length = 20 + len(tcp) + len(payload)
    ips = socket.inet_aton(source[0]) + socket.inet_aton(target[0])
    ip = struct.pack("!BBHHHBBH", 0x45, 0, length, 0, 0, 64, 6, 0) + ips
    padding = bytes(max(0, 46 - length))  # as Ethernet fills short packets
    return bytes(12) + b"\x08\x00" + ip + tcp + payload + padding


def runs(*given: bytes) -> list[bytes]:
    (stream,) = packets.streams(given)
    return stream.runs()


def test_a_stream_is_put_together() -> None:
    assert runs(frame(99, flags=SYN), frame(100, b"abc"), frame(103, b"def")) == [b"abcdef"]


def test_padding_is_no_payload() -> None:
    assert runs(frame(1, b"x")) == [b"x"]


def test_what_came_twice_or_out_of_order_is_there_once() -> None:
    pieces = [frame(100 + at, b"0123456789"[at : at + 4]) for at in range(0, 10, 2)]
    for seed in range(20):
        mixed = [frame(99, flags=SYN), *random.Random(seed).sample(pieces * 2, 10)]
        assert runs(*mixed) == [b"0123456789"]


def test_numbers_of_a_stream_begin_again_at_zero() -> None:
    start = (1 << 32) - 3
    assert runs(frame(start - 1, flags=SYN), frame(start, b"abcdef"), frame(3, b"g")) == [
        b"abcdefg"
    ]


def test_a_missing_packet_is_a_gap() -> None:
    assert runs(frame(100, b"abc"), frame(105, b"def")) == [b"abc", b"def"]


def test_directions_and_connections_are_streams_of_their_own() -> None:
    found = packets.streams(
        [
            frame(1, flags=SYN),
            frame(2, b"one"),
            frame(900, b"answer", source=B),
            frame(70, flags=SYN),
            frame(71, b"two"),
            b"no packet at all",
        ]
    )
    assert [stream.runs() for stream in found] == [[b"one"], [b"answer"], [b"two"]]


def test_a_needle_is_found_across_packets_and_in_any_packet() -> None:
    split = [frame(100, b"...a secr"), frame(109, b"et word...")]
    (found,) = packets.search(split, [b"a secret word", b"another word"])
    assert found.needle == b"a secret word" and "10.77.0.1:40000 -> 10.77.0.2:7000" in found.where
    other = bytes(12) + b"\x86\xdd" + b"a secret word"
    assert [each.where for each in packets.search([other], [b"a secret word"])] == ["packet 0"]
    assert not packets.search([frame(100, b"a secr"), frame(107, b"t word")], [b"a secret word"])


def test_a_needle_that_chance_would_find_is_refused() -> None:
    with pytest.raises(ValueError, match="too short"):
        packets.search([], [b"abc"])


def test_a_file_is_read_up_to_where_its_writer_was_ended(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    one, other = frame(1, b"x"), frame(2, b"y")
    whole = HEADER.pack(MAGIC, 2, 4, 0, 0, 1 << 16, 1)
    for each in (one, other):
        whole += RECORD.pack(0, 0, len(each), len(each)) + each
    path.write_bytes(whole)
    assert list(packets.frames(path)) == [one, other]
    path.write_bytes(whole[:-1])
    assert list(packets.frames(path)) == [one]
    path.write_bytes(b"something else, which is long enough")
    with pytest.raises(ValueError, match="is no capture"):
        list(packets.frames(path))


# ---- rules of packet filters


def test_the_filter_is_a_function_of_the_faults() -> None:
    faults = FaultsOfHost()
    clean = filter_text(faults, "10.77.0.0/24", 0, 9)
    faults.change("10.77.0.2", is_cut=True)
    faults.change("10.77.0.3", loss=0.25, resets_per_s=4)
    faults.change("10.77.0.2", loss=0.5)
    rules = [
        line for line in filter_text(faults, "10.77.0.0/24", 0, 9).splitlines() if "-A" in line
    ]
    assert rules == [
        "-A INPUT -s 10.77.0.2 -j DROP",
        "-A INPUT -s 10.77.0.2 -m statistic --mode random --probability 0.500000 -j DROP",
        "-A INPUT -s 10.77.0.3 -m statistic --mode random --probability 0.250000 -j DROP",
        "-A INPUT -s 10.77.0.3 -p tcp -m limit --limit 4/second --limit-burst 1"
        " -j REJECT --reject-with tcp-reset",
    ]
    assert faults.forget("10.77.0.2") and faults.forget("10.77.0.3")
    assert not faults.forget("10.77.0.3")
    assert filter_text(faults, "10.77.0.0/24", 0, 9) == clean


def test_the_proxy_takes_what_others_send_and_not_its_own() -> None:
    text = filter_text(FaultsOfHost(), "10.77.0.0/24", 4000, 90)
    assert (
        "-A OUTPUT -o eth0 -p tcp -d 10.77.0.0/24 -m mark ! --mark 90 -j REDIRECT --to-ports 4000"
    ) in text
    assert text.count("COMMIT") == 2


@pytest.mark.parametrize("wrong", [{"loss": 2.0}, {"resets_per_s": -1}])
def test_faults_that_no_filter_has_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        FaultsOfHost().change("10.77.0.2", **wrong)
