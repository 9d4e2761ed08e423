"""What a direct write to a socket takes for granted of Twisted's transport."""

import inspect
import socket

import pytest
from twisted.internet import abstract, tcp
from twisted.internet.protocol import Protocol
from twisted.web.http import HTTPChannel

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
    transport.other_end = theirs
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


def test_a_transport_says_when_it_is_no_longer_read(transport):
    # Nothing of ours stands between: this is how a client that is ahead is slowed down.
    assert list(inspect.signature(abstract.FileDescriptor.pauseProducing).parameters) == ["self"]
    assert "self.stopReading()" in inspect.getsource(abstract.FileDescriptor.pauseProducing)
    text = inspect.getsource(abstract.FileDescriptor.resumeProducing)
    assert "self.connected and not self.disconnecting" in text  # harmless at the end
    assert "self.startReading()" in text


def test_a_transport_reads_as_much_at_once_as_it_is_told(transport):
    assert "self.socket.recv(self.bufferSize)" in inspect.getsource(tcp.Connection.doRead)
    assert abstract.FileDescriptor.bufferSize == 65536


def test_a_transport_reads_no_more_than_that(transport):
    sizes = []
    transport.protocol = Protocol()
    transport.protocol.dataReceived = lambda data: sizes.append(len(data))
    transport.bufferSize = 4
    transport.other_end.send(b"123456")

    transport.doRead()
    transport.doRead()

    assert sizes == [4, 2]


def test_a_servers_transport_has_two_strings_for_the_log():
    text = inspect.getsource(tcp.Server.__init__)

    assert "self.logstr = " in text
    assert "self.repstr: str = " in text
    assert "return self.logstr" in inspect.getsource(tcp.Connection.logPrefix)
    assert "return self.repstr" in inspect.getsource(tcp.Server.__repr__)


def test_an_http_channel_is_its_transports_producer_and_holds_its_requests():
    text = inspect.getsource(HTTPChannel.connectionMade)

    assert "self.transport.setTcpNoDelay(True)" in text
    assert "self._networkProducer.registerProducer(self, True)" in text
    assert HTTPChannel().requests == []


def test_a_producer_is_let_go_of_without_more(transport):
    transport.registerProducer(HTTPChannel(), True)

    transport.unregisterProducer()
    transport.unregisterProducer()

    assert transport.producer is None


def test_a_lost_connection_tells_its_protocol_after_it_is_no_longer_connected():
    # So that a state that says open means a socket that is there.
    text = inspect.getsource(tcp.Connection.connectionLost)

    assert text.index("abstract.FileDescriptor.connectionLost(self, reason)") < text.index(
        "protocol.connectionLost(reason)"
    )
