"""Mount iSCSI snapshots by name, on demand, under autofs."""

__version__ = "0.1.0"
