"""Decide which sessions are no longer needed, and end them."""
