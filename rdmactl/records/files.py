# SPDX-License-Identifier: Apache-2.0
"""Open-iscsi's record files: text and names, without touching a disk. Engine ring.

A record file is "key = value" lines, comments, and nothing else; what it records is said by where it lies. Reading is
tolerant, because these files are edited by people and written by many programs and releases: a line that cannot be used
is named, and the rest counts. Writing puts keys into the order of open-iscsi 2.1.8 and leaves empty values out.

Not here: walking a tree (`tree_import.py`, `tree_export.py`), what keys mean (`model.py`).
Defined by the behaviour of open-iscsi 2.1.8, which in turn reads what every earlier release wrote.
"""

from __future__ import annotations

from rdmactl.records.model import Secret, ValueProblem, convert, has_control_characters, plain

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from rdmactl.records.model import Record, Table

__all__ = [
    "LINE_BYTES_MAX",
    "format_file",
    "is_component",
    "link_name",
    "parse_file",
    "portal_parts",
    "source_directory",
    "split_line",
]

LINE_BYTES_MAX = 2047
"""Open-iscsi's readers skip longer lines."""

_COMPONENT_BYTES_MAX = 255
_RECORD_VERSION = "2.1.8"

_IFACE_FILE_ORDER = (
    "iface.hwaddress",
    "iface.ipaddress",
    "iface.iscsi_ifacename",
    "iface.net_ifacename",
    "iface.gateway",
    "iface.subnet_mask",
    "iface.prefix_len",
    "iface.transport_name",
    "iface.initiatorname",
)
"""How files begin the block of interface keys; the rest of it is in print order."""


def split_line(line: str) -> tuple[str, str] | str:
    """A stripped line as key and value, or what it lacks: "'=' separator" or "value". White space must precede "="."""
    end = next((at for at, c in enumerate(line) if c == "=" or c.isspace()), len(line))
    rest = line[end + 1 :].lstrip()
    if not rest:
        return "value"
    if not rest.startswith("="):
        return "'=' separator"
    value = rest[1:].strip()
    return (line[:end], value) if value else "value"


def parse_file(data: bytes, table: Table) -> tuple[Record, list[str]]:
    """The record in a file, and what was wrong with it, as sentences that begin with the line's number.

    Unknown keys are kept. A word that its key does not have is kept too, and named: who uses the record refuses it.
    """
    record: Record = {}
    problems: list[str] = []
    for number, raw in enumerate(data.split(b"\n"), 1):
        line = raw.decode("utf-8", "surrogateescape").strip()
        if not line or line.startswith("#"):
            continue
        problem = _take_line(record, line, table) if len(raw) <= LINE_BYTES_MAX else "is too long and was left out"
        if problem is not None:
            problems.append(f"line {number} {problem}")
    return record, problems


def _take_line(record: Record, line: str, table: Table) -> str | None:
    """Put the line's key into the record; the end of a sentence when something is wrong."""
    parts = split_line(line)
    if isinstance(parts, str):
        return f"has no {parts} and was left out"
    name, text = parts
    key = table.find(name)
    if has_control_characters(line) or not _is_utf8(line):
        return f"has characters in {name if name.isprintable() else 'its key'} that no record can have; it was left out"
    if key is None:
        record[name] = Secret(text) if _is_secret(name) else text
        return None
    try:
        record[key.name], remarks = convert(key, text)
    except ValueProblem as problem:
        record[key.name] = text
        return f"has a value for {name} that is kept but cannot be used: {problem}"
    return "; ".join(remarks) or None


def _is_secret(name: str) -> bool:
    """Whether an unknown key, of another release, looks like a secret."""
    return "password" in name and not name.endswith("_length")


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in text)


def format_file(record: Record, table: Table) -> str:
    """The text of a record file."""
    lines = [f"# BEGIN RECORD {_RECORD_VERSION}"]
    lines += [f"{name} = {value}" for name, value in _ordered(record, table) if value]
    return "\n".join((*lines, "# END RECORD", ""))


def _ordered(record: Record, table: Table) -> list[tuple[str, str]]:
    """Known keys in the order of files, unknown ones behind them; lengths of secrets only when somebody set them."""
    rest = dict(record)
    pairs = []
    for name in _file_order(table):
        value = rest.pop(name, "")
        if not (name.endswith("_length") and value == "0"):
            pairs.append((name, plain(value)))
    return pairs + [(name, plain(value)) for name, value in rest.items()]


def _file_order(table: Table) -> list[str]:
    names = [key.name for key in table.keys]
    if "iface.iscsi_ifacename" not in names:
        return names
    start = names.index("iface.iscsi_ifacename")
    first = [name for name in _IFACE_FILE_ORDER if name in names]
    return [*names[:start], *first, *(name for name in names[start:] if name not in first)]


# Names


def is_component(name: str) -> bool:
    """Whether a name from outside can be the name of one file: it stays in its directory, and it fits."""
    if name in ("", ".", "..") or "/" in name or has_control_characters(name):
        return False
    return len(name.encode("utf-8", "surrogateescape")) <= _COMPONENT_BYTES_MAX


def portal_parts(directory: str) -> tuple[str, int, int] | None:
    """ "ADDRESS,PORT,TPGT" or "ADDRESS,PORT" (then the tag is -1) taken apart; None for anything else."""
    parts = directory.split(",")
    if len(parts) not in (2, 3) or not parts[0]:
        return None
    port, tpgt = _number(parts[1]), _number(parts[2]) if len(parts) == 3 else -1
    return None if port is None or tpgt is None else (parts[0], port, tpgt)


def _number(text: str) -> int | None:
    """A number as open-iscsi prints it: nothing but digits, or a sign and digits, in the range of a C int."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 10):
        return None
    number = int(text)
    return number if str(number) == text and -(1 << 31) <= number < 1 << 31 else None


def link_name(target: str, address: str, port: int, tpgt: int, iface: str) -> str:
    """The name of the link by which a source claims a node record."""
    return f"{target},{address},{port},{tpgt},{iface}"


def source_directory(source: str) -> tuple[str, ...] | None:
    """Where the links of a source lie: ("static",) or ("send_targets", "ADDRESS,PORT"); None for a source without."""
    kind, _, portal = source.partition(" ")
    if kind in ("static", "fw", "isns") and not portal:
        return (kind,)
    if kind in ("send_targets", "offload_send_targets", "isns") and portal:
        return (kind.removeprefix("offload_"), portal)
    return None
