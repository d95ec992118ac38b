"""Sessions: sysfs, node records, discovery, login, CHAP, iscsiadm, claims and their locks."""
