"""Messages of worker processes: complete, of the right size and of known classes, or refused."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from multiprocessing.connection import Connection

import pytest

from rollforge.run.pipe import Messages, read_message

MOST = 2**22
CLASSES: dict[tuple[str, str], type] = {("fractions", "Fraction"): Fraction}


@pytest.fixture
def ends() -> Iterator[tuple[Messages, Connection]]:
    """One end of a pipe as messages, and the other end."""
    ours, theirs = multiprocessing.Pipe()
    messages = Messages(ours, MOST)
    ours.close()
    yield messages, theirs
    messages.close()
    theirs.close()


def test_messages_arrive_in_order(ends: tuple[Messages, Connection]) -> None:
    """Each message is returned once, and None if no further one has arrived."""
    messages, other = ends
    assert messages.next() is None
    other.send({"a": 1})
    other.send([2])
    messages.receive()
    found = [messages.next(), messages.next(), messages.next()]
    assert [read_message(data, {}) for data in found if data is not None] == [{"a": 1}, [2]]
    assert found[2] is None


def test_a_long_message_is_sent_piece_by_piece(ends: tuple[Messages, Connection]) -> None:
    """Sending does not wait for a process that does not read; the next message is refused until it has."""
    messages, other = ends
    text = "x" * 3_000_000
    messages.send(text)
    assert messages.sending
    messages.push()
    assert messages.sending
    with pytest.raises(BlockingIOError, match="has not been taken yet"):
        messages.send("next")
    with ThreadPoolExecutor(1) as reader:
        received = reader.submit(other.recv)
        while messages.sending:
            messages.push()
        assert received.result(60) == text
    messages.send("next")
    assert other.recv() == "next"


def test_a_message_with_a_long_header_is_complete_when_all_of_it_has_arrived(ends: tuple[Messages, Connection]) -> None:
    """The size of a message beyond two gigabytes follows -1 as eight bytes, in any number of pieces."""
    messages, other = ends
    data = pickle.dumps("a")
    whole = struct.pack("!i", -1) + struct.pack("!Q", len(data)) + data
    for at in range(len(whole)):
        messages.receive()
        assert messages.next() is None
        os.write(other.fileno(), whole[at : at + 1])
    messages.receive()
    assert messages.next() == data


@pytest.mark.parametrize("size", [-2, MOST + 1])
def test_an_impossible_size_is_refused(size: int, ends: tuple[Messages, Connection]) -> None:
    """What is not the size of a message is an error, whatever follows."""
    messages, other = ends
    os.write(other.fileno(), struct.pack("!i", size))
    messages.receive()
    with pytest.raises(ValueError, match=f"a message of {size} bytes"):
        messages.next()


def test_a_closed_pipe_sends_nothing_and_has_nothing(ends: tuple[Messages, Connection]) -> None:
    """After the other end was closed, receiving ends and sending is an error."""
    messages, other = ends
    other.close()
    messages.receive()
    assert messages.next() is None
    with pytest.raises(OSError, match="pipe"):
        messages.send("a")
    messages.receive()


def test_only_known_classes_are_read() -> None:
    """A message with an object of any other class, or that is no pickle, is refused."""
    half = Fraction(1, 2)
    assert read_message(pickle.dumps(half), CLASSES) == half
    for data in (pickle.dumps(half), b"no pickle"):
        with pytest.raises(ValueError, match="not a message of a worker process"):
            read_message(data, {})
