"""The administrator's command: its verbs, reports and checks."""
