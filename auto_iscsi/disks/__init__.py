"""Find the disks of a session, and what the kernel and udev know of them."""
