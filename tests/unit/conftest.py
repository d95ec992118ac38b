"""Set hypothesis up: an example may take any time, because a busy machine is no failure."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")
