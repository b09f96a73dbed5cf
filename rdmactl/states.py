# SPDX-License-Identifier: Apache-2.0
"""The one rule of the state tables: a pair that a table has no row for is a defect, and raises. Engine ring.

Not here: the tables, each next to the engine it belongs to (`..._states.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

from rdmactl.errors import LocalError

__all__ = ["advance"]

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)


def advance(table: Mapping[tuple[S, E], S], state: S, event: E) -> S:
    """The next state; LocalError (code "internal") if the event cannot happen in this state."""
    try:
        return table[state, event]
    except KeyError:
        raise LocalError(f"{event} cannot happen in {state}", code="internal") from None
