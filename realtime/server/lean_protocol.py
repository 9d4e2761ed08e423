"""Daphne's WebSocket protocol, without what Autobahn and Twisted keep for every connection.

Autobahn gives each connection some seventy attributes, two futures, a UTF-8 validator, a queue and
thirteen counters, and builds coloured strings for a log that is off. Here those that nobody uses
are attributes of the class, and what only the handshake needs is dropped when it is over.
``protocol.py`` builds on this; ``prepare`` there brings the configuration.
"""

from collections import deque
from typing import Any, Final

from autobahn.websocket.protocol import TrafficStats
from daphne.ws_protocol import WebSocketProtocol
from twisted.web.http import HTTPChannel

from realtime.protocol import websocket
from realtime.server.incoming import Incoming

OPEN: Final = WebSocketProtocol.STATE_OPEN
# Read at once from a socket; what one read brings beyond the bounds is bounded by it.
READ_BYTES: Final = 16 * 1024
LOG_PREFIX: Final = "websocket"
NOTHING: Final = bytearray()  # never added to: a message begins with its own

# What an open connection keeps of its own; all else is as the class says.
KEPT: Final = (
    "transport",
    "factory",
    "server",
    "state",
    "data",
    "incoming",
    "client_addr",
    "closedByMe",
    "localCloseCode",
    "localCloseReason",
    "failedByMe",
)


class Nobody:
    """Stands for a future that nobody waits for."""

    def callback(self, result: Any) -> None:
        """Tell nobody."""


class LeanProtocol(WebSocketProtocol):
    """A WebSocket connection that keeps little."""

    # Autobahn's state of a connection, in the order in which it sets it. ---------------------
    is_closed = is_open = Nobody()
    _transport_details = None
    peer = "a client"
    _perMessageCompress = None
    trackTimings = False
    trackedTimings = None
    trafficStats = TrafficStats()  # counts for all together
    send_state = WebSocketProtocol.SEND_STATE_GROUND
    data = b""
    send_queue: deque[Any] = deque()  # of chopped writes, of which there are none
    triggered = False
    utf8validator = None  # text is decoded once, as a whole, in ``protocol.py``
    wasMaxFramePayloadSizeExceeded = wasMaxMessagePayloadSizeExceeded = False
    closedByMe = failedByMe = droppedByMe = wasClean = False
    wasNotCleanReason = None
    wasServerConnectionDropTimeout = wasOpenHandshakeTimeout = wasCloseHandshakeTimeout = False
    wasServingFlashSocketPolicyFile = False
    localCloseCode = localCloseReason = remoteCloseCode = remoteCloseReason = None
    openHandshakeTimeoutCall = closeHandshakeTimeoutCall = None
    autoPingTimeoutCall = autoPingPending = autoPingPendingCall = autoPingPendingSent = None
    autoPingPendingSeq = 0
    websocket_version = 13
    inside_message = False
    current_frame: Any = None
    message_data = NOTHING
    incoming: Incoming  # there once the application is started
    # Daphne's. -------------------------------------------------------------------------------
    path = ""
    client_addr: list[Any] | None = None
    _http: HTTPChannel | None = None

    def __init__(self) -> None:
        """Make nothing: what Autobahn's makes is in the class."""

    def connectionMade(self) -> None:
        """Begin in the state of the class."""
        self._http = self.transport.producer
        self.state = self.STATE_CONNECTING
        self.factory.countConnections += 1

    def connectionLost(self, reason: Any = None) -> None:
        """End as Autobahn does, without its words."""
        self._connectionLost(reason)

    def _onOpen(self) -> None:
        self._forget_handshake()
        self.onOpen()

    def _forget_handshake(self) -> None:
        self.forget_http()
        transport = self.transport
        transport.bufferSize = READ_BYTES
        transport.logstr = transport.repstr = LOG_PREFIX
        own = vars(self)
        self.__dict__ = {name: own[name] for name in KEPT if name in own}

    def forget_http(self) -> None:
        """Let go of the request that became this connection; it and its channel hold each other."""
        channel, self._http = self._http, None
        if not isinstance(channel, HTTPChannel):
            return
        self.transport.unregisterProducer()
        for request in channel.requests:
            self.factory.server_class.connections.pop(request, None)
        channel.requests.clear()

    # Way in ----------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        """Read whole messages at once; everything else goes through Autobahn's hands."""
        if self.state == self.STATE_CLOSED:
            return
        if self.state == self.STATE_CONNECTING and hasattr(self, "incoming"):
            self._keep_early(data)
            return
        if self.state == OPEN and not (self.data or self.current_frame or self.inside_message):
            start = 0
            while self.state == OPEN:
                read = websocket.read_message(data, start, self.maxMessagePayloadSize)
                if read is None:
                    break
                opcode, payload, start = read
                self.onMessage(payload, opcode == websocket.BINARY)
            if start == len(data):
                return
            data = data[start:]
        self.data += data
        self.consumeData()

    def _keep_early(self, data: bytes) -> None:
        """Keep what comes before the handshake is answered, so long as it is little.

        Autobahn would take it for another handshake.
        """
        self.data += data
        if len(self.data) > READ_BYTES:
            self.dropConnection(abort=True)

    def _protocol_violation(self, reason: str) -> bool:
        """Close, and leave a stream whose frames can no longer be told apart.

        Returns:
            Whether to read nothing more of what has arrived: a frame whose head is wrong has no
            end. What comes later is looked at for an answer to the close.
        """
        super()._protocol_violation(reason)
        if self.current_frame is not None:
            return False
        self.data = b""
        return True

    # A message that comes in parts is one buffer, however small the parts are.

    def onMessageBegin(self, isBinary: bool) -> None:
        """Begin a message of which not all is here."""
        self.message_is_binary = isBinary
        self.message_data = bytearray()
        self.message_data_total_length = 0

    def onMessageFrameData(self, payload: bytes) -> None:
        """Add a part, unless the message is not wanted."""
        if not self.failedByMe:
            self.message_data += payload

    def onMessageFrameEnd(self) -> None:
        """Do nothing: the parts are in place."""

    def onMessageEnd(self) -> None:
        """Hand a message over that came in parts, as Autobahn does but for its listeners."""
        if not self.failedByMe:
            self.onMessage(bytes(self.message_data), self.message_is_binary)
        self.message_data = NOTHING
