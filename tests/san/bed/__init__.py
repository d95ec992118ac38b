"""A machine with a SAN inside, for tests that believe nothing they have not seen.

`layers` has the states that a test's machine is resumed from, `machine` what can be asked of it,
`san` what targets it can have. `image`, `initrd`, `qemu`, `channel` and guest/ make that possible.
"""
