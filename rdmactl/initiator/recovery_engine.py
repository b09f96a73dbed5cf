# SPDX-License-Identifier: Apache-2.0
"""When a lost session is tried again, and what else follows from what happens to it. Engine ring.

News go in with the time; actions for the owner and changes worth telling come out. The owner carries an action out and
reports back: `Goodbye` with GOODBYE_DONE, `Attempt` with LOGGED_IN, FAILED or POSTPONED.

Times of attempts. The first waits only for what the target asked for (DefaultTime2Wait, or its last word). Then pauses
double up to a limit, each shortened by up to half of it at random: hundreds of initiators that lost one array shall not
come back in step. TRY_NOW (a link, address or route has come, or another session has reached the portal) makes the next
attempt now, but never against Time2Wait, and not more often than every `least_between_s`, for routes can flap. A
session that is lost again soon after its return goes on with the pauses where it was: two initiators of one name
otherwise throw each other out without end (ISID in both), as fast as they can.

What is told: changes of state and new reasons. A repeated failure is a number (`attempts`).

Not here: what an attempt is (`login.py`), the states themselves (`recovery_states.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from rdmactl.initiator.recovery_states import TRANSITIONS, Event, State
from rdmactl.states import advance

__all__ = ["Action", "Attempt", "Goodbye", "News", "Policy", "Recovery", "Release", "Remove", "Rescan", "Told"]


@dataclass(frozen=True, slots=True)
class Policy:
    """Of one session. `replacement_s`: negative is never. `reopen_max`: 0 is for ever."""

    reopen_max: int = 0
    replacement_s: float = 120.0
    goodbye_s: float = 15.0
    rescan: bool = True
    first_pause_s: float = 0.5
    longest_pause_s: float = 30.0
    least_between_s: float = 0.5
    stable_s: float = 60.0  # a session that was up for so long begins anew with its pauses
    rescan_every_s: float = 10.0  # a target that reports a change of LUNs each second costs one scan in this time


class News(NamedTuple):
    """An event; `seconds` is Time2Wait where the event brings one, or the limit for a logout, or a postponement."""

    event: Event
    detail: str = ""
    seconds: float = 0.0


class Release(NamedTuple):
    """Take the connection away from the kernel session; what was queued of it is void."""


class Attempt(NamedTuple):
    """Log in again."""


class Goodbye(NamedTuple):
    """Send a Logout and wait for its answer."""

    deadline_s: float


class Rescan(NamedTuple):
    """Look for LUNs that are new."""


class Remove(NamedTuple):
    """End the session: its host is being removed, and that waits for it."""


class Told(NamedTuple):
    """For the timeline and the log."""

    state: State
    reason: str
    attempts: int


Action = Release | Attempt | Goodbye | Rescan | Remove | Told


class Recovery:
    """One session. `uniform(a, b)` throws the dice. `time2wait_s` is what the login agreed on."""

    def __init__(
        self, policy: Policy, uniform: Callable[[float, float], float], now: float, *, time2wait_s: float = 0.0
    ) -> None:
        self.state = State.UP
        self.attempts = 0
        self._policy = policy
        self._uniform = uniform
        self._time2wait_s = time2wait_s
        self._up_since = now
        self._pause_s = policy.first_pause_s
        self._not_before = now  # what the target asked for
        self._attempt_at: float | None = None
        self._expires_at: float | None = None
        self._rescan_at: float | None = None
        self._rescanned_at = now - policy.rescan_every_s
        self._wish = False  # TRY_NOW came while an attempt was under way
        self._reason = ""
        self._output: list[Action] = []

    # ---------------------------------------------------------------- the four verbs

    def receive(self, news: News, now: float) -> None:
        """Something happened. KeyError when it cannot happen in this state."""
        before = self.state
        if news.event is Event.FAILED and 0 < self._policy.reopen_max <= self.attempts:
            news = news._replace(event=Event.EXHAUSTED)
        self.state = advance(TRANSITIONS, before, news.event)
        self._note_news(before, news, now)
        if self.state is not before:
            self._entered(before, news, now)

    def kernel_waits(self, replacement_s: float) -> None:
        """How long the kernel holds the I/O of lost connections back, from the next loss on: not for ever what the
        record says, an administrator may have written another value."""
        self._policy = replace(self._policy, replacement_s=replacement_s)

    def tick(self, now: float) -> None:
        """The time of `wake_at` has come."""
        if self._expires_at is not None and now >= self._expires_at:
            self._expires_at = None
            self.receive(News(Event.EXPIRED), now)
        if self._rescan_at is not None and now >= self._rescan_at:
            self._rescan_at, self._rescanned_at = None, now
            self._output.append(Rescan())
        if self._attempt_at is not None and now >= self._attempt_at:
            self.receive(News(Event.DUE), now)

    def take_output(self) -> list[Action]:
        """What is to be done, in this order."""
        output, self._output = self._output, []
        return output

    def wake_at(self) -> float | None:
        """When `tick` is due."""
        times = (self._attempt_at, self._expires_at, self._rescan_at)
        return min((time for time in times if time is not None), default=None)

    # ---------------------------------------------------------------- inside

    def _note_news(self, before: State, news: News, now: float) -> None:
        match news.event:
            case Event.DROP_ANNOUNCED if before in (State.UP, State.LEAVING):
                self._time2wait_s = news.seconds
            case Event.LUNS_CHANGED if before is State.UP and self._policy.rescan:
                self._rescan_at = max(now, self._rescanned_at + self._policy.rescan_every_s)
            case Event.TRY_NOW if before is State.WAITING and self._attempt_at is not None:
                soon = max(now, self._not_before)
                self._attempt_at = min(self._attempt_at, soon)
            case Event.TRY_NOW if before is State.ATTEMPT:
                self._wish = True
            case Event.EXPIRED if before is not State.GONE:
                self._tell(f"I/O fails from now on: {Event.EXPIRED.value.partition(':')[0]}")

    def _entered(self, before: State, news: News, now: float) -> None:
        match self.state:
            case State.LEAVING:
                limit_s = min(news.seconds or self._policy.goodbye_s, self._policy.goodbye_s)
                self._tell(news.detail or news.event.value)
                self._output.append(Goodbye(limit_s))
            case State.WAITING if before is State.ATTEMPT:
                self._again(news, now)
            case State.WAITING:
                self._lost(news, now)
            case State.ATTEMPT:
                self._attempt_at, self._wish = None, False
                self.attempts += 1
                self._output.append(Attempt())
            case State.UP:
                self._back(news, now)
            case State.GIVEN_UP:
                self._output.append(Release())
                self._tell(news.detail)
            case State.GONE:
                self._attempt_at = self._expires_at = self._rescan_at = None
                self._output += [Remove()] if news.event is Event.HOST_REMOVED else []
                self._tell(news.event.value)

    def _lost(self, news: News, now: float) -> None:
        """The connection is gone: the kernel's own clock for the I/O runs from now on."""
        if now - self._up_since >= self._policy.stable_s or self.attempts == 0:
            self._pause_s, pause_s = self._policy.first_pause_s, 0.0
        else:
            pause_s = self._pause()
        self.attempts = 0
        self._not_before = now + (news.seconds if news.event is Event.GOODBYE_DONE else self._time2wait_s)
        self._attempt_at = max(self._not_before, now + pause_s)
        self._rescan_at = None
        self._expires_at = None if self._policy.replacement_s < 0 else now + self._policy.replacement_s
        self._output.append(Release())
        self._tell(news.detail or news.event.value)

    def _again(self, news: News, now: float) -> None:
        """An attempt has failed, or was not allowed."""
        if news.event is Event.POSTPONED:
            self.attempts -= 1
            self._attempt_at = now + news.seconds
            return
        pause_s = self._policy.least_between_s if self._wish else self._pause()
        self._not_before = now + self._policy.least_between_s
        self._attempt_at = now + pause_s
        if news.detail != self._reason:
            self._tell(news.detail)

    def _back(self, news: News, now: float) -> None:
        if self._expires_at is not None and now >= self._expires_at:
            self._tell("I/O failed for a while: the replacement timeout was over")
        self._attempt_at = self._expires_at = None
        self._up_since, self._time2wait_s = now, news.seconds
        self._tell("")

    def _pause(self) -> float:
        pause_s = self._uniform(self._pause_s / 2, self._pause_s)
        self._pause_s = min(self._pause_s * 2, self._policy.longest_pause_s)
        return pause_s

    def _tell(self, reason: str) -> None:
        self._reason = reason
        self._output.append(Told(self.state, reason, self.attempts))
