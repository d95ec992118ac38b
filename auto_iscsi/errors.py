"""In which ways can it fail, and what does one do about each?

Every expected failure is a `Failure`: the reason, with target, portal and exit code where they
are known, and a hint: what to do next. Raised where the fact is known, caught only by the two
programs' mains. `code` is stable: it is what a person looks up and what a script may compare.
"""


class Failure(Exception):
    """An expected failure: one line for the log, exit status 1."""

    code = "failure"

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason, hint)
        self.reason = reason
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.reason}; {self.hint}" if self.hint else self.reason


class BadKey(Failure):
    """The key is not the name of an iSCSI target: nothing was asked of the network."""

    code = "bad-key"


class Disabled(Failure):
    """The configuration says `enabled = no` for this target."""

    code = "disabled"


class BadConfiguration(Failure):
    """A file cannot be parsed, or a setting that applies to this target is wrong."""

    code = "bad-configuration"


class NotPermitted(Failure):
    """The kernel refused to let us read or write: not run as root, most often."""

    code = "not-permitted"


class NoRecord(Failure):
    """open-iscsi has no node record for the target, and no portal that offers it is known."""

    code = "no-record"


class LoginFailed(Failure):
    """No portal of the target let us in."""

    code = "login-failed"


class SessionLost(Failure):
    """A session exists, but its connection is down."""

    code = "session-lost"


class NoDisk(Failure):
    """The session has no disk at the LUN that is wanted."""

    code = "no-disk"


class NoPartition(Failure):
    """The disk is there, the partition that is wanted is not."""

    code = "no-partition"


class TooOften(Failure):
    """Too many logins or discoveries failed in the last minute: the SAN is not asked again yet."""

    code = "too-often"


class Ambiguous(Failure):
    """More than one filesystem could be meant, or none is there."""

    code = "ambiguous"


class NotMountable(Failure):
    """What is on the disk cannot be mounted: a member of something bigger, encrypted, or empty."""

    code = "not-mountable"


class DirtyJournal(Failure):
    """The filesystem was in use when the snapshot was taken, and its journal says so."""

    code = "dirty-journal"


class WrongDisk(Failure):
    """Another volume is behind the disk than the one that the kernel knows."""

    code = "wrong-disk"


class Busy(Failure):
    """Another run for the same target is not through yet."""

    code = "busy"


class TimedOut(Failure):
    """lookup_timeout is over."""

    code = "timed-out"


class BrokenInstallation(Failure):
    """A program or library that is needed is not there."""

    code = "broken-installation"
