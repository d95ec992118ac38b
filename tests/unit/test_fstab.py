"""A stranger's fstab: what is read of it, and what is never taken from it?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auto_iscsi.volumes import fstab

DEBIAN = rb"""# /etc/fstab: static file system information.
UUID=0a1b-2C   /boot/efi	vfat umask=0077 0 1
   LABEL=my\040disk /srv/my\040data   ext4
/dev/mapper/vg0-root / xfs defaults,x-systemd.requires=/boot 0 0

nonsense
# UUID=x /x ext4 defaults
UUID=x /home btrfs defaults,subvol=@home,subvolid=257 0 0
"""


def test_an_fstab_is_read() -> None:
    efi, data, root, home = fstab.parse(DEBIAN)
    assert (efi.what, efi.point, efi.fstype) == ("UUID=0a1b-2C", "/boot/efi", "vfat")
    assert (data.what, data.point, data.options) == ("LABEL=my disk", "/srv/my data", ())
    assert root.point == "/" and not root.subvolume and not root.why_left_out
    assert home.subvolume == ("subvol=@home", "subvolid=257")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("UUID=x none swap sw", "swap space"),
        ("UUID=x /tmp tmpfs defaults", "tmpfs"),
        ("nas:/export /mnt nfs4 defaults", "on the network"),
        ("nas:/export /mnt auto defaults", "on the network"),
        ("//nas/share /mnt cifs defaults", "on the network"),
        ("/home /mnt none bind", "a bind mount"),
        ("/home /mnt auto rbind", "a bind mount"),
        ("UUID=x /mnt ext4 noauto,user", "noauto"),
        ("UUID=x /srv/../etc ext4 defaults", "its path leads through . or .."),
        ("UUID=x mnt ext4 defaults", "no absolute path"),
        (r"UUID=x /a\040b ext4 defaults", "automount cannot take its name"),
        ('UUID=x /a"b ext4 defaults', "automount cannot take its name"),
        ("UUID=x /$HOST ext4 defaults", "automount cannot take its name"),
        (r"UUID=x /a\134b ext4 defaults", "automount cannot take its name"),
        ("UUID=x /* ext4 defaults", "automount cannot take its name"),
        ("UUID=x /& ext4 defaults", "automount cannot take its name"),
        (r"UUID=x /a\012b ext4 defaults", "automount cannot take its name"),
        ("UUID=x /x btrfs subvol=../y", "its subvolume has a name that cannot be passed on"),
        ("UUID=x /x btrfs subvol=a:b", "its subvolume has a name that cannot be passed on"),
        ("UUID=x /x btrfs subvolid=1x", "its subvolume has a name that cannot be passed on"),
        ("UUID=x /x btrfs subvolrootid=5", "its subvolume has a name that cannot be passed on"),
    ],
)
def test_what_a_server_does_not_mount_from_its_disk_is_left_out(line: str, why: str) -> None:
    (entry,) = fstab.parse(line.encode())
    assert entry.why_left_out == why


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("UUID=ABCD-12", ["UUID=abcd-12"]),
        ('UUID="ABCD-12"', ["UUID=abcd-12"]),
        ("LABEL=Data", ["LABEL=Data"]),
        ("PARTUUID=AB-01", ["PARTUUID=ab-01"]),
        ("PARTLABEL=EFI system", ["PARTLABEL=EFI system"]),
        ("/dev/disk/by-uuid/AB", ["UUID=ab"]),
        (r"/dev/disk/by-label/my\x20disk", ["LABEL=my disk"]),
        ("/dev/disk/by-id/dm-name-vg0-root", ["/dev/mapper/vg0-root"]),
        ("/dev/vg0/root", ["/dev/vg0/root"]),
        ("/dev//vg0//root", ["/dev/vg0/root"]),
        ("UUID=", []),
        ("overlay", []),
    ],
)
def test_the_ways_to_name_a_filesystem(what: str, names: list[str]) -> None:
    assert fstab.names_of(what) == names


def test_hyphens_in_the_names_of_logical_volumes() -> None:
    assert fstab.volume_names("my-vg", "a-b") == ("/dev/my-vg/a-b", "/dev/mapper/my--vg-a--b")


@given(st.binary(max_size=2000) | st.text(max_size=2000).map(lambda text: text.encode("utf-8")))
def test_no_input_yields_what_automount_would_read_otherwise(data: bytes) -> None:
    for entry in fstab.parse(data):
        fstab.names_of(entry.what)
        if not entry.why_left_out:
            words = (entry.point, *entry.subvolume)
            assert not set("".join(words)) & set(" \t\n\r\"'\\*&$,;#:")
            assert entry.point.startswith("/") and ".." not in entry.point.split("/")


def test_an_endless_fstab_has_an_end() -> None:
    assert len(fstab.parse(b"UUID=x / ext4\n" * 100_000)) == fstab.MOST
