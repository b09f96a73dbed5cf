# SPDX-License-Identifier: Apache-2.0
"""Operational keys. Numbers are rows of the checklist on text and login negotiation; "E" rows those on iSER."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl.errors import PeerError
from rdmactl.iscsi.keys import KEYS, Kind, combine, format_value, read_value
from rdmactl.iscsi.negotiation import Negotiation, OperationalSettings, negotiate

SETTINGS = OperationalSettings()


def result(*answers: tuple[str, str], discovery: bool = False, iser: bool = False, **settings: Any) -> Any:
    return negotiate(OperationalSettings(**settings), answers, discovery=discovery, iser=iser)


def iser(*answers: tuple[str, str], **settings: Any) -> Any:
    return result(("RDMAExtensions", "Yes"), *answers, iser=True, **settings)


def test_silence_means_the_defaults() -> None:
    """Not what was offered: MaxBurstLength was offered as 16776192, InitialR2T as No."""
    got = result()
    assert (got.max_burst_bytes, got.first_burst_bytes) == (262144, 65536)
    assert got.initial_r2t is True
    assert got.immediate_data is True
    assert (got.default_time2wait_s, got.default_time2retain_s) == (2, 0)
    assert (got.max_xmit_data_segment_bytes, got.max_recv_data_segment_bytes) == (8192, 262144)
    assert not got.header_digest
    assert not got.data_digest
    assert got.target_alias is None


def test_silence_where_our_value_settles_it() -> None:
    """LIO leaves out keys whose result is fixed by the offer."""
    got = result(initial_r2t=True, immediate_data=False, max_burst_bytes=65536, first_burst_bytes=4096)
    assert got.initial_r2t is True
    assert got.immediate_data is False
    assert (got.max_burst_bytes, got.first_burst_bytes) == (65536, 4096)


def test_answers_of_lio_over_iser() -> None:
    got = iser(
        ("TargetAlias", "LIO Target"),
        ("TargetPortalGroupTag", "1"),
        ("InitiatorRecvDataSegmentLength", "262144"),
        ("TargetRecvDataSegmentLength", "8192"),
        ("MaxBurstLength", "262144"),
        ("FirstBurstLength", "65536"),
        ("InitialR2T", "Yes"),
    )
    assert got.rdma_extensions
    assert (got.max_recv_data_segment_bytes, got.max_xmit_data_segment_bytes) == (262144, 8192)
    assert got.target_alias == "LIO Target"


@pytest.mark.parametrize("key", ["HeaderDigest", "DataDigest"])
def test_029_a_digest_that_was_not_offered_names_key_offer_and_answer(key: str) -> None:
    """Row 29."""
    with pytest.raises(PeerError, match=f'{key}="CRC32C" was answered, but only "None" was offered'):
        result((key, "CRC32C"))


@pytest.mark.parametrize("answers", [[("HeaderDigest", "None")], [("HeaderDigest", "Reject")], []])
def test_030_no_digest_when_one_is_demanded(answers: list[tuple[str, str]]) -> None:
    """Row 30: never fall back silently."""
    with pytest.raises(PeerError, match="HeaderDigest"):
        result(*answers, header_digest=("CRC32C",))


def test_digests_are_chosen_from_the_offer() -> None:
    got = result(("HeaderDigest", "CRC32C"), ("DataDigest", "None"), header_digest=("None", "CRC32C"))
    assert (got.header_digest, got.data_digest) == (True, False)


@pytest.mark.parametrize("text", ["0", "511", "16777216", "-5", "abc", ""])
def test_031_numbers_out_of_range_name_the_range(text: str) -> None:
    """Row 31."""
    with pytest.raises(PeerError, match=r"MaxRecvDataSegmentLength.* 512 to 16777215"):
        result(("MaxRecvDataSegmentLength", text))


@pytest.mark.parametrize("text", ["yes", "1", "", "Maybe"])
def test_booleans_are_yes_or_no(text: str) -> None:
    with pytest.raises(PeerError, match=r"InitialR2T.* neither Yes nor No"):
        result(("InitialR2T", text))


def test_032_hexadecimal_numbers() -> None:
    """Row 32."""
    assert result(("MaxRecvDataSegmentLength", "0x2000")).max_xmit_data_segment_bytes == 8192


@pytest.mark.parametrize("word", ["Irrelevant", "Reject", "NotUnderstood"])
def test_033_reserved_answers_are_no_numbers(word: str) -> None:
    """Row 33: our own value stays."""
    assert result(("DefaultTime2Wait", word), default_time2wait_s=7).default_time2wait_s == 7
    assert result(("FirstBurstLength", word), first_burst_bytes=4096).first_burst_bytes == 4096


def test_every_key_survives_every_reserved_answer() -> None:
    for name, word in itertools.product(KEYS, ("Irrelevant", "NotUnderstood")):
        if name != "RDMAExtensions":
            assert iser((name, word)) == iser(), name


@pytest.mark.parametrize("answers", [[("RDMAExtensions", "No")], [("RDMAExtensions", "Reject")], []])
def test_iser_07_iser_without_rdma_extensions_fails(answers: list[tuple[str, str]]) -> None:
    """Row 7 E."""
    with pytest.raises(PeerError, match="RDMAExtensions"):
        result(*answers, iser=True)


def test_iser_08_what_we_send_over_iser_is_clamped() -> None:
    """Row 8 E: LIO agrees to more than its buffers hold."""
    got = iser(("TargetRecvDataSegmentLength", "262144"), max_xmit_data_segment_bytes=262144)
    assert got.max_xmit_data_segment_bytes == 8192


def test_iser_09_optional_iser_keys_may_be_unknown_or_declared() -> None:
    """Row 9 E."""
    declared = [("MaxOutstandingUnexpectedPDUs", "0"), ("MaxAHSLength", "256"), ("iSERHelloRequired", "No")]
    assert iser(*declared) == iser()


def test_offers_of_each_kind_of_session() -> None:
    def names(**kind: bool) -> set[str]:
        return {name for name, _ in Negotiation(SETTINGS, **kind).offers()}

    tcp, iser_offer = names(discovery=False, iser=False), names(discovery=False, iser=True)
    assert names(discovery=True, iser=True) == {"MaxRecvDataSegmentLength"}
    assert names(discovery=True, iser=False) == {
        "HeaderDigest",
        "DataDigest",
        "MaxRecvDataSegmentLength",
        "DefaultTime2Wait",
        "DefaultTime2Retain",
        "ErrorRecoveryLevel",
    }
    assert iser_offer - tcp == {"RDMAExtensions", "InitiatorRecvDataSegmentLength", "TargetRecvDataSegmentLength"}
    assert tcp - iser_offer == {"HeaderDigest", "DataDigest", "MaxRecvDataSegmentLength", "IFMarker", "OFMarker"}
    assert not (tcp | iser_offer) - set(KEYS)


def test_offers_are_within_the_table() -> None:
    for discovery, over_iser in itertools.product((False, True), repeat=2):
        for name, text in Negotiation(SETTINGS, discovery=discovery, iser=over_iser).offers():
            assert KEYS[name].applies(discovery=discovery, iser=over_iser), name
            read_value(KEYS[name], text)


@pytest.mark.parametrize(
    ("proposal", "reply"),
    [
        (("X-org.example.foo", "1"), "NotUnderstood"),  # row 28
        (("TaskReporting", "FastAbort,RFC3720"), "RFC3720"),
        (("TaskReporting", "FastAbort"), "Reject"),
        (("iSCSIProtocolLevel", "2"), "1"),
        (("RDMAExtensions", "Yes"), "Irrelevant"),
        (("MaxAHSLength", "256"), None),
    ],
)
def test_028_proposals_are_answered(proposal: tuple[str, str], reply: str | None) -> None:
    negotiation = Negotiation(SETTINGS, discovery=False, iser=False)
    assert negotiation.receive([proposal]) == ([] if reply is None else [(proposal[0], reply)])


@pytest.mark.parametrize(
    ("proposal", "reply"),
    [
        (("MaxConnections", "1"), "Irrelevant"),
        (("HeaderDigest", "CRC32C,None"), "None"),
        (("HeaderDigest", "CRC32C"), "Irrelevant"),
        (("RDMAExtensions", "Yes"), "Irrelevant"),
        (("DefaultTime2Retain", "60"), "20"),
        (("ErrorRecoveryLevel", "2"), "0"),
    ],
)
def test_proposals_in_a_discovery_over_iser(proposal: tuple[str, str], reply: str) -> None:
    negotiation = Negotiation(SETTINGS, discovery=True, iser=True)
    assert negotiation.receive([proposal]) == [(proposal[0], reply)]


def test_027_a_key_is_negotiated_once() -> None:
    """Row 27, over two responses; a declaration may be repeated, as LIO does with TargetPortalGroupTag."""
    negotiation = Negotiation(SETTINGS, discovery=False, iser=False)
    repeated = [("TargetPortalGroupTag", "1"), ("MaxRecvDataSegmentLength", "8192")]
    negotiation.receive([*repeated, ("MaxBurstLength", "65536")])
    negotiation.receive(repeated)
    with pytest.raises(PeerError, match="duplicate key MaxBurstLength"):
        negotiation.receive([("MaxBurstLength", "65536")])


@pytest.mark.parametrize("text", ["65536", "-1", "abc", ""])
def test_bad_group_tags(text: str) -> None:
    with pytest.raises(PeerError, match="TargetPortalGroupTag"):
        result(("TargetPortalGroupTag", text))


def test_first_burst_never_exceeds_max_burst() -> None:
    """Some targets answer so, and the kernel refuses it."""
    got = result(("FirstBurstLength", "65536"), ("MaxBurstLength", "8192"))
    assert (got.first_burst_bytes, got.max_burst_bytes) == (8192, 8192)


@pytest.mark.parametrize(
    ("given_settings", "used"),
    [
        ({"first_burst_bytes": 1}, {"first_burst_bytes": 262144}),
        ({"first_burst_bytes": 999999999}, {"first_burst_bytes": 262144}),
        ({"max_burst_bytes": 99999999}, {"max_burst_bytes": 16776192}),
        ({"first_burst_bytes": 262144, "max_burst_bytes": 65536}, {"first_burst_bytes": 65536}),
        ({"max_recv_data_segment_bytes": 100}, {"max_recv_data_segment_bytes": 262144}),
        ({"max_recv_data_segment_bytes": 8193}, {"max_recv_data_segment_bytes": 8192}),
        ({"error_recovery_level": 2, "max_connections": 4}, {"error_recovery_level": 0, "max_connections": 1}),
        ({}, {}),
    ],
)
def test_settings_out_of_range_are_moved_as_open_iscsi_moves_them(
    given_settings: dict[str, int], used: dict[str, int]
) -> None:
    settings, notes = OperationalSettings(**given_settings).clamped()  # type: ignore[arg-type]
    assert settings == OperationalSettings(**(given_settings | used))  # type: ignore[arg-type]
    assert len(notes) == len(used)
    assert settings.clamped() == (settings, [])


@given(st.sampled_from(sorted(KEYS)), st.data())
def test_results_do_not_depend_on_who_offers(name: str, data: st.DataObject) -> None:
    key = KEYS[name]
    if key.kind in (Kind.DECLARE, Kind.LIST):
        return
    values = st.booleans() if isinstance(key.default, bool) else st.integers(key.low, key.high)
    ours, theirs = data.draw(values), data.draw(values)
    assert combine(key, ours, theirs) == combine(key, theirs, ours)
    assert read_value(key, format_value(ours)) == ours
