"""Find the disks of a session, and read what the kernel and udev know about them."""
