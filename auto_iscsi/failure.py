"""What every expected failure has in common: a reason, a hint and a code.

The names are used as those of `auto_iscsi.errors`.
"""


class Reported(Exception):
    """An expected end of a run: one line for the log, exit status 1. Only a main catches it."""

    code = "failure"

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason, hint)
        self.reason = reason
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.reason}; {self.hint}" if self.hint else self.reason


class TimedOut(Reported):
    """lookup_timeout is over. This is no Failure, so that nobody catches it on the way."""

    code = "timed-out"


class Failure(Reported):
    """An expected failure of a step, which a step before it may catch."""
