"""Exchange messages with a worker process without trusting it.

The process runs the code of tasks, which may write anything to any open file, or stop at any time. So this module never
waits for the rest of a message or for the process to read one, and unpickles only objects of given classes.
"""

from __future__ import annotations

import io
import os
import pickle
import socket
import struct
from collections.abc import Mapping
from multiprocessing import connection, reduction

__all__ = ["Messages", "read_message"]

_PIECE = 2**20
_SHORT, _LONG = struct.Struct("!i"), struct.Struct("!Q")


class Messages:
    """Incoming and outgoing messages on one end of a duplex :func:`multiprocessing.Pipe`.

    Parameters
    ----------
    pipe : Connection
        The end to use.
    most : int
        Maximum size of an incoming message in bytes.
    """

    def __init__(self, pipe: connection.Connection, most: int) -> None:
        self._socket = socket.socket(fileno=os.dup(pipe.fileno()))
        self._most = most
        self._waiting = bytearray()
        self._unsent = memoryview(b"")
        self._ended = False

    def close(self) -> None:
        """Stop reading and sending."""
        self._socket.close()

    @property
    def sending(self) -> bool:
        """Whether part of a message has not been sent yet; :meth:`push` continues sending it."""
        return bool(self._unsent)

    def send(self, message: object) -> None:
        """Send as much of a message as the pipe can take, without waiting.

        Raises
        ------
        OSError
            If the other end is closed, or the previous message has not been sent completely.
        """
        if self._unsent:
            raise BlockingIOError("the previous message has not been taken yet")
        data = bytes(reduction.ForkingPickler.dumps(message))
        fits = len(data) <= 2**31 - 1
        self._unsent = memoryview((_SHORT.pack(len(data)) if fits else _SHORT.pack(-1) + _LONG.pack(len(data))) + data)
        self.push()

    def push(self) -> None:
        """Continue sending the current message, without waiting.

        Raises
        ------
        OSError
            If the other end is closed.
        """
        try:
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent, socket.MSG_DONTWAIT) :]
        except BlockingIOError:
            return

    def receive(self) -> None:
        """Read what has arrived, without waiting."""
        try:
            while not self._ended:
                piece = self._socket.recv(_PIECE, socket.MSG_DONTWAIT)
                self._waiting += piece
                self._ended = not piece
                if len(self._waiting) > self._most + _PIECE:
                    return
        except BlockingIOError:
            return
        except OSError:  # the other end is closed
            self._ended = True

    def next(self) -> bytes | None:
        """Return the next complete message, or None if there is none yet.

        Raises
        ------
        ValueError
            If the data are not a message, or the message is too long.
        """
        if len(self._waiting) < _SHORT.size:
            return None
        (size,), start = _SHORT.unpack_from(self._waiting), _SHORT.size
        if size == -1:
            if len(self._waiting) < start + _LONG.size:
                return None
            (size,), start = _LONG.unpack_from(self._waiting, start), start + _LONG.size
        if not 0 <= size <= self._most:
            raise ValueError(f"a message of {size} bytes")
        if len(self._waiting) < start + size:
            return None
        message = bytes(self._waiting[start : start + size])
        del self._waiting[: start + size]
        return message


class _Named(pickle.Unpickler):
    def __init__(self, data: bytes, classes: Mapping[tuple[str, str], type]) -> None:
        super().__init__(io.BytesIO(data))
        self._classes = classes

    def find_class(self, module: str, name: str) -> object:
        return self._classes[module, name]


def read_message(data: bytes, classes: Mapping[tuple[str, str], type]) -> object:
    """Return the object in a message, which may contain only plain values and instances of `classes`.

    Raises
    ------
    ValueError
        If it contains anything else.
    """
    try:
        return _Named(data, classes).load()
    except Exception as exc:
        raise ValueError(f"not a message of a worker process: {type(exc).__name__}: {exc}") from exc
