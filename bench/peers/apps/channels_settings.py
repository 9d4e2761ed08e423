"""Settings of the Channels project.

Reads BENCH_LAYER ("core" or "pubsub"), BENCH_REDIS_URL and BENCH_SECRET from the environment.
"""

import os

LAYERS = {
    "core": "channels_redis.core.RedisChannelLayer",
    "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
}
# redis-py 8 ends a silent connection after 5 seconds unless it is told not to, and with it every
# idle consumer: channels_redis issue 422. Its pool holds 100 connections: when more than that many
# consumers are in group_add at the same moment, one fails with "Too many connections".
HOST = {
    "address": os.environ["BENCH_REDIS_URL"],
    "socket_timeout": None,
    "max_connections": 1000,
}

DEBUG = False
SECRET_KEY = os.environ["BENCH_SECRET"]
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "bench.peers.apps.channels_project"
INSTALLED_APPS = ["daphne", "channels"]
CHANNEL_LAYERS = {
    "default": {"BACKEND": LAYERS[os.environ["BENCH_LAYER"]], "CONFIG": {"hosts": [HOST]}}
}
