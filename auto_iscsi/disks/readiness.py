"""Ask a disk whether it can be read, and say in SCSI's words why not.

A warm lookup asks no disk: this is for one on which nothing was found, and for reports.
"""

from __future__ import annotations

from auto_iscsi.disks import scsi_commands
from auto_iscsi.machine.host import Host

_UNIT_ATTENTION = 6
_ATTEMPTS = 4  # a disk can report several unit attentions, each of them once
_NOT_READY = 2  # SPC-5, 4.4.8: the sense key
_CONDITIONS = {0x08: "busy", 0x18: "reservation conflict", 0x28: "task set full"}  # SAM-5, 5.3
_MEDIUM_ERRORS = {3: "medium error", 4: "hardware error"}  # by sense key
_CAUSES = {  # SPC-5, annex F: additional sense codes of a disk that is not ready
    (0x04, 0x01): "it is becoming ready",
    (0x04, 0x02): "it waits for a start command",
    (0x04, 0x03): "manual intervention is required",
    (0x04, 0x04): "it is being formatted",
    (0x04, 0x07): "an operation is in progress",
    (0x04, 0x09): "a self-test is in progress",
    (0x04, 0x0A): "the path changes its state (ALUA)",
    (0x04, 0x0B): "the path is in standby (ALUA)",
    (0x04, 0x0C): "the path is unavailable (ALUA)",
    (0x04, 0x12): "the volume is offline",
    (0x04, 0x1B): "the volume is offline on purpose",
    (0x3A, 0x00): "it has no medium",
}


def why_not_ready(host: Host, node: str) -> str | None:
    """Return why /dev/`node` cannot be read, "" when it can; None when that cannot be told.

    TEST UNIT READY, and then READ of the first block: a disk that another host has reserved, or
    whose medium is broken, is ready all the same.
    """
    size = host.read(f"/sys/block/{node}/queue/logical_block_size") or "512"
    commands = [
        (bytes(6), 0),
        (bytes((0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0)), int(size) if size.isdecimal() else 512),
    ]
    for command, length in commands:
        for _ in range(_ATTEMPTS):
            reply = scsi_commands.exchange(host, node, command, length)
            if not reply or _sense_code(reply.sense)[0] != _UNIT_ATTENTION:
                break
        # Linux takes a reservation conflict for a failure of the transport, too.
        if reply and (reason := describe(reply)):
            return reason
        if reply is None or reply.failed or reply.status:
            return None
    return ""


def describe(reply: scsi_commands.Reply) -> str:
    """Return in SCSI's words why a disk cannot be read now, "" for any other answer."""
    if reply.status in _CONDITIONS:
        return _CONDITIONS[reply.status]
    key, *code = _sense_code(reply.sense)
    if key == _NOT_READY:
        cause = _CAUSES.get((code[0], code[1]), "no known cause")
        return f"not ready: {cause}, sense {key:x}/{code[0]:02x}/{code[1]:02x}"
    if key in _MEDIUM_ERRORS:
        return f"{_MEDIUM_ERRORS[key]}, sense {key:x}/{code[0]:02x}/{code[1]:02x}"
    return ""


def _sense_code(sense: bytes) -> tuple[int, int, int]:
    """Return sense key and additional sense code with qualifier (SPC-5, 4.4); zeros for none."""
    form = sense[0] & 0x7F if len(sense) >= scsi_commands.SENSE else 0
    if form in (0x70, 0x71):  # of fixed format
        return sense[2] & 0xF, sense[12], sense[13]
    if form in (0x72, 0x73):  # with descriptors
        return sense[1] & 0xF, sense[2], sense[3]
    return 0, 0, 0
