"""The fault proxy between real TCP programs on the loopback: each fault as those programs see it.

That nothing happens is shown by what happens next: what was held back by a fault arrives when it
is healed, in order and complete.
"""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shoal.testing import FaultProxy, Faults
from shoal.testing.polling import wait_until
from shoal.testing.starting import program

SHORT_S = 0.3
LONG_S = 60.0


class Echo:
    """A server that echoes, and knows what became of each connection."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address: tuple[str, int] = self.listener.getsockname()
        self.heard = bytearray()
        self.endings: list[str] = []
        self.is_reading = threading.Event()
        self.is_reading.set()
        self._sockets: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                accepted, _ = self.listener.accept()
            except OSError:
                return
            self._sockets.append(accepted)
            threading.Thread(target=self._echo, args=(accepted,), daemon=True).start()

    def _echo(self, accepted: socket.socket) -> None:
        try:
            while True:
                self.is_reading.wait()
                data = accepted.recv(1 << 16)
                if not data:
                    break
                self.heard += data
                accepted.sendall(data)
            self.endings.append("end")
        except OSError as error:
            self.endings.append(type(error).__name__)
        finally:
            accepted.close()

    def close(self) -> None:
        self.is_reading.set()
        # An accept that waits is not ended by a close.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for each in self._sockets:
            each.close()
        self._thread.join(LONG_S)


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[FaultProxy]:
    with FaultProxy(echo.address, seed=3) as made:
        yield made


@contextmanager
def connected(proxy: FaultProxy) -> Iterator[socket.socket]:
    with socket.create_connection(proxy.address, timeout=LONG_S) as made:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield made


def receive(client: socket.socket, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        data = client.recv(size - len(got))
        if not data:
            raise EOFError(bytes(got))
        got += data
    return bytes(got)


def exchange(client: socket.socket, data: bytes) -> float:
    """Send, and wait for the echo; how long that took."""
    begun = time.monotonic()
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    assert receive(client, len(data)) == data
    sender.join(LONG_S)
    return time.monotonic() - begun


def hears_nothing(client: socket.socket) -> bool:
    """For a while; what follows in the test shows that it was not just slow."""
    client.settimeout(SHORT_S)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(LONG_S)
    return False


def test_without_faults_it_is_not_there(proxy: FaultProxy, echo: Echo) -> None:
    data = bytes(range(256)) * (8 << 10)
    with connected(proxy) as client:
        exchange(client, data)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert wait_until(lambda: echo.endings == ["end"], LONG_S)
    assert wait_until(lambda: proxy.figures()["open"] == 0, LONG_S)
    figures = proxy.figures()
    assert figures["up_bytes"] == figures["down_bytes"] == len(data) and figures["reset"] == 0


def test_many_connections_are_kept_apart(proxy: FaultProxy) -> None:
    clients = [socket.create_connection(proxy.address, timeout=LONG_S) for _ in range(100)]
    for number, client in enumerate(clients):
        client.sendall(b"%04d" % number)
    for number, client in reversed(list(enumerate(clients))):
        assert receive(client, 4) == b"%04d" % number
        client.close()
    assert wait_until(lambda: proxy.figures()["open"] == 0, LONG_S)


def test_delay_counts_each_way(proxy: FaultProxy) -> None:
    with connected(proxy) as client:
        exchange(client, b"warm")
        proxy.set("up", Faults(delay_s=0.1))
        assert exchange(client, b"one way") >= 0.1
        proxy.set("down", Faults(delay_s=0.15))
        assert exchange(client, b"both ways") >= 0.25
        proxy.heal()
        assert min(exchange(client, b"none") for _ in range(20)) < 0.1


def test_jitter_changes_times_and_not_the_order(proxy: FaultProxy) -> None:
    proxy.set("both", Faults(delay_s=0.02, jitter_s=0.02))
    data = bytes(range(256)) * 200
    with connected(proxy) as client:
        for _ in range(5):
            exchange(client, data)


def test_loss_is_a_stall(proxy: FaultProxy) -> None:
    with connected(proxy) as client:
        exchange(client, b"warm")
        proxy.set("up", Faults(loss=1.0, stall_s=0.25))
        assert exchange(client, b"lost once") >= 0.25
    assert proxy.figures()["stalled"] >= 1


def test_a_line_is_as_slow_as_it_is_told(proxy: FaultProxy) -> None:
    data = bytes(200_000)
    with connected(proxy) as client:
        fast_s = exchange(client, data)
        proxy.set("down", Faults(bandwidth=500_000.0))
        slow_s = exchange(client, data)
    assert slow_s >= 0.35, f"{slow_s} s; without the fault {fast_s} s"


def test_a_cut_stops_everything_and_loses_nothing(proxy: FaultProxy, echo: Echo) -> None:
    with connected(proxy) as client:
        exchange(client, b"before")
        proxy.cut()
        client.sendall(b"meanwhile")
        assert hears_nothing(client) and echo.heard == b"before"
        proxy.heal()
        assert receive(client, 9) == b"meanwhile"


def test_one_way_is_one_way(proxy: FaultProxy, echo: Echo) -> None:
    with connected(proxy) as client:
        exchange(client, b"1")
        proxy.cut("down")
        client.sendall(b"2")
        assert wait_until(lambda: echo.heard == b"12", LONG_S), "the other way is open"
        assert hears_nothing(client)
        proxy.heal()
        assert receive(client, 1) == b"2"
        proxy.cut("up")
        client.sendall(b"3")
        assert hears_nothing(client) and echo.heard == b"12"
        proxy.heal()
        assert receive(client, 1) == b"3"


@pytest.mark.parametrize("how", ["end", "reset"])
def test_no_end_is_told_across_a_cut(proxy: FaultProxy, echo: Echo, how: str) -> None:
    with connected(proxy) as client:
        exchange(client, b"x")
        proxy.cut()
        if how == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert not wait_until(lambda: echo.endings, SHORT_S)
    proxy.heal()
    assert wait_until(lambda: echo.endings, LONG_S)
    assert echo.endings == (["end"] if how == "end" else ["ConnectionResetError"])


def test_who_connects_through_a_cut_waits_for_its_healing(proxy: FaultProxy, echo: Echo) -> None:
    proxy.cut("down")
    with connected(proxy) as client:
        client.sendall(b"hello")
        assert hears_nothing(client) and echo.heard == b""
        proxy.heal()
        assert receive(client, 5) == b"hello"


def test_reset_reaches_both(proxy: FaultProxy, echo: Echo) -> None:
    with connected(proxy) as client:
        exchange(client, b"x")
        assert proxy.reset() == 1
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert wait_until(lambda: echo.endings == ["ConnectionResetError"], LONG_S)


def test_chance_resets_too(proxy: FaultProxy) -> None:
    proxy.set("up", Faults(reset=1.0))
    with connected(proxy) as client:
        client.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_half_open_tells_only_one(proxy: FaultProxy, echo: Echo) -> None:
    with connected(proxy) as client:
        exchange(client, b"x")
        assert proxy.half_open("near") == 1
        assert wait_until(lambda: echo.endings == ["ConnectionResetError"], LONG_S)
        client.sendall(b"nobody hears this")
        assert hears_nothing(client)
        proxy.heal()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_program_that_resets_is_told_to_the_other(proxy: FaultProxy, echo: Echo) -> None:
    with connected(proxy) as client:
        exchange(client, b"x")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert wait_until(lambda: echo.endings == ["ConnectionResetError"], LONG_S)


def test_corruption_arrives(proxy: FaultProxy, echo: Echo) -> None:
    proxy.set("up", Faults(corrupt=1.0))
    with connected(proxy) as client:
        client.sendall(bytes(100))
        got = receive(client, 100)
    assert sum(byte.bit_count() for byte in got) == 1 and proxy.figures()["changed"] == 1


def test_a_reader_that_stops_stops_the_sender(echo: Echo) -> None:
    with FaultProxy(echo.address, buffer_bytes=8 << 10) as proxy:
        proxy.set("both", Faults(window_bytes=16 << 10))
        with connected(proxy) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 10)
            exchange(client, b"warm")
            echo.is_reading.clear()
            client.settimeout(SHORT_S)
            with pytest.raises(TimeoutError):
                client.sendall(bytes(64 << 20))
            assert proxy.figures()["up_bytes"] < 32 << 20
            echo.is_reading.set()


def test_a_server_that_is_not_there_refuses(echo: Echo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()
    with FaultProxy(address) as proxy:
        # Before the connection is told to be there, or after it.
        with pytest.raises(ConnectionResetError), connected(proxy) as client:
            client.recv(1)
        assert proxy.figures()["refused"] == 1


def test_faults_of_one_peer_are_its_own(proxy: FaultProxy, echo: Echo) -> None:
    proxy.cut("both", peer="10.0.0.9")
    with connected(proxy) as client:
        exchange(client, b"another one")
        proxy.cut("both", peer="127.0.0.1")
        client.sendall(b"x")
        assert hears_nothing(client)
        proxy.heal("127.0.0.1")
        assert receive(client, 1) == b"x"


def test_what_is_closed_says_so(echo: Echo) -> None:
    proxy = FaultProxy(echo.address)
    proxy.close()
    proxy.close()
    with pytest.raises(RuntimeError, match="closed"):
        proxy.figures()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(proxy.address)


def test_a_port_in_use_is_told(echo: Echo) -> None:
    with pytest.raises(OSError):
        FaultProxy(("127.0.0.1", 1), listen=echo.address)


def test_the_program_does_what_the_class_does(echo: Echo) -> None:
    words = program("shoal.testing.proxy_program", "--to", "{}:{}".format(*echo.address))
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None

        def tell(**told: object) -> dict[str, object]:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps(told) + "\n")
            process.stdin.flush()
            answer: dict[str, object] = json.loads(process.stdout.readline())
            return answer

        host, port = json.loads(process.stdout.readline())["done"]
        with socket.create_connection((host, port), timeout=LONG_S) as client:
            exchange(client, b"x")
            assert tell(do="set", toward="up", faults={"delay_s": 0.2}) == {"done": None}
            assert exchange(client, b"x") >= 0.2
            figures = tell(do="figures")["done"]
            assert isinstance(figures, dict) and figures["up_bytes"] == 2
            assert "there is no 'explode'" in str(tell(do="explode")["error"])
            assert "delay_s" in str(tell(do="set", toward="up", faults={"delay_s": -1})["error"])
            process.stdin.close()
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        assert process.wait(LONG_S) == 0
