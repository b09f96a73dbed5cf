# SPDX-License-Identifier: Apache-2.0
"""iscsiadm's command line: a getopt_long scanner, the table of options, and the check of options per mode. Face ring.

The rules are those of GNU getopt_long and of iscsiadm 2.1.8, because scripts depend on them: options in any order,
unique abbreviations, bundled flags, glued arguments; the last of several wins; options act as they are met, and each
`-m` checks the whole line for its mode.
Not here: what a mode does. Portals (`-p`) are read by `rdmactl.iscsi.portal_option`.
"""

from __future__ import annotations

from rdmactl.cli.iseradm_context import Exit

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rdmactl.cli.iseradm_context import Context

__all__ = ["Arguments", "parse"]

NO, REQUIRED, OPTIONAL = range(3)


class Option:
    """`short` letter, `long` name, and whether each of them takes an argument."""

    __slots__ = ("argument", "long", "long_argument", "short")

    def __init__(self, short: str, long: str, argument: int = NO, long_argument: int | None = None) -> None:
        self.short = short
        self.long = long
        self.argument = argument
        self.long_argument = argument if long_argument is None else long_argument


_OPTIONS = (
    Option("p", "portal", REQUIRED),
    Option("T", "targetname", REQUIRED),
    Option("I", "interface", REQUIRED),
    Option("o", "op", REQUIRED),
    Option("t", "type", REQUIRED),
    Option("n", "name", REQUIRED),
    Option("v", "value", REQUIRED),
    Option("H", "host", REQUIRED),
    Option("r", "sid", REQUIRED),
    Option("R", "rescan"),
    Option("P", "print", REQUIRED),
    Option("D", "discover"),
    Option("l", "login"),
    Option("L", "loginall", REQUIRED),
    Option("u", "logout"),
    Option("U", "logoutall", REQUIRED),
    Option("s", "stats"),
    Option("k", "killiscsid", REQUIRED),
    Option("d", "debug", REQUIRED),
    Option("m", "mode", REQUIRED),
    Option("S", "show"),
    Option("V", "version"),
    Option("h", "help"),
    Option("C", "submode", REQUIRED),
    Option("a", "ip", REQUIRED),
    Option("b", "packetsize", REQUIRED),
    Option("c", "count", REQUIRED),
    Option("i", "interval", REQUIRED),
    Option("x", "index", REQUIRED),
    Option("A", "portal_type", REQUIRED, OPTIONAL),
    Option("W", "no_wait"),
    Option("from", "from", REQUIRED),  # ours: -v, read from elsewhere; it has no letter
)
_BY_SHORT = {option.short: option for option in _OPTIONS}

_ALLOWED = {
    "discovery": "dmPtpIonvlSD",
    "discoverydb": "dmPtpIonvlSD",
    "node": "dmPpTIonvluLURsSW",
    "session": "dmPonvuRsSri",
    "iface": "dmPIonvrHCabci",
    "fw": "dmnvlW",
    "host": "dmPtonvHCxA",
}
_OURS = {"fw": "S"}
"""What a mode takes under our own name only."""

_LIKE = {"from": "v"}
"""An option of ours is allowed where another is."""

_MODE_NAME = {"discoverydb": "discovery"}
"""What messages call a mode, where that differs."""

OPERATIONS = ("new", "delete", "update", "show", "nonpersistent", "apply", "applyall", "login", "logout")
_TYPES = {"st": "sendtargets", "sendtargets": "sendtargets", "isns": "isns", "fw": "fw", "slp": "slp"}
_PORTAL_TYPES = ("ipv4", "ipv6")
_SUBMODES = ("ping", "chap", "flashnode", "stats")

_IFACE_NAME_MAX = 64
_UNSIGNED_LONG_MAX = (1 << 64) - 1


class Arguments:
    """What the command line says. Options that were not given are None, False or empty."""

    __slots__ = (
        "count",
        "discover",
        "host",
        "ifaces",
        "index",
        "interval",
        "kill",
        "level",
        "login",
        "loginall",
        "logout",
        "logoutall",
        "mode",
        "no_wait",
        "operations",
        "packet_bytes",
        "pairs",
        "portal",
        "portal_type",
        "rescan",
        "show",
        "sid",
        "stats",
        "submode",
        "target",
        "type",
    )

    def __init__(self) -> None:
        self.mode: str | None = None
        self.type: str | None = None
        self.portal: str | None = None
        self.target: str | None = None
        self.ifaces: list[str] = []
        self.operations: frozenset[str] = frozenset()
        self.pairs: list[tuple[str, str]] = []
        self.level: int | None = None
        self.login = self.logout = self.rescan = self.stats = self.show = self.discover = self.no_wait = False
        self.loginall: str | None = None
        self.logoutall: str | None = None
        self.sid: int | None = None
        self.host: int | None = None
        self.submode: str | None = None
        self.portal_type: str | None = None
        self.packet_bytes, self.count, self.interval = 32, 1, 0
        self.index: int | None = None
        self.kill: int | None = None

    @property
    def operation(self) -> str | None:
        """The operation where only one makes sense: None for none, "" for a combination, which equals no operation."""
        if len(self.operations) > 1:
            return ""
        return next(iter(self.operations), None)


class Event:
    """What the scanner met: an option and its argument; or an error ("?"), already reported, and its culprit."""

    __slots__ = ("argument", "culprit", "short")

    def __init__(self, short: str, argument: str | None, culprit: str = "") -> None:
        self.short = short
        self.argument = argument
        self.culprit = culprit


def scan(words: list[str], complain: Callable[[str], None]) -> Iterator[Event]:
    """GNU getopt_long: words that are no options are skipped, "--" ends the options."""
    rest = iter(words)
    for word in rest:
        if word == "--":
            return
        if word.startswith("--"):
            yield _long(word[2:], rest, complain)
        elif word.startswith("-") and len(word) > 1:
            yield from _bundle(word[1:], rest, complain)


def _long(text: str, rest: Iterator[str], complain: Callable[[str], None]) -> Event:
    name, equals, value = text.partition("=")
    matches = [option for option in _OPTIONS if option.long.startswith(name)]
    exact = [option for option in matches if option.long == name]
    matches = exact or matches
    if not matches:
        complain(f"unrecognized option '--{name}'")
        return Event("?", None)
    if len(matches) > 1:
        possible = " ".join(f"'--{option.long}'" for option in matches)
        complain(f"option '--{text}' is ambiguous; possibilities: {possible}")
        return Event("?", None)
    option = matches[0]
    takes = option.long_argument
    if equals:
        if takes == NO:
            complain(f"option '--{option.long}' doesn't allow an argument")
            return Event("?", None, option.short)
        return Event(option.short, value)
    argument = next(rest, None) if takes == REQUIRED else None
    if takes == REQUIRED and argument is None:
        complain(f"option '--{option.long}' requires an argument")
        return Event("?", None, option.short)
    return Event(option.short, argument)


def _bundle(letters: str, rest: Iterator[str], complain: Callable[[str], None]) -> Iterator[Event]:
    for at, letter in enumerate(letters):
        option = _BY_SHORT.get(letter)
        if option is None:
            complain(f"invalid option -- '{letter}'")
            yield Event("?", None, letter)
        elif option.argument == NO:
            yield Event(letter, None)
        else:
            argument = letters[at + 1 :] or next(rest, None)
            if argument is None:
                complain(f"option requires an argument -- '{letter}'")
                yield Event("?", None, letter)
            else:
                yield Event(letter, argument)
            return


def parse(context: Context, words: list[str]) -> Arguments:
    """Read the command line; raises Exit with iscsiadm's words for every misuse, and for -h and -V."""
    return _Parser(context, words).run()


class _Parser:
    def __init__(self, context: Context, words: list[str]) -> None:
        self.context = context
        self.words = words
        self.arguments = Arguments()
        self.name: str | None = None
        self.value: str | None = None

    def run(self) -> Arguments:
        culprit = ""
        for event in scan(self.words, self.context.error):
            if event.short == "?":
                culprit = event.culprit
            else:
                self.take(event.short, event.argument or "")
        if culprit:
            raise Exit(7, f"unrecognized character '{culprit}'")
        if self.arguments.mode is None and self.arguments.kill is None:
            raise Exit(7, plain=self.context.try_line)
        return self.arguments

    def take(self, short: str, text: str) -> None:
        flag = _FLAGS.get(short)
        if flag is not None:
            setattr(self.arguments, flag, True)
            return
        plain = _TEXTS.get(short)
        if plain is not None:
            setattr(self.arguments, plain, text)
            return
        number = _NUMBERS.get(short)
        if number is not None:
            setattr(self.arguments, number, atoi(text))
            return
        getattr(self, f"take_{short}")(text)

    def take_m(self, text: str) -> None:
        allowed = _ALLOWED.get(text)
        if allowed is None:
            raise Exit(7, "mode -1 is not yet supported")
        if not self.context.exact:
            allowed += _OURS.get(text, "")
        self.arguments.mode = text
        for event in scan(self.words, self.context.error):
            if event.short == "?" or _LIKE.get(event.short, event.short) not in allowed:
                name = _MODE_NAME.get(text, text)
                shown = f"--{event.short}" if event.short in _LIKE else f"-{event.short}"
                raise Exit(7, f"{name} mode: option '{shown}' is not allowed/supported")

    def take_t(self, text: str) -> None:
        self.arguments.type = _TYPES.get(text)

    def take_C(self, text: str) -> None:  # noqa: N802 - named after the option
        self.arguments.submode = text if text in _SUBMODES else None

    def take_o(self, text: str) -> None:
        if text in OPERATIONS:
            self.arguments.operations |= {text}
        if not self.arguments.operations:
            raise Exit(7, f"can not recognize operation: '{text}'")

    def take_I(self, text: str) -> None:  # noqa: N802
        if not 1 <= len(text.encode("utf-8", "surrogateescape")) <= _IFACE_NAME_MAX:
            print(f"Invalid iface name {text}. Must be from 1 to 64 characters.")
            raise Exit(7)
        self.arguments.ifaces.append(text)

    def take_n(self, text: str) -> None:
        self.name = text
        self.pair()

    def take_v(self, text: str) -> None:
        self.value = text
        self.pair()

    def take_from(self, text: str) -> None:
        from rdmactl.cli.iseradm_values import read_value

        self.take_v(read_value(text))

    def pair(self) -> None:
        if self.name is not None and self.value is not None:
            self.arguments.pairs.append((self.name, self.value))
            self.name = self.value = None

    def take_r(self, text: str) -> None:
        from rdmactl.cli.iseradm_ids import session_id

        self.arguments.sid = session_id(self.context, text)

    def take_H(self, text: str) -> None:  # noqa: N802
        from rdmactl.cli.iseradm_ids import host_number

        self.arguments.host = host_number(self.context, text)

    def take_x(self, text: str) -> None:
        number = leading_number(text)
        if abs(number) > _UNSIGNED_LONG_MAX:
            raise Exit(7, f"Invalid index {text}. Numerical result out of range.")
        self.arguments.index = number

    def take_k(self, text: str) -> None:
        self.arguments.kill = atoi(text)
        if self.arguments.kill < 0:
            raise Exit(
                7,
                f"Invalid killiscsid priority {self.arguments.kill} Priority must be greater than or equal to zero.",
            )

    def take_A(self, text: str) -> None:  # noqa: N802
        self.arguments.portal_type = text if text in _PORTAL_TYPES else None

    def take_d(self, text: str) -> None:
        self.context.debug = atoi(text)

    def take_V(self, _: str) -> None:  # noqa: N802
        print(f"{self.context.program} version {self.context.version}")
        raise Exit(0)

    def take_h(self, _: str) -> None:
        from rdmactl.cli.iseradm_usage import USAGE

        print(USAGE.format(program=self.context.program, blank=" "), end="")
        raise Exit(0)


_FLAGS = {
    "l": "login",
    "u": "logout",
    "R": "rescan",
    "s": "stats",
    "S": "show",
    "D": "discover",
    "W": "no_wait",
}
_TEXTS = {"p": "portal", "a": "portal", "T": "target", "L": "loginall", "U": "logoutall"}
_NUMBERS = {"P": "level", "b": "packet_bytes", "c": "count", "i": "interval"}


def leading_number(text: str) -> int:
    """The decimal number a text begins with, else 0, as strtol(3) reads it, without its limits."""
    text = text.lstrip()
    sign = -1 if text[:1] == "-" else 1
    digits = text[1:] if text[:1] in ("+", "-") else text
    end = 0
    while end < min(len(digits), 40) and digits[end] in "0123456789":
        end += 1
    return sign * int(digits[:end] or "0")


def atoi(text: str) -> int:
    """A number as a C int: garbage is 0, and what is too large wraps."""
    number = leading_number(text) & 0xFFFFFFFF
    return number - (1 << 32) if number >> 31 else number
