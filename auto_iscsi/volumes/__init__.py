"""Find what is on a disk, and whether and how it can be mounted."""
