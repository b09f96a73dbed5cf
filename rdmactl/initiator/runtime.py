# SPDX-License-Identifier: Apache-2.0
"""What the kernel cannot tell of a session, kept where it outlives the daemon and not the boot. Shell ring.

The kernel knows names, addresses, credentials and its own timers; it does not know which CHAP algorithms, digests and
sizes to offer, how long a login may take, whether LUNs are scanned, which network device a connection leaves by, or who
wants the session. A daemon that takes sessions over after `kill -9` needs all that for the next relogin or logout. One
small file per session, written when it is logged in and when its claims change; /run is a tmpfs, so that this never
waits for a disk that may be one of these sessions' own.

Two things are not kept, because they need not be. The ISID follows from the session's number (`params.isid`). Which
endpoint an iser session holds goes stale with every reconnect; `Kernel` finds those that nobody knows by their absence.

No secrets: those come from sysfs, which only root may read. A file that does not fit the session it is named after
(another target or portal: numbers begin again with each boot) is ignored and replaced.

Not here: what to do with a session that is found (`adoption.py`, `service.py`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from dataclasses import fields, replace
from typing import Any, NamedTuple

from rdmactl.initiator.api import ChapSettings, LoginRequest, SessionSettings
from rdmactl.initiator.claims import ADMINISTRATOR, Claims, checked
from rdmactl.initiator.params import adopted_request
from rdmactl.initiator.sysfs import SessionView
from rdmactl.iscsi.errors import IscsiFailure
from rdmactl.iscsi.portal import Portal

__all__ = ["Kept", "RuntimeRecords"]

log = logging.getLogger(__name__)

_VERSION = 1
_FILE_MAX_BYTES = 65536
_REQUEST_KEYS = ("tpgt", "initiator_name", "netdev", "source_address", "hw_address", "sessions_wanted")


class Kept(NamedTuple):
    """What is known of a session besides the kernel's account."""

    request: LoginRequest
    claims: Claims


class RuntimeRecords:
    """The files in one directory."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def save(self, sid: int, request: LoginRequest, claims: Claims) -> None:
        """Keep what `request` asked for, and for whom. A failure is logged: the session itself is well."""
        path = self._path(sid)
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(json.dumps({**_to_json(request), "claims": list(claims)}))
            os.replace(f"{path}.new", path)
        except OSError as error:
            log.warning("settings of session %d are not kept for a restart: %s: %s", sid, path, error.strerror)

    def load(self, view: SessionView) -> Kept | None:
        """What a session was asked for with, and by whom; None when that is not known. Secrets are the kernel's."""
        try:
            with open(self._path(view.sid), encoding="utf-8") as file:
                return _from_json(json.loads(file.read(_FILE_MAX_BYTES)), view)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, IscsiFailure) as error:
            log.warning("the settings kept for session %d cannot be used: %s", view.sid, type(error).__name__)
            return None

    def forget(self, sid: int) -> None:
        """The session is gone."""
        with contextlib.suppress(OSError):
            os.unlink(self._path(sid))

    def sweep(self, present: set[int]) -> None:
        """Remove what belongs to no session."""
        with contextlib.suppress(OSError):
            for name in os.listdir(self._directory):
                number = name.partition(".")[0]
                if number.isdigit() and int(number) not in present:
                    os.unlink(f"{self._directory}/{name}")

    def _path(self, sid: int) -> str:
        return f"{self._directory}/{sid}.json"


def _to_json(request: LoginRequest) -> dict[str, Any]:
    settings = {each.name: getattr(request.settings, each.name) for each in fields(SessionSettings)}
    settings["chap"] = {"algorithms": request.settings.chap.algorithms}
    return {
        "version": _VERSION,
        "target": request.target,
        "portal": [request.portal.address, request.portal.port],
        "iface_name": request.iface_name,
        "transport": request.transport,
        "settings": settings,
        **{name: getattr(request, name) for name in _REQUEST_KEYS},
    }


def _from_json(kept: dict[str, Any], view: SessionView) -> Kept | None:
    """None when it is about another session, or of another version. ValueError and the like when it is damaged."""
    known = adopted_request(view)
    about = (kept["target"], Portal(*kept["portal"]), kept["iface_name"], kept["transport"])
    if kept["version"] != _VERSION or about != (known.target, known.portal, known.iface_name, known.transport):
        return None
    found, algorithms = dict(kept["settings"]), kept["settings"]["chap"]["algorithms"]
    chap: ChapSettings = replace(known.settings.chap, algorithms=tuple(str(name) for name in algorithms))
    defaults = SessionSettings()
    values = {
        each.name: _like(found[each.name], getattr(defaults, each.name))
        for each in fields(SessionSettings)
        if each.name in found and each.name != "chap"
    }
    rest = {name: _like(kept[name], getattr(known, name)) for name in _REQUEST_KEYS}
    claims = tuple(checked(name) for name in _like(kept.get("claims", []), []))
    request = replace(known, settings=replace(defaults, chap=chap, **values), **rest)
    return Kept(request, claims or (ADMINISTRATOR,))


def _like(value: Any, example: Any) -> Any:
    """`value`, which must be of the type of `example`, a whole number may stand for any; ValueError."""
    if type(value) is not type(example) and not (type(value) is int and type(example) is float):
        raise ValueError
    return type(example)(value)
