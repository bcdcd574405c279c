"""Talks TCP and UDP in a host of a test's network, and says what it hears: one JSON object a line.

talker.py serve PORT          echoes what comes over TCP, and says each piece of it
talker.py hear PORT           says how many datagrams have come, each time it is asked
talker.py talk IP PORT        for each command of its standard input:
                              connect, say, listen, bulk, end (methods of ``Talk``)
talker.py shout IP PORT N     sends N datagrams
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time


def tell(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def serve(port: int) -> None:
    listener = socket.create_server(("0.0.0.0", port), backlog=128)
    tell(ready=True)
    threading.Thread(target=end_with_input, daemon=True).start()
    while True:
        accepted, _ = listener.accept()
        threading.Thread(target=echo, args=(accepted,), daemon=True).start()


def end_with_input() -> None:
    sys.stdin.read()
    # The process ends at once, and its sockets with it.
    os._exit(0)


def echo(accepted: socket.socket) -> None:
    with accepted:
        try:
            while data := accepted.recv(1 << 16):
                if len(data) < 200:
                    tell(heard=data.decode(errors="replace"))
                accepted.sendall(data)
            tell(ended=True)
        except OSError as error:
            tell(error=type(error).__name__)


def hear(port: int) -> None:
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    bound.bind(("0.0.0.0", port))
    bound.setblocking(False)
    tell(ready=True)
    count = 0
    for _ in sys.stdin:
        while True:
            try:
                bound.recv(1 << 16)
            except BlockingIOError:
                break
            count += 1
        tell(count=count)


def shout(ip: str, port: int, count: int) -> None:
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for number in range(count):
        sender.sendto(b"%d" % number, (ip, port))
        if number % 100 == 99:
            time.sleep(0.001)  # the receiver's buffer is not what is tested
    tell(sent=count)


class Talk:
    """One connection, and what becomes of it."""

    def __init__(self, ip: str, port: int) -> None:
        self.place = (ip, port)
        self.socket: socket.socket | None = None

    def connect(self, seconds: float) -> None:
        self.socket = socket.create_connection(self.place, timeout=seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def say(self, text: str, seconds: float) -> None:
        """Until the echo of all of it is here."""
        self.exchange(text.encode(), seconds)

    def listen(self, size: int, seconds: float) -> None:
        """For an echo that did not come in time."""
        self.receive(size, seconds)

    def bulk(self, size: int) -> None:
        self.exchange(b"x" * size, 60.0)

    def exchange(self, data: bytes, seconds: float) -> None:
        assert self.socket is not None
        connected = self.socket
        connected.settimeout(seconds)
        sender = threading.Thread(target=self._send, args=(data,))
        sender.start()
        try:
            self.receive(len(data), seconds)
        finally:
            sender.join()

    def _send(self, data: bytes) -> None:
        assert self.socket is not None
        try:
            self.socket.sendall(data)
        except OSError:
            pass  # the receiving half says what is wrong

    def receive(self, size: int, seconds: float) -> None:
        assert self.socket is not None
        self.socket.settimeout(seconds)
        left = size
        while left:
            data = self.socket.recv(min(left, 1 << 16))
            if not data:
                raise EOFError
            left -= len(data)

    def end(self) -> None:
        assert self.socket is not None
        self.socket.close()


def talk(ip: str, port: int) -> None:
    partner = Talk(ip, port)
    tell(ready=True)
    for line in sys.stdin:
        word, *arguments = json.loads(line)
        begun = time.monotonic()
        error = ""
        try:
            getattr(partner, word)(*arguments)
        except (OSError, EOFError) as raised:
            error = type(raised).__name__
        tell(error=error, took_s=time.monotonic() - begun)


def main(words: list[str]) -> None:
    role, *rest = words
    if role == "serve":
        serve(int(rest[0]))
    elif role == "hear":
        hear(int(rest[0]))
    elif role == "talk":
        talk(rest[0], int(rest[1]))
    else:
        shout(rest[0], int(rest[1]), int(rest[2]))


if __name__ == "__main__":
    main(sys.argv[1:])
