"""The kinds of failure: one class for each reason why a step fails.

They are used as errors.NoDisk, errors.Busy and so on.
"""

from auto_iscsi.failure import Failure


class BadKey(Failure):
    """The key is not the name of an iSCSI target. The network was not asked."""

    code = "bad-key"


class Disabled(Failure):
    """The configuration has `enabled = no` for this target."""

    code = "disabled"


class BadConfiguration(Failure):
    """A configuration file cannot be used, or a setting of this target is wrong."""

    code = "bad-configuration"


class NotPermitted(Failure):
    """The kernel refused to let us read or write, most often because we are not root."""

    code = "not-permitted"


class NoRecord(Failure):
    """open-iscsi has no node record of the target, and no configured portal offers it."""

    code = "no-record"


class LoginFailed(Failure):
    """No portal of the target accepted our login."""

    code = "login-failed"


class SessionLost(Failure):
    """A session exists, but its connection is down."""

    code = "session-lost"


class NoDisk(Failure):
    """The session has no disk for the configured LUN."""

    code = "no-disk"


class NoPartition(Failure):
    """The disk does not have the configured partition."""

    code = "no-partition"


class NoSnapshot(Failure):
    """No snapshot of the volume is meant by what was asked for."""

    code = "no-snapshot"


class SanFailure(Failure):
    """A SAN's driver did not do what it was asked.

    `kind`: the error code of the protocol (docs/san-driver.md). `effect`: `unknown` where something
    may have changed at the SAN, else `none`. `retry_after`: seconds, 0 for not said.
    """

    code = "san-failure"

    def __init__(
        self,
        reason: str,
        hint: str = "",
        kind: str = "internal",
        effect: str = "unknown",
        retry_after: int = 0,
    ) -> None:
        super().__init__(reason, hint)
        self.kind = kind
        self.effect = effect
        self.retry_after = retry_after


class NotAllowed(Failure):
    """The configuration of a SAN does not let this user present snapshots, or not so many."""

    code = "not-allowed"


class TooOften(Failure):
    """Too many logins or discoveries failed in the last minute: the SAN is not asked again yet."""

    code = "too-often"


class Ambiguous(Failure):
    """More than one filesystem could be meant, or there is none."""

    code = "ambiguous"


class NotMountable(Failure):
    """The disk has no filesystem: it is part of a larger volume, encrypted, or empty."""

    code = "not-mountable"


class DirtyJournal(Failure):
    """The filesystem's journal shows that it was in use when the snapshot was taken."""

    code = "dirty-journal"


class WrongDisk(Failure):
    """The disk is not the volume that it was when the kernel found it."""

    code = "wrong-disk"


class TwinVolumes(Failure):
    """multipathd takes the disk and another volume for one: they have the same serial number."""

    code = "twin-volumes"


class Busy(Failure):
    """Another run for the same target has not ended yet."""

    code = "busy"


class NoAnswer(Failure):
    """A disk does not answer within its time."""

    code = "no-answer"


class IscsidNotRunning(Failure):
    """iscsid, which keeps the sessions, does not start."""

    code = "iscsid-not-running"


class BrokenInstallation(Failure):
    """A program or library that is needed is missing or does not start."""

    code = "broken-installation"
