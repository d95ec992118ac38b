"""The tree of a system, by the fstab on its root; directories stand in for filesystems."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auto_iscsi.disks.scsi_disks import Device
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import mountable, system, system_tree
from auto_iscsi.volumes.system_tree import Place, Tree, Volume
from tests.tree.tree import Content, Link, make_tree

ROOT = Volume("vg0-root", "xfs", frozenset({"UUID=root", "/dev/vg0/root"}))
BOOT = Volume("p2", "ext4", frozenset({"UUID=boot"}))
EFI = Volume("p1", "vfat", frozenset({"PARTUUID=efi"}))
VAR = Volume("vg0-var", "ext4", frozenset({"LABEL=var"}))
OWN = "UUID=root / xfs defaults\n"


def tree(folder: Path, volumes: list[Volume], *contents: dict[str, Content]) -> Tree:
    """Return the tree of these filesystems, each with its files."""
    for index, files in enumerate(contents):
        (folder / f"{index}").mkdir()
        make_tree(folder / f"{index}", files)

    def open_volume(index: int, subvolume: tuple[str, ...]) -> int:
        if subvolume == ("subvolid=5",):
            return os.open(folder / f"{index}", os.O_PATH)
        if not subvolume:
            return os.open(folder / f"{index}", os.O_PATH)
        return os.open(folder / f"{index}" / subvolume[0].partition("=")[2], os.O_PATH)

    return system_tree.work_out(volumes, open_volume)


def points(result: Tree) -> dict[str, int]:
    return {place.point: place.volume for place in result.places}


def test_the_tree_of_a_server(tmp_path: Path) -> None:
    table = f"{OWN}PARTUUID=EFI /boot/efi vfat\nUUID=boot /boot/ ext4\nLABEL=var //var ext4\n"
    result = tree(
        tmp_path,
        [EFI, BOOT, ROOT, VAR],
        {},
        {"/efi": None},
        {"/etc/fstab": table, "/boot": None, "/var": None},
        {"/lib": None},
    )
    assert list(points(result).items()) == [("/", 2), ("/boot", 1), ("/boot/efi", 0), ("/var", 3)]
    assert result.notes == ()


@pytest.mark.parametrize(
    ("line", "files", "note"),
    [
        ("LABEL=var /var ext4", {"/var": Link("/tmp")}, "/var (no directory there)"),
        ("LABEL=var /a/var ext4", {"/a": Link("b"), "/b/var": None}, "/a/var (no directory there)"),
        ("LABEL=var /var ext4", {}, "/var (no directory there)"),
        ("LABEL=var /var ext4", {"/var": "a file"}, "/var (no directory there)"),
        ("UUID=other /var ext4", {"/var": None}, "/var (UUID=other is not on this target)"),
        ("/dev/sda1 /var ext4", {"/var": None}, "/var (/dev/sda1 is not on this target)"),
        (
            "nas:/x /srv nfs\nLABEL=var /srv/var ext4",
            {"/srv/var": None},
            "/srv (on the network), /srv/var (below /srv, which is left out)",
        ),
        (
            "LABEL=var /var ext4\nLABEL=var /var ext4",
            {"/var": None},
            "/var (two entries have that mount point)",
        ),
    ],
)
def test_what_leads_elsewhere_is_left_out_and_named(
    tmp_path: Path, line: str, files: dict[str, Content], note: str
) -> None:
    result = tree(tmp_path, [ROOT, VAR], {"/etc/fstab": f"{OWN}{line}\n", **files}, {})
    assert points(result) == {"/": 0}
    assert note in result.notes[0]


def test_a_directory_of_a_member_has_to_be_in_the_member(tmp_path: Path) -> None:
    table = f"{OWN}UUID=boot /boot ext4\nPARTUUID=efi /boot/efi vfat\n"
    result = tree(
        tmp_path, [ROOT, BOOT, EFI], {"/etc/fstab": table, "/boot/efi": None}, {"/grub": None}, {}
    )
    assert points(result) == {"/": 0, "/boot": 1}
    assert result.notes == ("left out of its /etc/fstab: /boot/efi (no directory there)",)


def test_a_member_that_cannot_be_mounted_is_missing_alone(tmp_path: Path) -> None:
    table = f"{OWN}UUID=boot /boot ext4\nLABEL=var /var ext4\n"
    result = tree(  # nothing is there to open for /var
        tmp_path, [ROOT, BOOT, VAR], {"/etc/fstab": table, "/boot": None, "/var": None}, {}
    )
    assert points(result) == {"/": 0, "/boot": 1}
    assert "/var (LABEL=var cannot be mounted: no such file or directory)" in result.notes[0]


@pytest.mark.parametrize(
    ("first", "second"), [("/Var", "/var/lib/x"), ("/Var/lib/x", "/var"), ("/Var", "/var")]
)
def test_names_that_only_some_filesystems_tell_apart(
    tmp_path: Path, first: str, second: str
) -> None:
    """An ext4 can take /Var for /var: automount would go through the one to mount the other."""
    table = f"{OWN}UUID=boot {second} ext4\nLABEL=var {first} ext4\n"
    files: dict[str, Content] = {"/etc/fstab": table, "/Var/lib/x": None, "/var/lib/x": None}
    result = tree(tmp_path, [ROOT, BOOT, VAR], files, {}, {})
    assert points(result) == {"/": 0, first: 2}
    assert f"{second} (another entry has /Var)" in result.notes[0]


def test_what_the_fstab_does_not_name_is_named(tmp_path: Path) -> None:
    result = tree(tmp_path, [ROOT, VAR], {"/etc/fstab": OWN}, {})
    assert result.notes == ("not in its /etc/fstab, and left out: vg0-var",)


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, "no filesystem has an /etc/fstab"),
        ({"/etc": Link("/etc")}, "no filesystem has an /etc/fstab"),
        ({"/etc/fstab": Link("/etc/fstab")}, "no filesystem has an /etc/fstab"),
        ({"/etc/fstab": "x" * 70000}, "no filesystem has an /etc/fstab"),
        ({"/etc/fstab": ""}, "the /etc/fstab on vg0-root has 0 roots"),
        ({"/etc/fstab": 2 * OWN}, "the /etc/fstab on vg0-root has 2 roots"),
        (
            {"/etc/fstab": "/dev/sda2 / xfs"},
            "the /etc/fstab on vg0-root has /dev/sda2 as its root: not vg0-root",
        ),
        (
            {"/etc/fstab": "LABEL=var / xfs"},
            "the /etc/fstab on vg0-root has LABEL=var as its root: not vg0-root",
        ),
    ],
)
def test_what_is_no_root(tmp_path: Path, files: dict[str, Content], why: str) -> None:
    result = tree(tmp_path, [ROOT, VAR], files, {})
    assert (result.places, result.why_none, result.is_ambiguous) == ((), why, False)


def test_a_named_pipe_does_not_hold_it_up(tmp_path: Path) -> None:
    (tmp_path / "0" / "etc").mkdir(parents=True)
    os.mkfifo(tmp_path / "0" / "etc" / "fstab")
    assert tree(tmp_path, [ROOT]).why_none == "no filesystem has an /etc/fstab"


def test_of_two_systems_none_is_chosen(tmp_path: Path) -> None:
    other = "LABEL=var / ext4\n"
    result = tree(tmp_path, [ROOT, VAR], {"/etc/fstab": OWN}, {"/etc/fstab": other})
    assert result.is_ambiguous and result.why_none == "2 roots of a system, on vg0-root, vg0-var"


def test_the_copy_of_a_root_on_another_filesystem_is_none(tmp_path: Path) -> None:
    result = tree(tmp_path, [VAR, ROOT], {"/etc/fstab": OWN}, {"/etc/fstab": OWN})
    assert points(result) == {"/": 1}


def test_two_filesystems_with_one_name_are_none(tmp_path: Path) -> None:
    table = f"{OWN}LABEL=var /var ext4\n"
    result = tree(tmp_path, [ROOT, VAR, VAR], {"/etc/fstab": table, "/var": None}, {}, {})
    assert points(result) == {"/": 0}
    assert "/var (LABEL=var is ambiguous)" in result.notes[0]


def test_subvolumes_of_a_btrfs(tmp_path: Path) -> None:
    table = "UUID=root / btrfs subvol=@\nUUID=root /home btrfs subvol=@home,compress=zstd\n"
    volume = ROOT._replace(fstype="btrfs")
    result = tree(tmp_path, [volume], {"/@/etc/fstab": table, "/@/home": None, "/@home": None})
    assert result.places == (
        Place(0, "/", ("subvol=@",)),
        Place(0, "/home", ("subvol=@home",)),
    )


WORDS = (
    "UUID=root UUID=boot LABEL=var / /var /boot /link/x /../x ext4 xfs none swap bind noauto "
    "defaults subvol=@"
).split()


@given(st.lists(st.sampled_from([*WORDS, " ", "\n", "\n"]), max_size=60))
def test_no_table_leads_out_of_the_target(
    tmp_path_factory: pytest.TempPathFactory, words: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("t")
    table = OWN + " ".join(words)
    link: dict[str, Content] = {"/link": Link("/tmp"), "/var": None, "/boot/x": None}
    result = tree(folder, [ROOT, BOOT, VAR], {"/etc/fstab": table, **link}, {}, {})
    seen = points(result)
    assert seen.keys() <= {"/", "/var", "/boot"}
    assert seen.get("/", 0) == 0


@pytest.mark.parametrize(
    ("fstype", "ro", "is_safe"),
    [("ext4", "0", True), ("vfat", "0", True), ("f2fs", "0", False), ("f2fs", "1", True)],
)
def test_no_look_lets_the_kernel_write(tmp_path: Path, fstype: str, ro: str, is_safe: bool) -> None:
    make_tree(tmp_path, {"/sys/class/block/sdb1/ro": ro})
    filesystem = mountable.Filesystem("/p1", Device("sdb1", "", "8:17"), fstype, ("ro",))
    assert system.is_safe_to_look(Host(str(tmp_path)), filesystem) == is_safe
