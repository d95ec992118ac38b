"""Find what is on a disk, select what to mount, and decide how it is mounted."""
