"""What is installed in the guest?

A Debian of the wanted suite with its own kernel, as a raw ext4 filesystem without a partition
table: mmdebstrap makes the directory, `mke2fs -d` the filesystem. Nothing of the project and no
configuration is in it (the initrd brings those), so it is rebuilt only when this list changes.
What costs time is left out: documentation, the drivers of hardware that no guest has, and the
distribution's initrd.
"""

from __future__ import annotations

import lzma
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from . import apt, cache, progress

PACKAGES = """
    systemd systemd-sysv udev dbus kmod busybox-static linux-image-amd64 passwd login bash less
    open-iscsi autofs multipath-tools lvm2 thin-provisioning-tools cryptsetup-bin mdadm nftables
    iproute2 procps strace util-linux mount e2fsprogs xfsprogs btrfs-progs dosfstools ntfs-3g
    exfatprogs parted gdisk fdisk cron rpm rsync openssh-server samba samba-vfs-modules
    smbclient python3
    python3-configobj python3-sh python3-pyudev python3-rtslib-fb tzdata
""".split()

NO_DRIVERS = """
    ata bluetooth comedi edac firewire gpu hwmon iio infiniband input isdn media mmc mtd net
    platform staging thunderbolt usb
""".split()

EXCLUDED = [
    *(f"*/lib/modules/*/kernel/drivers/{name}/*" for name in NO_DRIVERS),
    *(f"*/lib/modules/*/kernel/{name}/*" for name in ("sound", "net/wireless", "net/mac80211")),
    "/usr/share/doc/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
]

APT = {
    "Acquire::Languages": "none",
    "APT::Install-Recommends": "false",
    # Archives of a fixed day, as some hosts use them, are long out of date by their own word.
    "Acquire::Check-Valid-Until": "false",
    "Acquire::Check-Date": "false",
}

#: What the initrd loads to find the disk, and the agent to find its port.
MODULES = ["virtio_pci", "virtio_blk", "virtio_console", "crc32c_generic", "ext4"]

SIZE = "3G"
SUITE = "bookworm"


def suite() -> str:
    """Return the guest's suite, from BED_SUITE."""
    return os.environ.get("BED_SUITE") or SUITE


def proxy() -> dict[str, str]:
    """Return the host's apt settings for proxies, which a chroot's apt would not see."""
    found = {}
    for name in ("Acquire::http::Proxy", "Acquire::https::Proxy"):
        argv = ["apt-config", "shell", "X", name]
        text = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
        if value := text.strip().removeprefix("X='").removesuffix("'"):
            found[name] = value
    return found


def command(wanted: str, directory: Path, more: Sequence[str] = ()) -> list[str]:
    """Return the mmdebstrap call; the archives are on its stdin."""
    settings = [f'--aptopt={name} "{value}"' for name, value in {**APT, **proxy()}.items()]
    # The kernel's postinst asks INITRD, the trigger asks this file.
    no_initrd = (
        'mkdir -p "$1/etc/initramfs-tools" && '
        'echo update_initramfs=no > "$1/etc/initramfs-tools/update-initramfs.conf"'
    )
    return [
        "mmdebstrap",
        "--mode=root",
        "--variant=apt",
        "--include=" + ",".join([*PACKAGES, *more]),
        *settings,
        "--dpkgopt=force-unsafe-io",
        "--dpkgopt=force-confold",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED),
        f"--essential-hook={no_initrd}",
        wanted,
        str(directory),
        "-",
    ]


def build(wanted: str, place: Path, more: Sequence[str] = ()) -> None:
    """Build a suite's image: root.raw, its kernel, its modules and busybox for the initrd.

    more: packages that are to be there besides PACKAGES.
    """
    log, directory = place / "log", place / "root"
    archives = "\n".join(apt.entries(wanted)) + "\n"
    environment = {**os.environ, "INITRD": "No", "LC_ALL": "C.UTF-8"}
    progress.run(
        command(wanted, directory, more),
        f"installing Debian {wanted} for the guest",
        log=log,
        stdin=archives.encode(),
        environment=environment,
    )
    # This host's archives and resolver are none of the guest's business. Not written to in place:
    # resolv.conf can be a link to the host's own.
    for name in ("etc/apt/sources.list", "etc/resolv.conf"):
        (directory / name).unlink(missing_ok=True)
    raw = place / "root.raw"
    progress.run(
        [
            "mke2fs",
            "-q",
            "-F",
            "-t",
            "ext4",
            "-O",
            "^has_journal,^metadata_csum",
            "-E",
            "lazy_itable_init=1,root_owner=0:0",
            "-d",
            directory,
            raw,
            SIZE,
        ],
        "making the guest's disk",
        log=log,
    )
    kernel = max((directory / "boot").glob("vmlinuz-*"))
    shutil.copy(kernel, place / "vmlinuz")
    release = kernel.name.removeprefix("vmlinuz-")
    (place / "modules").mkdir()
    for number, module in enumerate(load_order(directory / "lib/modules" / release)):
        name = module.name.partition(".")[0]
        (place / "modules" / f"{number:02}-{name}.ko").write_bytes(plain(module))
    shutil.copy(directory / "bin/busybox", place / "busybox")
    raw.chmod(0o400)
    shutil.rmtree(directory)


def load_order(modules: Path) -> list[Path]:
    """Return the initrd's modules, each after those that it depends on (modules.dep(5))."""
    depends = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, before = line.partition(":")
        depends[Path(path).name.partition(".")[0]] = (path, before.split())
    order: list[str] = []
    for name in MODULES:
        if name in depends:  # otherwise it is built in
            last, first = depends[name]
            order += [each for each in (*reversed(first), last) if each not in order]
    return [modules / path for path in order]


def plain(module: Path) -> bytes:
    """Return a module's content; busybox cannot load compressed ones."""
    data = module.read_bytes()
    return lzma.decompress(data) if module.suffix == ".xz" else data


def image(wanted: str) -> Path:
    """Return the directory of a suite's image, built if need be."""
    name = cache.key(wanted, Path(__file__).read_bytes())
    return cache.entry("image", f"{wanted}-{name}", lambda place: build(wanted, place))
