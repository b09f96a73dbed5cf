# SPDX-License-Identifier: Apache-2.0
"""JSON of the native commands: one envelope for all. Face ring.

Every object has `schema` (the command's name) and `schema_version`: fields may be added under the same version; a
field that changes its meaning or goes away raises it. A failed command prints its `error` in the same envelope, and
its sentence on standard error all the same.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from rdmactl.errors import RdmactlError

__all__ = ["error_json", "print_json"]

SCHEMA_VERSION = 1


def print_json(schema: str, body: dict[str, Any]) -> None:
    """Print one object."""
    print(json.dumps({"schema": schema, "schema_version": SCHEMA_VERSION, **body}, indent=2))


def error_json(error: RdmactlError) -> dict[str, Any]:
    """An error as programs read it."""
    return {"code": error.code, "message": error.message, "hint": error.hint}
