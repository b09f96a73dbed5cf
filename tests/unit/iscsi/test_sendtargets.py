# SPDX-License-Identifier: Apache-2.0
"""The list of targets. Numbers are rows of the checklist on SendTargets content."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl.errors import PeerError
from rdmactl.iscsi import sendtargets
from rdmactl.iscsi.portal import UNKNOWN_TPGT, Portal
from rdmactl.iscsi.sendtargets import SendTargetsReader, TargetList, TargetRecord

from .support import PORTAL, capture, pieces

T1, T2, T3 = (f"iqn.2005-03.org.example:t{number}" for number in (1, 2, 3))
LOCAL = (Portal("127.0.0.1"), 1)


def read(text: bytes | str, step: int | None = None) -> TargetList:
    raw = text.encode() if isinstance(text, str) else text
    reader = SendTargetsReader(PORTAL)
    for piece in pieces(raw, step):
        reader.receive(piece)
    return reader.finish()


def record(name: str, *addresses: str) -> str:
    return "".join([f"TargetName={name}\0", *(f"TargetAddress={address}\0" for address in addresses)])


def test_086_no_records() -> None:
    """Row 86."""
    assert read("") == TargetList((), 0, ())


def test_087_a_name_without_an_address_is_where_it_was_asked_for() -> None:
    """Row 87."""
    assert read(record(T1)).targets == (TargetRecord(T1, ((PORTAL, UNKNOWN_TPGT),)),)


def test_088_an_address_before_any_name() -> None:
    """Row 88."""
    got = read("TargetAddress=127.0.0.1:3260,1\0" + record(T1, "127.0.0.1:3260,1"))
    assert got.targets == (TargetRecord(T1, (LOCAL,)),)
    assert (got.skipped, len(got.warnings)) == (1, 1)


def test_089_addresses_of_every_form() -> None:
    """Row 89."""
    (target,) = read(record(T1, "[fd00::1],1", "[fd00::1]", "fd00::1,2", "[fd00::1]:3261,2")).targets
    assert target.portals == (
        (Portal("fd00::1"), 1),
        (Portal("fd00::1"), UNKNOWN_TPGT),
        (Portal("fd00::1"), 2),
        (Portal("fd00::1", 3261), 2),
    )


BAD = [
    "[fd00::1",
    ":3260,1",
    "",
    "h:0,1",
    "h:70000,1",
    "h:-1,1",
    "h:32x,1",
    "h:1,-5",
    "h:1,99999",
    "h:1,abc",
    "\x1b[2J",
]


@pytest.mark.parametrize("address", BAD)
def test_090_092_a_bad_address_costs_itself_only(address: str) -> None:
    """Rows 90 and 92, in the first of three records."""
    got = read(record(T1, address, "127.0.0.1:3260,1") + record(T2, "127.0.0.1:3260,1") + record(T3, address))
    assert got.targets == (TargetRecord(T1, (LOCAL,)), TargetRecord(T2, (LOCAL,)))
    assert got.skipped == 2
    assert T1 in got.warnings[0]
    assert all(warning.isprintable() for warning in got.warnings)


def test_091_092_names_of_hosts_are_kept_unresolved() -> None:
    """Row 91, and the empty tag of row 92."""
    got = read(record(T1, "no-such-host.example:3260,1") + record(T2, "127.0.0.1:3260,"))
    assert got.targets[0].portals == ((Portal("no-such-host.example"), 1),)
    assert got.targets[1].portals == ((Portal("127.0.0.1"), UNKNOWN_TPGT),)
    assert got.skipped == 0


@pytest.mark.parametrize(
    "name",
    [
        *("iqn." + "x" * length for length in (220, 296)),  # row 93
        *("", "disk1", "eui.12"),  # row 94
        *("iqn.../../x", "iqn.a/b", "iqn.a\nb", "iqn.a\x1b[2J", "iqn.a b", "iqn.\u202eb"),  # row 95
    ],
)
def test_093_094_095_a_bad_name_costs_itself_only(name: str) -> None:
    got = read(record(name, "127.0.0.1:3260,1", "junk:x") + record(T2, "127.0.0.1:3260,1"))
    assert got.targets == (TargetRecord(T2, (LOCAL,)),)
    assert (got.skipped, len(got.warnings)) == (1, 1)
    assert got.warnings[0].isprintable()


def test_bytes_that_are_no_utf_8() -> None:
    assert read(b"TargetName=iqn.a\xff\0" + record(T1).encode()).skipped == 1


def test_096_an_unknown_key_stops_nothing() -> None:
    """Row 96."""
    got = read(f"TargetName={T1}\0X-vendor=1\0TargetAddress=127.0.0.1:3260,1\0junk\0")
    assert got.targets == (TargetRecord(T1, (LOCAL,)),)
    assert len(got.warnings) == 2


def test_097_duplicates_and_split_records_become_one() -> None:
    """Row 97; LIO repeats a name when a part ends between it and its addresses."""
    got = read(record(T1, "127.0.0.1:3260,1") * 2 + record(T2) + record(T1, "127.0.0.2:3260,1"))
    assert got.targets[0] == TargetRecord(T1, (LOCAL, (Portal("127.0.0.2"), 1)))
    assert len(got.targets) == 2


def test_024_a_missing_final_nul_costs_nothing() -> None:
    """Row 24, in a list."""
    text = record(T1, "127.0.0.1:3260,1")
    assert read(text[:-1]) == read(text)


def list_of(name: str) -> bytes:
    return b"".join(entry.pdu.data for entry in capture(name) if entry.raw[0] == 0x24)


def test_098_the_captured_lists_of_400_targets_are_identical() -> None:
    """Row 98."""
    whole = list_of("sendtargets-multi-pdu-8192")
    assert hashlib.sha256(whole).hexdigest().startswith("141d079a2a5df1de")
    assert list_of("sendtargets-multi-pdu-512") == whole
    got = read(whole)
    assert len(got.targets) == 400
    assert all(target.portals == (LOCAL,) for target in got.targets)
    assert read(whole, 512) == got


def test_099_any_split_gives_the_same_list() -> None:
    """Row 99."""
    text = (record(T1, "[fd00::1]:3260,1", "junk:x") + "X-a=b\0\0" + record("bad name") + record(T2)).encode()
    whole = read(text)
    for cut in range(len(text) + 1):
        reader = SendTargetsReader(PORTAL)
        reader.receive(text[:cut])
        reader.receive(text[cut:])
        assert reader.finish() == whole
    assert read(text, 1) == whole


def test_truncation_at_each_length_is_no_error() -> None:
    text = record(T1, "127.0.0.1:3260,1").encode()
    for length in range(len(text)):
        got = read(text[:length])
        assert len(got.targets) + got.skipped <= 2


@pytest.mark.slow
def test_100_two_hundred_thousand_targets() -> None:
    """Row 100."""
    text = "".join(record(f"{T1}.{number}", "127.0.0.1:3260,1") for number in range(sendtargets.MAX_TARGETS))
    assert len(read(text, 32768).targets) == 200_000


def test_101_102_endless_lists_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows 101 and 102; the limits are lowered to keep the test short."""
    monkeypatch.setattr(sendtargets, "MAX_TARGETS", 10)
    monkeypatch.setattr(sendtargets, "MAX_ADDRESSES", 10)
    monkeypatch.setattr(sendtargets, "MAX_TOTAL_BYTES", 14000)
    for endless, reason in (
        ([record(f"{T1}.{number}") for number in range(11)], "more than 10 targets"),
        ([record(T1), *["TargetAddress=127.0.0.1\0"] * 11], "more than 10 addresses"),
        (["TargetName=", *["x" * 4096] * 3], "a value of more than"),
        (["X=" + "y" * 5000 + "\0"] * 3, "more than 14000 bytes"),
    ):
        with pytest.raises(PeerError, match=reason):
            read("".join(endless), 4096)


def test_warnings_are_bounded_and_counted() -> None:
    got = read("TargetName=bad\0" * 500)
    assert got.skipped == 500
    assert len(got.warnings) == 100


def test_a_target_may_refuse_the_request() -> None:
    with pytest.raises(PeerError, match='SendTargets="Reject"'):
        read("SendTargets=Reject\0")


_names = st.from_regex(r"iqn\.2005-03\.org\.example:[a-z0-9_]{1,20}", fullmatch=True)
_hosts = st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str))
_portals = st.lists(
    st.tuples(st.builds(Portal, _hosts, st.integers(1, 65535)), st.integers(0, 65535)), min_size=1, max_size=3
)


@given(st.dictionaries(_names, _portals, max_size=3), st.integers(1, 100))
def test_what_is_written_is_read(targets: dict[str, list[tuple[Portal, int]]], step: int) -> None:
    text = "".join(record(name, *(f"{p},{tag}" for p, tag in portals)) for name, portals in targets.items())
    got = read(text, step)
    assert {name: set(portals) for name, portals in got.targets} == {n: set(p) for n, p in targets.items()}
    assert (got.skipped, got.warnings) == (0, ())
