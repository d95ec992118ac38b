"""Open and account for iSCSI sessions: node records, discovery, login, CHAP, claims."""
