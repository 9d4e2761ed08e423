"""One thread per connection, each calling an HTTP service with ``requests``.

A message is posted to the service, and what that answers is sent back. Every connection has a
Session of its own, as requests' documents ask of threads. Usage: thread_caller.py PORT URL
"""

import sys

import requests
from websockets.sync.server import ServerConnection, serve

HEADERS = {"Content-Type": "application/json"}
TIMEOUT_SECONDS = 10


def main(port: int, url: str) -> None:
    def handle(connection: ServerConnection) -> None:
        with requests.Session() as session:
            for message in connection:
                answer = session.post(url, message, headers=HEADERS, timeout=TIMEOUT_SECONDS)
                answer.raise_for_status()
                connection.send(answer.text)

    with serve(handle, "127.0.0.1", port, compression=None) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
