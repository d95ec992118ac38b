"""The administrator's command line: verbs, reports, checks."""
