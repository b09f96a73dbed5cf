# SPDX-License-Identifier: Apache-2.0
"""What a target's refusal, or its silence, means to the person who wanted the login. Engine ring.

The status codes of a Login Response are coarse and targets use them loosely, so each sentence names target, portal and
what we sent, and the hint names the usual cause. Not here: when to try again (the owner decides; `retry` says whether
it could help). Defined by RFC 7143 section 11.13.5.
"""

from __future__ import annotations

from typing import NamedTuple

from rdmactl.iscsi.errors import IscsiErr, IscsiFailure
from rdmactl.iscsi.login_states import LoginState
from rdmactl.iscsi.portal import Portal

__all__ = ["STATUS_WORDS", "LoginFacts", "Verdict", "explain_loss", "explain_status"]

_CLASS_REDIRECTION = 1
_CLASS_INITIATOR = 2
_AUTHENTICATION_FAILED = 0x0201
_AUTHORIZATION_FAILED = 0x0202
_CHAP_SHA256 = 7

STATUS_WORDS = {
    0x0101: "target moved temporarily",
    0x0102: "target moved permanently",
    0x0200: "initiator error",
    0x0201: "authentication failed",
    0x0202: "authorization failed",
    0x0203: "target not found",
    0x0204: "target removed",
    0x0205: "protocol version not supported",
    0x0206: "too many connections",
    0x0207: "missing parameter",
    0x0208: "cannot include the connection in the session",
    0x0209: "session type not supported",
    0x020A: "session does not exist",
    0x020B: "invalid request during login",
    0x0300: "target error",
    0x0301: "service unavailable",
    0x0302: "out of resources",
}

_HINTS = {
    0x0202: "ask for this name in the target's access list",
    0x0203: "compare the name with a discovery; some targets say this when the access list lacks the initiator",
    0x0204: "the target was taken away; run a discovery again",
    0x0206: "another session of this host may still be there; log it out, or raise the target's limit",
    0x0207: "the target misses a key; it may not support this kind of session",
    0x0209: "the portal may serve only discovery, or only normal sessions",
    0x0300: "look at the target's log; trying again may help",
    0x0301: "the target is busy, starting, or not enabled on this portal; trying again may help",
    0x0302: "the target is out of memory or sessions; trying again later may help",
}

_LOSS_CAUSES = {
    LoginState.SECURITY: "the target name may be unknown, the portal group disabled, or this initiator not allowed",
    LoginState.CHAP_OFFER: "the target may know none of the CHAP algorithms offered",
    LoginState.CHAP_RESPONSE: "the CHAP user name or secret may be wrong",
    LoginState.OPERATIONAL: "the target may refuse one of the operational keys",
}
_LOSS_AT_ONCE = (
    "the target name may be unknown, the portal group disabled, this initiator not allowed, or CHAP demanded; "
    "some targets close the connection instead of saying so"
)


class LoginFacts(NamedTuple):
    """What the sentences need to know about a login. `target` is None in a discovery."""

    initiator_name: str
    target: str | None
    portal: Portal
    username: str | None = None
    algorithm: int | None = None  # of the CHAP response sent last
    keys: tuple[str, ...] = ()  # sent last
    first_request: bool = True  # nothing was answered yet

    @property
    def subject(self) -> str:
        """Who refused."""
        return f"portal {self.portal}" if self.target is None else f"target {self.target} at {self.portal}"

    @property
    def transient(self) -> IscsiErr:
        """The number iscsiadm gives to failures that outlast its retries."""
        return IscsiErr.PDU_TIMEOUT if self.target is None else IscsiErr.TRANS_TIMEOUT


class Verdict(NamedTuple):
    """One failure, explained. `retry`: trying again unchanged could help. `code`: see `IscsiFailure`."""

    err: IscsiErr
    message: str
    hint: str | None
    retry: bool
    code: str = IscsiFailure.code


def explain_status(status: int, facts: LoginFacts) -> Verdict:
    """The failure a status (class << 8 | detail) announces; not for classes 0 and usable redirections."""
    klass = status >> 8
    words = STATUS_WORDS.get(status, "unknown redirection" if klass == _CLASS_REDIRECTION else "unknown status")
    message = f"{facts.subject} refuses the login: {words} ({klass:02x}{status & 0xFF:02x})"
    if status == _AUTHENTICATION_FAILED:
        return Verdict(IscsiErr.LOGIN_AUTH_FAILED, *_authentication(message, facts), retry=False)
    if status == _AUTHORIZATION_FAILED:
        message += f", initiator name {facts.initiator_name}"
        return Verdict(IscsiErr.LOGIN_AUTH_FAILED, message, _HINTS[status], retry=False)
    if klass in (_CLASS_REDIRECTION, _CLASS_INITIATOR):
        return Verdict(IscsiErr.FATAL_LOGIN, message, _initiator_hint(status, facts), retry=False)
    return Verdict(facts.transient, message, _HINTS.get(status), retry=True)


def explain_loss(state: LoginState, what: str, facts: LoginFacts) -> Verdict:
    """The failure of a connection that ended (`what` says how) before the login did.

    LIO answers a refused login and ends the connection so fast that the answer is mostly lost over iSER; the stage then
    is the only clue.
    """
    cause = _LOSS_AT_ONCE if facts.first_request else _LOSS_CAUSES.get(state)
    message = f"{facts.subject}: {what} during login; sent last: {state.value}"
    return Verdict(facts.transient, message, cause, retry=True)


def _authentication(message: str, facts: LoginFacts) -> tuple[str, str]:
    if facts.username is None:
        return f"{message}; it demands CHAP, but no CHAP user and secret are configured", "set user name and password"
    return (
        f'{message}; CHAP user "{facts.username}" was sent',
        "the user name or secret is wrong, or the target has none for its own direction (mutual CHAP)",
    )


def _initiator_hint(status: int, facts: LoginFacts) -> str | None:
    if status == 0x0200 and facts.algorithm == _CHAP_SHA256:
        return (
            "some targets (tgt) take CHAP algorithm 7 for SHA-1 while it is SHA-256: "
            "remove SHA256 from the algorithms offered"
        )
    if status == 0x0200:
        return f"the target rejects the negotiation; sent last: {', '.join(facts.keys) or 'no keys'}"
    return _HINTS.get(status)
