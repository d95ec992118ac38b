"""Access to the host: files, mounts, udev events, child processes."""
