"""How are examples made up? A busy machine is no failure: nothing here asserts a time."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")
