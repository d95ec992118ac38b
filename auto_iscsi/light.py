"""What does a warm lookup use, where the standard library's own would cost more than all the rest?

automount runs the map program for every visit, and to find what is there already takes less time
than to start Python. typing, contextlib, collections and signal would double that: they bring in
re, functools and enum; socket, which a login needs, selectors and more. os itself takes a fifth of
Python's start, for the part of it that is not C. So a type checker sees those, and at run time
these few lines do what is needed of them. A name `TYPE_CHECKING` is true to
type checkers, whatever it is.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False

if TYPE_CHECKING:
    import os as os
    import signal as signal
    import socket as socket
    import stat as stat
    import struct as struct
    from array import array as array
    from contextlib import contextmanager as contextmanager
    from contextlib import suppress as suppress
    from typing import NamedTuple as NamedTuple
else:
    import _signal as signal  # noqa: F401 (what signal makes enums of)
    import _stat as stat
    from _collections import _tuplegetter

    class NamedTuple(tuple):
        """A tuple whose members have names: typing's, but for what introspects it."""

        __slots__ = ()

        def __init_subclass__(cls):
            cls._fields = tuple(cls.__annotations__)
            given = cls.__dict__
            cls._field_defaults = {name: given[name] for name in cls._fields if name in given}
            for number, name in enumerate(cls._fields):
                setattr(cls, name, _tuplegetter(number, None))

        def __new__(cls, *values, **named):
            if named or len(values) != len(cls._fields):
                first = dict(zip(cls._fields, values))
                every = {**cls._field_defaults, **first, **named}
                twice = len(values) > len(cls._fields) or not first.keys().isdisjoint(named)
                if twice or every.keys() != set(cls._fields):
                    raise TypeError(f"{cls.__name__} takes {', '.join(cls._fields)}")
                values = [every[name] for name in cls._fields]
            return tuple.__new__(cls, values)

        @classmethod
        def _make(cls, values):
            return cls(*values)

        def _asdict(self):
            return dict(zip(self._fields, self))

        def _replace(self, **named):
            return type(self)(**{**self._asdict(), **named})

        def __repr__(self):
            said = ", ".join(f"{name}={value!r}" for name, value in self._asdict().items())
            return f"{type(self).__name__}({said})"

    def __getattr__(name):  # what is not for all that want something of these
        if name == "socket":
            import _socket

            return _socket
        if name == "struct":
            import _struct

            return _struct
        if name == "array":
            return _array()
        raise AttributeError(name)

    class _Path:
        """What we use of os.path."""

        def __getattr__(self, name):
            import posixpath

            return getattr(posixpath, name)

        def basename(self, path):
            return path[path.rfind("/") + 1 :]

        def dirname(self, path):
            folder = path[: path.rfind("/") + 1]
            return folder.rstrip("/") or folder

        def join(self, folder, name):
            if name.startswith("/"):
                return name
            return folder + name if not folder or folder.endswith("/") else f"{folder}/{name}"

        def isdir(self, path):
            try:
                return stat.S_ISDIR(os.stat(path).st_mode)
            except OSError:
                return False

        def samestat(self, one, other):
            return (one.st_ino, one.st_dev) == (other.st_ino, other.st_dev)

    def _os():
        """Return os: its calls to the system, what we use of os.path, and the rest on demand."""
        import posix

        def rest(name):
            if name == "environ":  # to be read
                words = (word.decode("utf-8", "surrogateescape") for pair in there for word in pair)
                return dict(zip(words, words))
            import os

            return getattr(os, name)

        found = type(sys)("os")
        found.__dict__.update(
            (name, value) for name, value in posix.__dict__.items() if name[:2] != "__"
        )
        there = found.__dict__.pop("environ").items()  # of bytes
        found.path, found.__getattr__ = _Path(), rest
        return found

    os = sys.modules.get("os") or _os()

    def _array():
        """Return array.array; as it comes it brings in collections, only to be registered there.

        It is not, unless they are there: nobody here asks whether one is a MutableSequence.
        """
        missing = {"collections", "collections.abc"} - sys.modules.keys()
        sys.modules.update(dict.fromkeys(missing, _Register))
        try:
            import array
        finally:
            for module in missing:
                del sys.modules[module]
        return array.array

    class _Register:
        """What module array takes for collections.abc."""

        class MutableSequence:
            @staticmethod
            def register(kind):
                return kind

    class _Generated:
        def __init__(self, steps):
            self._steps = steps

        def __enter__(self):
            return next(self._steps)

        def __exit__(self, kind, error, trace):
            if error is None:
                next(self._steps, None)
                return False
            try:
                self._steps.throw(error)
            except StopIteration:  # it is through: the error was caught within
                return True
            except BaseException as raised:
                if raised is not error:
                    raise
            return False

    def contextmanager(function):
        """Make a context manager of a generator function that yields once."""
        return lambda *values, **named: _Generated(function(*values, **named))

    class suppress:
        """Go on after a block that one of these exceptions ended."""

        def __init__(self, *kinds):
            self._kinds = kinds

        def __enter__(self):
            return None

        def __exit__(self, kind, error, trace):
            return kind is not None and issubclass(kind, self._kinds)
