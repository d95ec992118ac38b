"""Make the guest's initrd, which also brings its configuration.

It replaces the distribution's: it loads a few modules, mounts the disk, copies FILES, LINKS and the
agent onto it, and starts systemd. So a change of the guest's configuration needs a boot, not a new
image. The format is cpio's `newc`, uncompressed.
"""

from __future__ import annotations

from pathlib import Path

GUEST = Path(__file__).parent / "guest"

INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc none /proc
/bin/busybox mount -t sysfs none /sys
/bin/busybox mount -t devtmpfs none /dev
for module in /modules/*.ko; do /bin/busybox insmod "$module"; done
while [ ! -e /dev/vda ]; do /bin/busybox sleep 0.05; done
/bin/busybox mount -t ext4 -o rw,noatime,discard /dev/vda /new || exec /bin/busybox sh
/bin/busybox cp -a /lay/. /new/
/bin/busybox mount --move /dev /new/dev
/bin/busybox umount /sys /proc
exec /bin/busybox switch_root /new /lib/systemd/systemd
"""

AGENT_UNIT = """[Unit]
Description=the test bed's agent
DefaultDependencies=no
After=systemd-udevd.service systemd-journald.socket
Conflicts=shutdown.target

[Service]
ExecStart=/usr/bin/python3 /usr/lib/bed/agent.py
KillMode=process
LimitNOFILE=65536
TasksMax=infinity
OOMScoreAdjust=-1000

[Install]
WantedBy=multi-user.target
"""

FILES = {
    "etc/fstab": "/dev/vda / ext4 rw,noatime,discard 0 0\n",
    "etc/hostname": "browse\n",
    "etc/hosts": "127.0.0.1 localhost browse\n::1 localhost\n",
    "etc/iscsi/initiatorname.iscsi": "InitiatorName=iqn.1993-08.org.debian:01:browse\n",
    "etc/systemd/journald.conf.d/bed.conf": (
        "[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\nRuntimeMaxUse=64M\n"
    ),
    # A machine as slow as this one needs longer to start a service.
    "etc/systemd/system.conf.d/bed.conf": "[Manager]\nDefaultTimeoutStartSec=300\n",
    "etc/systemd/system/bed-agent.service": AGENT_UNIT,
    "root/.bashrc": "PS1='root@browse:\\w# '\n",
}

#: Units that no test needs and that are slow under TCG; a test that needs multipathd starts it.
MASKED = """
    getty@tty1.service serial-getty@ttyS0.service console-getty.service getty.target
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer
    systemd-tmpfiles-clean.timer e2scrub_reap.service systemd-timesyncd.service
    systemd-pstore.service systemd-update-utmp.service systemd-update-utmp-runlevel.service
    systemd-hwdb-update.service systemd-random-seed.service systemd-networkd.service
    systemd-networkd-wait-online.service systemd-firstboot.service systemd-machine-id-commit.service
    ldconfig.service systemd-journal-catalog-update.service systemd-update-done.service
    multipathd.service multipathd.socket multipath-tools.service
    mdmonitor.service mdmonitor-oneshot.timer mdcheck_start.timer mdcheck_continue.timer
    lvm2-monitor.service blk-availability.service keyboard-setup.service console-setup.service
    systemd-logind.service smbd.service nmbd.service samba-ad-dc.service
    rtslib-fb-targetctl.service
""".split()

LINKS = {
    **{f"etc/systemd/system/{unit}": "/dev/null" for unit in MASKED},
    "etc/systemd/system/multi-user.target.wants/bed-agent.service": "../bed-agent.service",
    "etc/modules-load.d/multipath.conf": "/dev/null",
}


class Archive:
    """A cpio archive that grows."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.directories: set[str] = set()

    def entry(self, name: str, mode: int, content: bytes = b"") -> None:
        """Add one entry, after the directories above it."""
        above = name.rpartition("/")[0]
        if above and above not in self.directories:
            self.directory(above)
        numbers = [len(self.data) + 1, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        self.data += b"070701" + b"".join(b"%08x" % number for number in numbers)
        self.data += name.encode() + b"\0"
        self.data += b"\0" * (-len(self.data) % 4)
        self.data += content
        self.data += b"\0" * (-len(self.data) % 4)

    def directory(self, name: str) -> None:
        """Add a directory."""
        self.directories.add(name)
        self.entry(name, 0o040755)

    def file(self, name: str, content: bytes | str, mode: int = 0o644) -> None:
        """Add a file."""
        data = content.encode() if isinstance(content, str) else content
        self.entry(name, 0o100000 | mode, data)

    def link(self, name: str, to: str) -> None:
        """Add a symbolic link."""
        self.entry(name, 0o120777, to.encode())

    def closed(self) -> bytes:
        """Return the archive, after adding its end."""
        self.entry("TRAILER!!!", 0)
        return bytes(self.data)


def initrd(image: Path) -> bytes:
    """Return the initrd for an image."""
    archive = Archive()
    for name in ("proc", "sys", "dev", "new", "modules", "lay"):
        archive.directory(name)
    archive.file("init", INIT, 0o755)
    archive.file("bin/busybox", (image / "busybox").read_bytes(), 0o755)
    for module in sorted((image / "modules").iterdir()):
        archive.file(f"modules/{module.name}", module.read_bytes())
    for name, content in FILES.items():
        archive.file(f"lay/{name}", content)
    for name, to in LINKS.items():
        archive.link(f"lay/{name}", to)
    for path in sorted(GUEST.glob("*.py")):
        archive.file(f"lay/usr/lib/bed/{path.name}", path.read_bytes())
    return archive.closed()
