"""What ``realtime.server`` takes for granted of Twisted's ports and HTTP, and of Daphne's."""

import inspect
import socket

from daphne.http_protocol import HTTPFactory as DaphneFactory
from daphne.http_protocol import WebRequest
from daphne.server import Server
from twisted.internet.tcp import Port
from twisted.protocols.basic import LineReceiver
from twisted.web.http import HTTPChannel, HTTPFactory

from realtime.server.http_channel import DeadlineChannel


def source(function):
    return inspect.getsource(function)


def test_a_port_has_its_socket_and_takes_as_many_as_it_is_told_to():
    port = Port(0, HTTPFactory(), interface="127.0.0.1")
    port.startListening()

    assert isinstance(port.socket, socket.socket)
    assert port.numberAccepts > 0
    assert "numAccepts = self.numberAccepts" in source(Port.doRead)
    port.connectionLost(None)


def test_a_port_that_is_stopped_takes_nobody_more():
    assert "self.stopReading()" in source(Port.loseConnection)


def test_an_http_connection_does_nothing_with_data_but_prolong_its_time_and_read_lines():
    lines = [line.strip() for line in source(HTTPChannel.dataReceived).splitlines()]

    assert lines[1:] == ["self.resetTimeout()", "basic.LineReceiver.dataReceived(self, data)"]
    assert list(inspect.signature(LineReceiver.dataReceived).parameters) == ["self", "data"]


def test_the_time_of_a_request_runs_from_its_connection_to_its_end_and_from_there_to_the_next():
    assert "self.setTimeout(self.timeOut)" in source(HTTPChannel.connectionMade)
    assert "self._savedTimeOut = self.setTimeout(None)" in source(HTTPChannel.allContentReceived)
    assert "self.setTimeout(self._savedTimeOut)" in source(HTTPChannel.requestDone)


def test_a_request_says_whether_its_connection_goes_on():
    assert list(inspect.signature(HTTPChannel.checkPersistence).parameters) == [
        "self",
        "request",
        "version",
    ]
    assert "self.persistent = self.checkPersistence(" in source(HTTPChannel.allHeadersReceived)


def test_the_factory_makes_the_channel_it_is_told_to():
    factory = DaphneFactory(server=None)
    factory.protocol = DeadlineChannel

    channel = factory.buildProtocol(None)

    assert type(channel) is DeadlineChannel
    assert channel.timeOut == factory.timeOut
    assert channel.requestFactory is WebRequest
    assert channel.factory.server is None


def test_the_http_factory_exists_when_the_server_says_that_it_is_ready():
    text = source(Server.run)

    assert text.index("self.http_factory = HTTPFactory(self)") < text.index("self.ready_callable()")


def test_the_server_may_be_told_twice_of_an_end():
    # A request that has finished is lost once more with its connection.
    assert "self.server.protocol_disconnected(self)" in source(WebRequest.finish)
    assert "self.server.protocol_disconnected(self)" in source(WebRequest.connectionLost)
