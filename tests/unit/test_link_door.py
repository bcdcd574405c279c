"""The port of a cluster while there is no control store behind it."""

from __future__ import annotations

import socket

import pytest

from shoal._runtime.links.door import listen, listen_again, listen_anywhere, refuse


@pytest.mark.parametrize("is_chosen", [True, False])
def test_a_port_without_a_server_refuses_dials_until_somebody_listens(is_chosen: bool) -> None:
    listening, address = listen_anywhere("127.0.0.1")
    if not is_chosen:
        listening.close()
        listening = listen(address)
    with listening:
        host, port = listening.getsockname()
        waiting = socket.create_connection((host, port))
        for _ in range(2):  # the second changes nothing
            refuse(listening.fileno())
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((host, port))
        with waiting, pytest.raises(ConnectionResetError):
            waiting.recv(1)
        listen_again(listening)
        with socket.create_connection((host, port)), listening.accept()[0] as accepted:
            assert accepted.getsockname() == (host, port)
