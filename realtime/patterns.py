"""Regular expressions of whoever sets the server up, matched with what anybody may send.

Used for the names of channels and the claims of tokens. The language is that of RE2: what a
pattern means is what it means to Centrifugo, and the time that it takes grows with the length of
the text alone (docs/decisions/0015).
"""

from typing import Final

# Compiled, and for what is remembered while matching; a quarter of RE2's own default, which also
# bounds how long compiling takes: some 50 ms. Sixty-four letters of any alphabet fit.
_MAX_MEMORY_BYTES: Final = 2 * 2**20


class UnusablePattern(ValueError):
    """RE2 does not compile this pattern; the message says why."""


class Pattern:
    """One compiled pattern; may be used in any thread."""

    __slots__ = ("_compiled",)

    def __init__(self, text: str) -> None:
        """Compile a pattern.

        Raises:
            UnusablePattern: It is none of RE2's, or needs more memory than it may.
        """
        import re2  # here, because most servers have no pattern, and it costs megabytes

        options = re2.Options()
        options.max_mem = _MAX_MEMORY_BYTES
        options.never_capture = True  # whether it matches is all that is asked
        options.log_errors = False  # which would go to stderr, past the log
        try:
            self._compiled = re2.compile(text, options)
        except re2.error as error:
            raise UnusablePattern(error.args[0].decode(errors="replace")) from error
        except UnicodeEncodeError as error:
            raise UnusablePattern("not valid Unicode") from error

    def is_in(self, text: str) -> bool:
        """Tell whether it matches anywhere in a text of valid Unicode."""
        # As bytes: for a text re2 would work out where each match begins, in characters.
        return self._compiled.search(text.encode()) is not None

    def is_whole(self, text: str) -> bool:
        """Tell whether it matches all of a text of valid Unicode."""
        return self._compiled.fullmatch(text.encode()) is not None
