"""The scenarios by name, in the order in which they run.

FAN_OUT has no entry: it follows IDLE with the same connections.
"""

from collections.abc import Callable, Mapping

from bench.peers import base
from bench.scenarios import channels, idle, many, mixed, publish, recover, slow, sporadic
from bench.scenarios.stage import Figures, Stage

SCENARIOS: Mapping[str, Callable[[Stage], Mapping[str, Figures]]] = {
    base.IDLE: idle.run,
    base.CHANNELS: channels.run,
    base.MIXED: mixed.run,
    base.SLOW: slow.run,
    base.RECOVER: recover.run,
    base.PUBLISH: publish.run,
    base.CROWD: many.run,
    base.SPORADIC: sporadic.run,
}
