"""What a direct write to a socket takes for granted of Twisted's transport."""

import inspect
import socket

import pytest
from twisted.internet import abstract, tcp

from realtime.server.protocol import direct_writes_work


class Reactor:
    """What a transport asks of a reactor while it only queues."""

    def addReader(self, _):
        pass

    def addWriter(self, _):
        pass

    removeReader = removeWriter = addReader


@pytest.fixture
def transport():
    ours, theirs = socket.socketpair()
    transport = tcp.Connection(ours, None, Reactor())
    transport.connected = True
    yield transport
    ours.close()
    theirs.close()


def test_direct_writes_are_on():
    # Off is slower and as correct; this says which of the two is tested.
    assert direct_writes_work()


def test_a_fresh_transport_holds_nothing(transport):
    assert transport.dataBuffer == b""
    assert transport.offset == 0
    assert transport._tempDataBuffer == []
    assert transport._tempDataLen == 0
    assert not transport.disconnecting
    assert isinstance(transport.socket, socket.socket)


def test_what_is_written_waits_where_it_is_looked_for(transport):
    transport.write(b"abc")
    transport.write(b"de")

    assert transport._tempDataBuffer == [b"abc", b"de"]
    assert transport._tempDataLen == 5
    waiting = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
    assert waiting == 5


def test_what_the_socket_did_not_take_still_counts_as_waiting(transport):
    transport.socket.setblocking(False)
    transport.write(b"x" * 10_000_000)

    transport.doWrite()

    waiting = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
    assert 0 < waiting < 10_000_000


def test_a_transport_that_ends_says_so(transport):
    transport.write(b"abc")
    transport.loseConnection()

    assert transport.disconnecting


def test_a_transport_can_be_aborted():
    assert list(inspect.signature(tcp.Connection.abortConnection).parameters) == ["self"]


def test_a_write_tells_the_reactor_itself(transport):
    # So that a direct write that was cut short goes on by Twisted's own way.
    assert "self.startWriting()" in inspect.getsource(abstract.FileDescriptor.write)
