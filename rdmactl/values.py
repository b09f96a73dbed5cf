# SPDX-License-Identifier: Apache-2.0
"""`NamedTuple` for modules that front ends import. Engine ring.

The module typing, with the regular expressions it imports, costs a program a third of its start-up time. This class
does what typing.NamedTuple does for the type checker and for what is used here: construction, comparison and unpacking
as a tuple, defaults, `_replace`, `repr`. Not here: anything else; modules of daemons take the one of typing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple
else:

    class _Maker(type):
        """Makes the annotated names of a class body the fields of a tuple."""

        def __new__(cls, name, bases, body):
            if not bases:
                return super().__new__(cls, name, (tuple,), body)
            fields = tuple(body.get("__annotations__", ()))
            defaults = {field: body[field] for field in fields if field in body}
            getters = {field: property(lambda self, at=at: self[at]) for at, field in enumerate(fields)}
            body = {**body, **getters, "__slots__": (), "_fields": fields, "_defaults": defaults}
            return super().__new__(cls, name, bases, body)

    class NamedTuple(metaclass=_Maker):
        """See typing.NamedTuple."""

        __slots__ = ()

        def __new__(cls, *values, **named):
            fields = cls._fields
            if len(values) < len(fields):
                rest = {**cls._defaults, **named}
                values = (*values, *(rest.pop(field) for field in fields[len(values) :]))
                if not named.keys() <= set(fields):
                    raise TypeError(f"{cls.__name__} has no field {', '.join(named.keys() - set(fields))}")
            elif named or len(values) > len(fields):
                raise TypeError(f"{cls.__name__} has {len(fields)} fields")
            return tuple.__new__(cls, values)

        def _replace(self, **changes):
            return type(self)(**{**dict(zip(self._fields, self, strict=True)), **changes})

        def __repr__(self):
            shown = ", ".join(f"{field}={value!r}" for field, value in zip(self._fields, self, strict=True))
            return f"{type(self).__name__}({shown})"


__all__ = ["NamedTuple"]
