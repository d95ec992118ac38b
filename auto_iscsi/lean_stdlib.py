"""Cheap stand-ins for what a warm lookup uses of typing, contextlib, signal and socket.

automount starts the map program for every visit, and a warm lookup takes less time than the import
of typing (re, functools), contextlib (collections), signal (enum) or socket (selectors). At run
time modules import these names from here; a type checker sees those of the standard library. Where
CPython has no private module of that name, the standard library serves instead.
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers assume that a name TYPE_CHECKING is true

if TYPE_CHECKING:
    import signal as signal
    import socket as socket
    from contextlib import contextmanager as contextmanager
    from contextlib import suppress as suppress
    from typing import NamedTuple as NamedTuple
else:
    try:
        import _signal as signal
    except ImportError:
        import signal  # noqa: F401 (other modules import it from here)
    try:
        from _collections import _tuplegetter as _field
    except ImportError:
        from operator import itemgetter

        def _field(number, doc):
            return property(itemgetter(number), doc=doc)

    class NamedTuple(tuple):
        """typing.NamedTuple, without what only introspection uses."""

        __slots__ = ()

        def __init_subclass__(cls):
            cls._fields = tuple(cls.__annotations__)
            values = cls.__dict__
            cls._field_defaults = {name: values[name] for name in cls._fields if name in values}
            for number, name in enumerate(cls._fields):
                setattr(cls, name, _field(number, None))

        def __new__(cls, *values, **named):
            if named or len(values) != len(cls._fields):
                rest, defaults = cls._fields[len(values) :], cls._field_defaults
                try:
                    values += tuple([named.pop(n) if n in named else defaults[n] for n in rest])
                except KeyError:
                    values = ()
                if named or len(values) != len(cls._fields):
                    raise TypeError(f"{cls.__name__} takes {', '.join(cls._fields)}")
            return tuple.__new__(cls, values)

        @classmethod
        def _make(cls, values):
            return cls(*values)

        def _asdict(self):
            return dict(zip(self._fields, self))

        def _replace(self, **named):
            values = [named.pop(name, value) for name, value in zip(self._fields, self)]
            if named:
                raise ValueError(f"{type(self).__name__} has {', '.join(self._fields)}")
            return tuple.__new__(type(self), values)

        def __repr__(self):
            fields = ", ".join(f"{name}={value!r}" for name, value in self._asdict().items())
            return f"{type(self).__name__}({fields})"

    def __getattr__(name):
        """Import socket at its first use: a warm lookup opens none."""
        if name != "socket":
            raise AttributeError(name)
        try:
            import _socket as socket
        except ImportError:
            import socket
        return socket

    class _Context:
        """The context manager that contextmanager() makes of a generator."""

        def __init__(self, generator):
            self._generator = generator

        def __enter__(self):
            return next(self._generator)

        def __exit__(self, kind, error, trace):
            if error is None:
                next(self._generator, None)
                return False
            try:
                self._generator.throw(error)
            except StopIteration:  # the generator caught the error and ended
                return True
            except BaseException as raised:
                if raised is not error:
                    raise
            return False

    def contextmanager(function):
        """Make a context manager of a generator function that yields once."""
        return lambda *values, **named: _Context(function(*values, **named))

    class suppress:
        """Continue after a block that one of these exceptions ended."""

        def __init__(self, *kinds):
            self._kinds = kinds

        def __enter__(self):
            return None

        def __exit__(self, kind, error, trace):
            return kind is not None and issubclass(kind, self._kinds)
