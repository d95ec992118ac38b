"""Ends the sessions that nobody needs any more."""
