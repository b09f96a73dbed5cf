# SPDX-License-Identifier: Apache-2.0
"""From a login request to the kernel's parameters and to the login engine's settings, and back. Shell ring, no I/O.

The kernel checks hardly any value (a signed decimal scan without range), so that they are put in range here.

Not here: reading records, sending (`kernel.py`), negotiation (`rdmactl.iscsi`).
"""

from __future__ import annotations

from rdmactl.errors import LocalError
from rdmactl.initiator.api import ChapSettings, LoginRequest, SessionSettings
from rdmactl.initiator.sysfs import SessionView
from rdmactl.iscsi.chap import ALGORITHMS, ChapCredentials, Secret
from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.iscsi.negotiation import NegotiatedParameters, OperationalSettings
from rdmactl.iscsi.portal import Portal
from rdmactl.netlink.iscsi import Param

__all__ = [
    "adopted_request",
    "after_login",
    "before_login",
    "credentials",
    "isid",
    "operational",
    "portal",
    "queue_depth",
]

Value = str | int | bool

_ISID_OUI = bytes.fromhex("00023d")  # Cisco's, as every open-iscsi initiator uses it; type 00 (OUI) in the top bits
_CHAP_NUMBERS = {name: number for number, (name, _) in ALGORITHMS.items()}
_MAX_QUEUE_DEPTH = 1024
_MAX_SECONDS = 0x7FFFFFFF


def isid(sid: int) -> bytes:
    """The 6-byte initiator session ID of a session: open-iscsi's, so that either can take over the other's sessions.

    It is the same for every login of a session, which makes the target end the old one, and differs between sessions.
    """
    return _ISID_OUI + (sid & 0xFFFFFF).to_bytes(3, "big")


def operational(settings: SessionSettings, notes: list[str]) -> OperationalSettings:
    """What the login offers; values moved into range are told in `notes`."""
    asked = OperationalSettings(
        header_digest=tuple(settings.header_digest.split(",")),
        data_digest=tuple(settings.data_digest.split(",")),
        max_recv_data_segment_bytes=settings.max_recv_data_segment_length,
        max_xmit_data_segment_bytes=settings.max_xmit_data_segment_length,
        initial_r2t=settings.initial_r2t,
        immediate_data=settings.immediate_data,
        max_burst_bytes=settings.max_burst_length,
        first_burst_bytes=settings.first_burst_length,
        max_outstanding_r2t=settings.max_outstanding_r2t,
        default_time2wait_s=settings.default_time2wait_s,
        default_time2retain_s=settings.default_time2retain_s,
        error_recovery_level=settings.error_recovery_level,
    )
    clamped, changes = asked.clamped()
    notes.extend(changes)
    return clamped


def credentials(chap: ChapSettings) -> ChapCredentials | None:
    """CHAP for a login, None when user name or password is missing; IscsiFailure for settings that cannot be safe."""
    if not chap.username or not chap.password:
        return None
    unknown = [name for name in chap.algorithms if name not in _CHAP_NUMBERS]
    if unknown:
        raise IscsiFailure(
            IscsiErr.INVAL,
            f"CHAP algorithm {unknown[0]} is not known",
            hint=f"use some of: {', '.join(_CHAP_NUMBERS)}",
        )
    try:
        return ChapCredentials(
            username=chap.username,
            secret=Secret(chap.password),
            username_in=chap.username_in or None,
            secret_in=Secret(chap.password_in) if chap.password_in else None,
            algorithms=tuple(_CHAP_NUMBERS[name] for name in chap.algorithms) or (_CHAP_NUMBERS["MD5"],),
        )
    except LocalError as error:
        raise IscsiFailure(IscsiErr.FATAL_LOGIN, error.message, hint=error.hint) from None


def queue_depth(settings: SessionSettings) -> int:
    """Commands per LUN as the kernel takes them; 0 is its own default."""
    return max(0, min(settings.queue_depth, _MAX_QUEUE_DEPTH))


def before_login(request: LoginRequest) -> list[tuple[Param, Value]]:
    """What the kernel wants to know of a session before its login. Strings that are empty are left out.

    Credentials are for whoever adopts the session later; the kernel itself never uses them.
    """
    s = request.settings
    strings: list[tuple[Param, Value]] = [
        (Param.TARGET_NAME, request.target),
        (Param.INITIATOR_NAME, request.initiator_name),
        (Param.IFACE_NAME, request.iface_name),
        (Param.USERNAME, s.chap.username),
        (Param.PASSWORD, s.chap.password),
        (Param.USERNAME_IN, s.chap.username_in),
        (Param.PASSWORD_IN, s.chap.password_in),
    ]
    numbers: list[tuple[Param, Value]] = [
        (Param.SESS_RECOVERY_TMO, max(-1, min(s.replacement_timeout_s, _MAX_SECONDS))),  # below zero: for ever
        (Param.FAST_ABORT, s.fast_abort),
        (Param.ABORT_TMO, _seconds(s.abort_timeout_s)),
        (Param.LU_RESET_TMO, _seconds(s.lu_reset_timeout_s)),
        (Param.TGT_RESET_TMO, _seconds(s.tgt_reset_timeout_s)),
        (Param.PING_TMO, _seconds(s.noop_out_timeout_s)),
        (Param.RECV_TMO, _seconds(s.noop_out_interval_s)),
    ]
    return [pair for pair in strings if pair[1]] + portal(request.portal) + numbers


def portal(configured: Portal) -> list[tuple[Param, Value]]:
    """Where a session belongs; it is connected elsewhere after a temporary redirection."""
    return [(Param.PERSISTENT_ADDRESS, configured.address), (Param.PERSISTENT_PORT, configured.port)]


def after_login(
    result: NegotiatedParameters, tpgt: int | None, exp_statsn: int, transport: str
) -> list[tuple[Param, Value]]:
    """What was negotiated, digests first: the target uses them from its last login response on."""
    params: list[tuple[Param, Value]] = [
        (Param.HDRDGST_EN, result.header_digest),
        (Param.DATADGST_EN, result.data_digest),
        (Param.MAX_RECV_DLENGTH, result.max_recv_data_segment_bytes),
        (Param.MAX_XMIT_DLENGTH, result.max_xmit_data_segment_bytes),
        (Param.INITIAL_R2T_EN, result.initial_r2t),
        (Param.MAX_R2T, _power_of_two(result.max_outstanding_r2t)),  # iscsi_tcp takes no other
        (Param.IMM_DATA_EN, result.immediate_data),
        (Param.FIRST_BURST, min(result.first_burst_bytes, result.max_burst_bytes)),
        (Param.MAX_BURST, result.max_burst_bytes),
        (Param.PDU_INORDER_EN, result.data_pdu_in_order),
        (Param.DATASEQ_INORDER_EN, result.data_sequence_in_order),
        (Param.ERL, result.error_recovery_level),
        (Param.EXP_STATSN, exp_statsn),
    ]
    if transport == "iser":
        params += [(Param.IFMARKER_EN, 0), (Param.OFMARKER_EN, 0)]
    if tpgt is not None:
        params.append((Param.TPGT, tpgt))
    return params


def adopted_request(view: SessionView) -> LoginRequest:
    """The request a session could have come from, as far as the kernel knows; of a half-made one, that is little.

    Whoever has not scanned it may have meant to: then nobody else does.
    """
    interface, timeouts, chap = view.interface(), view.timeouts(), view.chap()
    defaults = SessionSettings()
    recovery_s = defaults.replacement_timeout_s if timeouts.recovery_s is None else timeouts.recovery_s
    return LoginRequest(
        target=view.target,
        portal=view.persistent or Portal(""),
        tpgt=view.tpgt,
        iface_name=view.iface_name or "default",
        transport=view.transport,
        initiator_name=interface.initiator_name or "",
        settings=SessionSettings(
            chap=ChapSettings(chap.username or "", chap.password or "", chap.username_in or "", chap.password_in or ""),
            scan="manual" if view.target_state == "ALLOCATED" else defaults.scan,
            replacement_timeout_s=recovery_s,
            abort_timeout_s=_or(timeouts.abort_s, defaults.abort_timeout_s),
            lu_reset_timeout_s=_or(timeouts.lun_reset_s, defaults.lu_reset_timeout_s),
            tgt_reset_timeout_s=_or(timeouts.target_reset_s, defaults.tgt_reset_timeout_s),
        ),
    )


def _seconds(value: int) -> int:
    return max(0, min(value, _MAX_SECONDS))


def _power_of_two(value: int) -> int:
    return 1 << (max(1, value).bit_length() - 1)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
