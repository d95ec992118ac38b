"""Names and dates of the snapshots that a SAN has."""
