"""How much of everything: a run that judges, and a quick one that only shows that all works."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Counts and times of the scenarios.

    Attributes:
        pause_seconds: Before something is measured that what came before could disturb.
        settle_seconds: Between opening connections and looking at memory.
        idle_seconds: For how long idle CPU is measured.
        broadcasts: Most broadcasts of one part, and broadcast_seconds the longest such part;
            broadcasts_least are made however long they take.
        call_rate, call_seconds: Calls a second of all connections together, and for how long, once
            without the probe and once with it; blocked_rate, blocked_seconds: the same where each
            call holds the loop up.
    """

    connections: int = 3000
    pause_seconds: float = 0.5
    settle_seconds: float = 1.5
    idle_seconds: float = 3.0
    broadcasts: int = 100
    broadcasts_least: int = 6
    broadcast_seconds: float = 5.0
    stall_broadcasts: int = 25
    channels: int = 1000
    channel_publications: int = 1000
    channel_rate: int = 500
    mixed_seconds: float = 5.0
    slow_connections: int = 100
    slow_frozen: int = 10
    slow_publications: int = 150
    slow_padding_bytes: int = 32_000
    missed_publications: int = 5
    publish_seconds: float = 0.4
    publish_rounds: int = 3
    crowd_connections: int = 10_000
    crowd_idle_seconds: float = 8.0
    call_rate: float = 300.0
    call_seconds: float = 8.0
    blocked_rate: float = 10.0
    blocked_seconds: float = 3.0
    deadline_seconds: float = 150.0


FULL = Sizes()
QUICK = Sizes(
    connections=300,
    pause_seconds=0.2,
    settle_seconds=0.2,
    idle_seconds=0.3,
    broadcasts=10,
    broadcasts_least=3,
    broadcast_seconds=0.8,
    stall_broadcasts=4,
    channels=100,
    channel_publications=120,
    channel_rate=300,
    mixed_seconds=1.0,
    slow_connections=30,
    slow_frozen=5,
    slow_publications=20,
    publish_seconds=0.15,
    publish_rounds=1,
    crowd_connections=600,
    crowd_idle_seconds=0.5,
    call_seconds=1.5,
    blocked_seconds=1.0,
    deadline_seconds=40.0,
)
