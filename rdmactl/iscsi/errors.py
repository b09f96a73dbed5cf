# SPDX-License-Identifier: Apache-2.0
"""The failures of iSCSI sessions and discoveries, numbered as open-iscsi numbers them. Engine ring.

Programs compare these numbers (they are iscsiadm's exit status) and people search for the texts, so neither ever
changes. Not here: which failure ends which command with which status (`rdmactl.cli.errors`).
Defined by open-iscsi's include/iscsi_err.h and the texts iscsiadm 2.1.8 prints for them.
"""

from enum import IntEnum

from rdmactl.errors import RdmactlError

__all__ = ["IscsiErr", "IscsiFailure"]


class IscsiErr(IntEnum):
    """Result of an operation; `text` is what iscsiadm prints for it."""

    text: str

    def __new__(cls, value: int, text: str) -> "IscsiErr":
        member = int.__new__(cls, value)
        member._value_ = value
        member.text = text
        return member

    SUCCESS = 0, "success"
    ERR = 1, "unknown error"
    SESS_NOT_FOUND = 2, "session not found"
    NOMEM = 3, "no available memory"
    TRANS = 4, "encountered connection failure"
    LOGIN = 5, "encountered iSCSI login failure"
    IDBM = 6, "encountered iSCSI database failure"
    INVAL = 7, "invalid parameter"
    TRANS_TIMEOUT = 8, "connection timed out"
    INTERNAL = 9, "internal error"
    LOGOUT = 10, "encountered iSCSI logout failure"
    PDU_TIMEOUT = 11, "iSCSI PDU timed out"
    TRANS_NOT_FOUND = (
        12,
        "iSCSI driver not found. Please make sure it is loaded, and retry the operation",
    )
    ACCESS = 13, "daemon access denied"
    TRANS_CAPS = 14, "iSCSI driver does not support requested capability."
    SESS_EXISTS = 15, "session exists"
    INVALID_MGMT_REQ = 16, "Unknown request"
    ISNS_UNAVAILABLE = 17, "iSNS service not supported"
    ISCSID_COMM_ERR = 18, "could not communicate to iscsid"
    FATAL_LOGIN = 19, "encountered non-retryable iSCSI login failure"
    ISCSID_NOTCONN = 20, "could not connect to iscsid"
    NO_OBJS_FOUND = 21, "no objects found"
    SYSFS_LOOKUP = 22, "sysfs lookup failure"
    HOST_NOT_FOUND = 23, "host not found"
    LOGIN_AUTH_FAILED = 24, "iSCSI login failed due to authorization failure"
    ISNS_QUERY = 25, "iSNS query failed"
    ISNS_REG_FAILED = 26, "iSNS registration failed"
    OP_NOT_SUPP = 27, "operation not supported"
    BUSY = 28, "device or resource in use"
    AGAIN = 29, "operation failed but retry may succeed"
    UNKNOWN_DISCOVERY_TYPE = 30, "unknown discovery type"
    CHILD_TERMINATED = 31, "child process terminated"
    SESSION_NOT_CONNECTED = 32, "target likely not connected"
    REQ_TIMEDOUT = 33, "iscsid request timed out"


class IscsiFailure(RdmactlError):
    """An iSCSI operation failed; `err` classifies it, the message names target and portal and says what happened.

    `code` tells causes apart where one number stands for several: "refused" (nobody listens), "silent" (no answer to
    the connection), "unanswered" (a connection, and then no answer), "closed" (the peer ended it), "rdma" (any of these
    over RDMA), "unresolved" (a name without address), "iscsi-chap" (authentication did not come about), and other codes
    that begin with "iscsi-", for a target that does what it must not; else "iscsi".
    """

    code = "iscsi"

    def __init__(self, err: IscsiErr, message: str, *, hint: str | None = None, code: str | None = None) -> None:
        super().__init__(message, hint=hint, code=code)
        self.err = err
