"""What ``realtime.server`` takes for granted of Daphne; an upgrade that changes it fails here."""

import inspect

import pytest
from daphne.http_protocol import WebRequest
from daphne.server import Server
from daphne.utils import parse_x_forwarded_for
from daphne.ws_protocol import WebSocketFactory, WebSocketProtocol

from realtime.server import protocol as own_protocol
from realtime.server.protocol import FrameProtocol
from realtime.server.server import HeliographServer


def parameters(function):
    return list(inspect.signature(function).parameters)


def source(function):
    return inspect.getsource(function)


def test_the_server_takes_the_options_that_are_set():
    wanted = {
        "application",
        "endpoints",
        "signal_handlers",
        "http_timeout",
        "websocket_timeout",
        "websocket_connect_timeout",
        "websocket_handshake_timeout",
        "websocket_max_message_size",
        "websocket_max_frame_size",
        "proxy_forwarded_address_header",
        "verbosity",
        "ready_callable",
        "server_name",
    }

    assert wanted <= set(parameters(Server.__init__))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("run", ["self"]),
        ("stop", ["self"]),
        ("listen_error", ["self", "failure"]),
        ("create_application", ["self", "protocol", "scope"]),
        ("protocol_disconnected", ["self", "protocol"]),
        ("kill_all_applications", ["self"]),
        ("application_checker", ["self"]),
        ("timeout_checker", ["self"]),
    ],
)
def test_the_servers_methods_are_where_they_are_overridden_or_called(name, wanted):
    assert parameters(getattr(Server, name)) == wanted


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("onConnect", ["self", "request"]),
        ("onMessage", ["self", "payload", "isBinary"]),
        ("onClose", ["self", "wasClean", "code", "reason"]),
        ("handle_reply", ["self", "message"]),
        ("check_timeouts", ["self"]),
        ("serverReject", ["self"]),
        ("duration", ["self"]),
    ],
)
def test_the_protocols_methods_are_where_they_are_overridden_or_called(name, wanted):
    assert parameters(getattr(WebSocketProtocol, name)) == wanted


def test_everything_that_is_overridden_exists():
    # A method that was renamed would be overridden in vain.
    for own, theirs in ((HeliographServer, Server), (FrameProtocol, WebSocketProtocol)):
        hooks = {
            "run",
            "listen_error",
            "create_application",
            "kill_all_applications",
            "application_checker",
            "timeout_checker",
            "onConnect",
            "onMessage",
            "onClose",
            "handle_reply",
            "check_timeouts",
            "_max_message_size_exceeded",
        }
        for name in hooks & set(vars(own)):
            assert hasattr(theirs, name), name


def test_the_factories_exist_before_the_server_says_that_it_is_ready():
    text = source(Server.run)

    assert text.index("self.connections = {}") < text.index("self.ready_callable()")
    assert text.index("self.ws_factory = WebSocketFactory(") < text.index("self.ready_callable()")
    assert text.index("self.ready_callable()") < text.index("reactor.run(")


def test_an_upgrade_hands_over_what_the_handshake_needs():
    text = source(WebRequest.process)

    assert "protocol = self.server.ws_factory.buildProtocol(" in text
    assert "protocol._raw_query_string = self.query_string" in text
    # A whole request, so that no time for the handshake has to be watched.
    assert text.index("protocol.makeConnection(transport)") < text.index("protocol.dataReceived(")


def test_an_upgrade_says_goodbye_to_its_request_before_anything_else_can():
    # The protocol takes the request out of the table later, in another turn of the loop.
    text = source(WebRequest.process)
    after = text[text.index("protocol.dataReceived(data)") :]

    assert "self.server.protocol_disconnected(self)" in after
    assert "yield" not in after.split("# Boring old HTTP.")[0]


def test_the_table_of_connections_is_a_dict_by_protocol():
    assert "self.connections = {}" in source(Server.run)
    assert 'self.connections[protocol] = {"connected": time.time()}' in source(
        Server.protocol_connected
    )


def test_an_exception_of_an_application_is_answered_by_the_protocol():
    text = source(WebSocketProtocol.handle_exception)

    assert 'hasattr(self, "handshake_deferred")' in text
    assert "self.sendCloseFrame(code=1011)" in text


def test_a_forwarded_address_is_found_in_headers_of_bytes():
    headers = {b"x-real-ip": b"192.0.2.1"}

    found, _ = parse_x_forwarded_for(headers, "X-Real-IP", None, None, ["127.0.0.1", 1])

    assert found == ["192.0.2.1", 0]


def test_a_connection_is_known_by_the_keys_that_are_read():
    assert '"application_instance"' in source(Server.create_application)
    assert '"disconnected"' in source(Server.protocol_disconnected)
    assert "if protocol not in self.connections" in source(Server.handle_reply)


def test_the_checkers_call_themselves_again_only_at_their_end():
    # One that fails must be started again by hand.
    for checker in (Server.application_checker, Server.timeout_checker):
        assert source(checker).rstrip().splitlines()[-1].strip().startswith("reactor.callLater(")


def test_a_factory_knows_its_server_and_makes_the_protocol_of_its_class():
    assert "self.server_class = server_class" in source(WebSocketFactory.__init__)
    assert WebSocketFactory.protocol is WebSocketProtocol


def test_daphnes_own_defaults_are_all_answered():
    """A new option with a default may end connections: each is to be looked at once."""
    known = {
        "self",
        "application",
        "endpoints",
        "signal_handlers",
        "action_logger",
        "http_timeout",
        "request_buffer_size",
        "websocket_timeout",
        "websocket_connect_timeout",
        "ping_interval",
        "ping_timeout",
        "root_path",
        "proxy_forwarded_address_header",
        "proxy_forwarded_port_header",
        "proxy_forwarded_proto_header",
        "verbosity",
        "websocket_handshake_timeout",
        "websocket_max_message_size",
        "websocket_max_frame_size",
        "application_close_timeout",
        "ready_callable",
        "server_name",
    }

    assert set(parameters(Server.__init__)) == known
    assert own_protocol.DENIAL == "websocket.http.response"
