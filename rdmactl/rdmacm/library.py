# SPDX-License-Identifier: Apache-2.0
"""The way to the compiled module, loaded late: a host without librdmacm can still use everything else. Shell ring.

Not here: any call of it. Built by `rdmactl/_cffi_build.py`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from rdmactl.rdmacm import failures

__all__ = ["Handle", "load"]

Handle = Any
"""A pointer to an object of one of the two libraries; cffi gives them no type a checker could see."""


def load() -> Any:
    """The module, with `lib` (functions) and `ffi` (memory); Unavailable when it or a library under it is missing."""
    try:
        return import_module("rdmactl._rdmacm")
    except ImportError:
        raise failures.no_library() from None
