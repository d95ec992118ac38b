"""Files of snapshots, by volume and time: read them, compare them."""
