"""Turn a key into a map entry: the program that automount runs."""
