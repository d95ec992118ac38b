"""A virtual machine with a SAN inside, for tests with the real programs.

`layers` has the saved states from which a test's machine is resumed, `machine` what a test can ask
of it, `san` the targets of the SAN. `image`, `initrd`, `qemu`, `channel` and guest/ make that work.
"""
