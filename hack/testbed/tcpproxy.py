"""A TCP proxy on a free port of 127.0.0.1 that cuts connections when it is told to.

with TcpProxy(server.port) as proxy:
    proxy.cut_on(b"pg_cancel_backend", forward=True)   # the server gets it, the answer is lost
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

_BLOCK = 65536
_ABORT = struct.pack("ii", 1, 0)  # SO_LINGER: the connection ends with a reset, not with a goodbye


class TcpProxy:
    """Forwards every connection to 127.0.0.1:`upstream`."""

    def __init__(self, upstream: int) -> None:
        self.port = 0
        self.cuts = 0
        self._upstream = upstream
        self._pattern = b""
        self._forward = False
        self._then: Callable[[], None] | None = None
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), name="tcp proxy", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listener:
            self._listener.close()
        with self._lock:
            for one in self._open:
                _end(one)

    def cut_on(self, pattern: bytes, *, forward: bool, then: Callable[[], None] | None = None) -> None:
        """Cuts the next connection whose client sends this, once: after it was forwarded, or without that. `then` is
        called in between, and may block.
        """
        with self._lock:
            self._pattern, self._forward, self._then = pattern, forward, then

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._upstream))
        except OSError:
            _end(client)
            return
        with self._lock:
            self._open |= {client, server}
        threading.Thread(target=self._pump, args=(server, client), daemon=True).start()
        self._pump(client, server, watched=True)

    def _pump(self, source: socket.socket, sink: socket.socket, *, watched: bool = False) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(_BLOCK):
                cut = watched and self._takes(block)
                if not cut or self._forward:
                    sink.sendall(block)
                if cut:
                    self._call_then()
                    source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
                    break
        _end(source)
        _end(sink)

    def _call_then(self) -> None:
        if self._then:
            self._then()

    def _takes(self, block: bytes) -> bool:
        with self._lock:
            if not self._pattern or self._pattern not in block:
                return False
            self._pattern = b""
            self.cuts += 1
            return True


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
