"""Why an upstream gave no answer that can be used."""

from realtime.hooks import CallFailed


class Failed(CallFailed):
    """A request without an answer of use.

    Attributes:
        reason: In a few words, for logs, metrics and the admin.
        is_of_upstream: Whether it says something of how the upstream is doing.
    """

    def __init__(self, reason: str, *, is_of_upstream: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_of_upstream = is_of_upstream
