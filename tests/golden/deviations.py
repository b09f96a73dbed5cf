# SPDX-License-Identifier: Apache-2.0
"""Every case of the corpus that comes out otherwise than recorded, with its reason: one table.

docs/compatibility.md says the same in full; a test holds the two together. Not here: what is free in any case
(`compare.py`).
"""

from __future__ import annotations

__all__ = ["DELIBERATE", "ELSEWHERE", "NO_SUCH_FIXTURE", "reason"]

Table = dict[str, set[str]]

DELIBERATE: Table = {
    "iscsid.conf counts for new records also while no daemon runs, and nothing is said about the daemon": {
        "nodaemon-node-new",
        "nodaemon-node-show",
        "startup-true",
    },
    "iscsid.conf counts for new records of the interface iser as for every other": {"node-show-iser"},
    "the module of a transport is the daemon's business": {"nomodule-discovery"},
    "states of a session come from the kernel, not from the daemon": {"session-nodaemon-P1"},
    "a daemon that ends leaves all sessions, also those of its discovery daemon": {"kill-discoveryd"},
    "nonpersistent means that nothing is recorded, whatever else is asked": {"nonpersistent-new"},
    "a name that is too long is refused, not recorded in part": {
        "db-tree-odd",
        "node-list-P1-odd",
        "node-new-list",
    },
    "a value with a line feed is refused: it could set another key": {"value-newline"},
    "there is no lock file that could go stale": {"stale-lock"},
    "without root, one sentence says that the records cannot be opened": {
        "user-discoverydb",
        "user-iface",
        "user-node-nolockdir",
    },
    "an ordinary user sees sessions; what is only for root says so with status 13": {
        "user-session-live",
        "user-session-live-P1",
        "user-session-live-logout",
    },
    "what is written into the tree of files by hand is not read": {
        "file-bad-enum",
        "file-bad-enum-update",
        "file-byhand",
        "file-default",
        "file-empty",
        "file-example",
        "file-ifacename-mismatch",
        "file-ipv6key-in-v4",
        "file-longline",
        "file-noeq",
        "file-notransport",
        "file-unknown-key",
        "file-unknown-key-show",
        "file-unknownkey",
        "node-rec-missing-iface-file",
        "stray-file",
    },
}
"""What is better as it is here."""

NO_SUCH_FIXTURE = "a second kind of target, which the lab does not have"
"""Cases that are not even run: they would only wait for it."""

ELSEWHERE: Table = {
    "a program of open-iscsi's other than iscsiadm": {
        "iscsi-iname",
        "iscsi-iname-badopt",
        "iscsi-iname-help",
        "iscsi-iname-p",
        "iscsi-iname-p-noarg",
        "iscsi_discovery-noargs",
        "iscsid-badopt",
        "iscsid-help",
        "iscsid-noiname",
        "iscsid-second",
        "iscsid-version",
        "iscsistart-P",
        "iscsistart-Pbad",
        "iscsistart-b",
        "iscsistart-b-again",
        "iscsistart-b-none",
        "iscsistart-badopt",
        "iscsistart-f",
        "iscsistart-fw-none",
        "iscsistart-help",
        "iscsistart-manual",
        "iscsistart-missing",
        "iscsistart-noargs",
        "iscsistart-session-nodaemon",
        "iscsistart-session-u",
        "iscsistart-version",
        "session-nodb-logout",
    },
    NO_SUCH_FIXTURE: {
        "disc",
        "disc-acl-none",
        "login-absent",
        "login-acl-none",
        "login-all",
        "login-both",
        "session-P3-two-targets",
    },
}
"""What is not about this program, or cannot be set up in the lab."""


def reason(name: str) -> str | None:
    """Why a case comes out otherwise on a real kernel; None when it should not."""
    for title, table in (("deliberate", DELIBERATE), ("elsewhere", ELSEWHERE)):
        for words, names in table.items():
            if name in names:
                return f"{title}: {words}"
    return None
