"""How a server leaves its listening sockets, so that nobody whom the system let in is reset.

Between the last ``accept`` and the ``close`` the system goes on letting clients in, and resets them
at the close. So first it is told to let in nobody new: their first packet is dropped unanswered,
and its repetition a second later finds the port closed, or another server there.
"""

import asyncio
import logging
import socket
import struct
import sys
from array import array
from collections.abc import Sequence
from enum import Enum, auto
from typing import Any, Final

logger = logging.getLogger(__name__)

QUEUE_MAX: Final = 4096
SETTLE_SECONDS: Final = 0.1
_SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h; Python has no name for it
# A classic BPF program, as (code, jump if true, jump if false, operand). It is given packets from
# the TCP header on; byte 13 has the flags, of which SYN is 2 and ACK 16.
_DROP_FIRST_PACKETS: Final = (
    (0x30, 0, 0, 13),  # load the flags
    (0x54, 0, 0, 0x12),  # of these SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone?
    (0x06, 0, 0, 0),  # then nothing of the packet passes
    (0x06, 0, 0, 0xFFFFFFFF),  # else all of it
)


class Queue(Enum):
    """Whose those are who wait at a listening socket to be accepted."""

    OWN = auto()  # this process's alone
    OF_SUPERVISOR = auto()  # its signal says whether another process goes on with them
    OF_OTHERS = auto()  # another process goes on with them


async def stop(ports: Sequence[Any], queue: Queue) -> None:
    """Take nobody new at some ports of Twisted; whoever would be reset is still taken.

    Returns when those who were taken last have had the time to say what they want.
    """
    if queue is Queue.OF_OTHERS:
        _close(ports)
        await asyncio.sleep(SETTLE_SECONDS)
        return
    for port in ports:
        if queue is Queue.OWN:
            let_in_nobody_new(port.socket)
        _take_waiting(port)
    await asyncio.sleep(SETTLE_SECONDS)  # somebody may be half-way in
    for port in ports:
        _take_waiting(port)
    _close(ports)


def _close(ports: Sequence[Any]) -> None:
    for port in ports:
        port.stopListening()


def let_in_nobody_new(listener: socket.socket) -> None:
    """Make the system drop the packets that ask for a new connection; others go on.

    For a listening socket that is about to be closed for good: it counts for every process that
    holds it. Does nothing where the system is not Linux.
    """
    if sys.platform != "linux":
        return
    program = array("B", b"".join(struct.pack("=HBBI", *step) for step in _DROP_FIRST_PACKETS))
    description = struct.pack("HP", len(_DROP_FIRST_PACKETS), program.buffer_info()[0])
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, description)
    except OSError as error:  # such as in a sandbox
        logger.warning("clients may be reset at the end of this server: %s", error)


def _take_waiting(port: Any) -> None:
    port.numberAccepts = QUEUE_MAX  # all of them in one go
    port.doRead()
