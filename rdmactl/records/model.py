# SPDX-License-Identifier: Apache-2.0
"""The keys of node, interface and discovery records, and what becomes of a text that is given for one. Engine ring.

These names, words, defaults and conversions are open-iscsi's, as people's scripts and files have had them for twenty
years; each table stands in the order in which its record is printed. Import-light: front ends read it.

Not here: where records are kept (`store.py`), what may be done with them (`operations.py`), files (`conf.py`).
Defined by iscsiadm(8), iscsid.conf(5) and the behaviour of open-iscsi 2.1.8.
"""

from __future__ import annotations

from rdmactl.values import NamedTuple

TYPE_CHECKING = False  # the module typing would cost every run several milliseconds
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "CHAP_ALGORITHMS",
    "MASK",
    "Key",
    "Record",
    "Secret",
    "Table",
    "Value",
    "ValueProblem",
    "convert",
    "defaults",
    "discovery_table",
    "has_control_characters",
    "iface_table",
    "is_ipv6_type",
    "node_table",
    "plain",
    "shown",
    "wire_node",
    "wire_record",
]

MASK = "********"
EMPTY = "<empty>"
CHAP_ALGORITHMS = ("SHA3-256", "SHA256", "SHA1", "MD5")

ALIASES = {"node.transport_name": "iface.transport_name"}
"""Old names, understood wherever a key is given."""

_STRING_BYTES = 255
_UNSIGNED_LONG_MAX = (1 << 64) - 1


class Secret:
    """A text that neither `str` nor `repr` shows."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the login and for who asked for it with --show."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return f"Secret({MASK})" if self._text else "Secret()"

    __str__ = __repr__


Value = str | Secret
Record = dict[str, Value]
"""A record: key names to converted values. Keys that no table knows are carried along."""


class ValueProblem(ValueError):
    """A text that is no value of its key; the message says why, as the end of a sentence."""


class Key(NamedTuple):
    """One key of a record.

    `kind` is string, int (32 bit, signed), uint8, uint16, uint32, enum or list. `size` is a string's longest length in
    bytes. `read_only` keys identify the record. `secret` keys are masked. `hidden` keys are never shown.
    `shown_16_bits` numbers pass through 16 bits on their way to the screen, in open-iscsi and so here.
    """

    name: str
    kind: str = "string"
    default: str = ""
    words: tuple[str, ...] = ()
    size: int = _STRING_BYTES
    read_only: bool = False
    secret: bool = False
    hidden: bool = False
    shown_16_bits: bool = False


class Table:
    """The keys of one kind of record, in print order."""

    __slots__ = ("_by_name", "keys")

    def __init__(self, keys: Iterable[Key]) -> None:
        self.keys = tuple(keys)
        self._by_name = {key.name: key for key in self.keys}

    def find(self, name: str) -> Key | None:
        """The key of this name or old name."""
        return self._by_name.get(ALIASES.get(name, name))


def _enum(name: str, default: str, *words: str, read_only: bool = False) -> Key:
    return Key(name, "enum", default, words or ("No", "Yes"), read_only=read_only)


def _int(name: str, default: int = 0, *, read_only: bool = False, shown_16_bits: bool = False) -> Key:
    return Key(name, "int", str(default), read_only=read_only, shown_16_bits=shown_16_bits)


def _secret(name: str) -> tuple[Key, Key]:
    return Key(name, secret=True), Key(f"{name}_length", "int", "0", hidden=True)


def _chap(prefix: str) -> tuple[Key, ...]:
    return (
        _enum(f"{prefix}.authmethod", "None", "None", "CHAP"),
        Key(f"{prefix}.username"),
        *_secret(f"{prefix}.password"),
        Key(f"{prefix}.username_in"),
        *_secret(f"{prefix}.password_in"),
        Key("node.session.auth.chap_algs", "list", "MD5", CHAP_ALGORITHMS),
    )


_STARTUP = ("manual", "automatic", "onboot")
_DIGESTS = ("None", "CRC32C", "CRC32C,None", "None,CRC32C")
_SOURCES = ("send_targets", "isns", "offload_send_targets", "slp", "static", "fw")

_NODE_HEAD = (
    Key("node.name", size=254, read_only=True),
    _int("node.tpgt", -1, read_only=True),
    _enum("node.startup", "manual", *_STARTUP),
    _enum("node.leading_login", "No"),
)

_NODE_TAIL = (
    Key("node.discovery_address", size=1024, read_only=True),
    _int("node.discovery_port", read_only=True),
    _enum("node.discovery_type", "static", *_SOURCES, read_only=True),
    _int("node.session.initial_cmdsn"),
    _int("node.session.initial_login_retry_max", 4),
    _int("node.session.xmit_thread_priority", -20),
    _int("node.session.cmds_max", 128, shown_16_bits=True),
    _int("node.session.queue_depth", 32, shown_16_bits=True),
    _int("node.session.nr_sessions", 1),
    *_chap("node.session.auth"),
    _int("node.session.timeo.replacement_timeout", 120),
    _int("node.session.err_timeo.abort_timeout", 15),
    _int("node.session.err_timeo.lu_reset_timeout", 30),
    _int("node.session.err_timeo.tgt_reset_timeout", 30),
    _int("node.session.err_timeo.host_reset_timeout", 60),
    _enum("node.session.iscsi.FastAbort", "Yes"),
    _enum("node.session.iscsi.InitialR2T", "No"),
    _enum("node.session.iscsi.ImmediateData", "Yes"),
    _int("node.session.iscsi.FirstBurstLength", 262144),
    _int("node.session.iscsi.MaxBurstLength", 16776192),
    _int("node.session.iscsi.DefaultTime2Retain", 0),
    _int("node.session.iscsi.DefaultTime2Wait", 2),
    _int("node.session.iscsi.MaxConnections", 1),
    _int("node.session.iscsi.MaxOutstandingR2T", 1),
    _int("node.session.iscsi.ERL", 0),
    _enum("node.session.scan", "auto", "manual", "auto"),
    _int("node.session.reopen_max", 0),
    Key("node.conn[0].address", size=1024, read_only=True),
    _int("node.conn[0].port", 3260, read_only=True),
    _enum("node.conn[0].startup", "manual", *_STARTUP),
    _int("node.conn[0].tcp.window_size", 524288),
    _int("node.conn[0].tcp.type_of_service", 0),
    _int("node.conn[0].timeo.logout_timeout", 15),
    _int("node.conn[0].timeo.login_timeout", 30),
    _int("node.conn[0].timeo.auth_timeout", 45),
    _int("node.conn[0].timeo.noop_out_interval", 5),
    _int("node.conn[0].timeo.noop_out_timeout", 5),
    _int("node.conn[0].iscsi.MaxXmitDataSegmentLength", 0),
    _int("node.conn[0].iscsi.MaxRecvDataSegmentLength", 262144),
    _enum("node.conn[0].iscsi.HeaderDigest", "None", *_DIGESTS),
    _enum("node.conn[0].iscsi.DataDigest", "None", *_DIGESTS),
    _enum("node.conn[0].iscsi.IFMarker", "No"),
    _enum("node.conn[0].iscsi.OFMarker", "No"),
)


def _iface(words: str) -> tuple[Key, ...]:
    """Keys "iface.NAME" (string) or "iface.NAME/BITS" (unsigned)."""
    keys = []
    for word in words.split():
        name, _, bits = word.partition("/")
        keys.append(Key(f"iface.{name}", f"uint{bits}", "0") if bits else Key(f"iface.{name}"))
    return tuple(keys)


_IFACE_HEAD = (
    Key("iface.iscsi_ifacename", size=64),
    Key("iface.net_ifacename", size=15),
    Key("iface.ipaddress", size=1024),
    *_iface("prefix_len/8"),
    Key("iface.hwaddress", size=17),
    Key("iface.transport_name", default="tcp", size=15),
    *_iface("initiatorname state vlan_id/16 vlan_priority/8 vlan_state iface_num/32 mtu/16 port/16"),
)
_IFACE_IPV4 = _iface(
    "bootproto subnet_mask gateway dhcp_alt_client_id_state dhcp_alt_client_id dhcp_dns dhcp_learn_iqn"
    " dhcp_req_vendor_id_state dhcp_vendor_id_state dhcp_vendor_id dhcp_slp_da fragmentation gratuitous_arp"
    " incoming_forwarding tos_state tos/8 ttl/8"
)
_IFACE_IPV6 = _iface(
    "ipv6_autocfg linklocal_autocfg router_autocfg ipv6_linklocal ipv6_router dup_addr_detect_cnt/8 flow_label/32"
    " gratuitous_neighbor_adv hop_limit/8 mld nd_reachable_tmo/32 nd_rexmit_time/32 nd_stale_tmo/32"
    " router_adv_link_mtu/32 traffic_class/8"
)
_IFACE_TAIL = _iface(
    "delayed_ack tcp_nagle tcp_wsf_state tcp_wsf/8 tcp_timer_scale/8 tcp_timestamp redirect def_task_mgmt_timeout/16"
    " header_digest data_digest immediate_data initial_r2t data_seq_inorder data_pdu_inorder erl/8"
    " max_receive_data_len/32 first_burst_len/32 max_outstanding_r2t/16 max_burst_len/32 chap_auth bidi_chap"
    " strict_login_compliance discovery_auth discovery_logout"
)

_DISCOVERY_HEAD = (
    _enum("discovery.startup", "manual", "manual", "automatic"),
    _enum(
        "discovery.type", "sendtargets", "sendtargets", "isns", "offload_send_targets", "static", "fw", read_only=True
    ),
    Key("discovery.sendtargets.address", size=1024, read_only=True),  # of every type, iSNS too
    _int("discovery.sendtargets.port", 3260, read_only=True),
)
_SENDTARGETS = Table(
    (
        *_DISCOVERY_HEAD,
        *_chap("discovery.sendtargets.auth"),
        _int("discovery.sendtargets.timeo.login_timeout", 15),
        _enum("discovery.sendtargets.use_discoveryd", "No"),
        _int("discovery.sendtargets.discoveryd_poll_inval", 30),
        _int("discovery.sendtargets.reopen_max", 5),
        _int("discovery.sendtargets.timeo.auth_timeout", 45),
        _int("discovery.sendtargets.timeo.active_timeout", 30),
        _int("discovery.sendtargets.iscsi.MaxRecvDataSegmentLength", 32768),
    )
)
_ISNS = Table(
    (
        *_DISCOVERY_HEAD,
        _enum("discovery.isns.use_discoveryd", "No"),
        _int("discovery.isns.discoveryd_poll_inval", -1),
    )
)

_IFACES = (
    Table((*_IFACE_HEAD, *_IFACE_IPV4, *_IFACE_TAIL)),
    Table((*_IFACE_HEAD, *_IFACE_IPV6, *_IFACE_TAIL)),
)
_NODES = tuple(Table((*_NODE_HEAD, *iface.keys, *_NODE_TAIL)) for iface in _IFACES)


def node_table(iface_name: str) -> Table:
    """The keys of a node record bound to this interface."""
    return _NODES[is_ipv6_type(iface_name)]


def iface_table(iface_name: str) -> Table:
    """The keys of an interface record."""
    return _IFACES[is_ipv6_type(iface_name)]


def discovery_table(type: str) -> Table:
    """The keys of a discovery record: `type` is "sendtargets" or "isns"."""
    return _ISNS if type == "isns" else _SENDTARGETS


def is_ipv6_type(iface_name: str) -> bool:
    """open-iscsi tells by the name, for every transport."""
    return "ipv6" in iface_name


def defaults(table: Table) -> Record:
    """A record of built-in defaults."""
    return {key.name: Secret("") if key.secret else key.default for key in table.keys}


def convert(key: Key, text: str) -> tuple[Value, list[str]]:
    """The value a text becomes, and remarks about what was ignored in it (whole sentences).

    Numbers are never refused: what is no number is 0, what is too large wraps. ValueProblem for a word that an enum
    does not have, and for control characters, which would write a second line into a record.
    """
    if has_control_characters(text.strip()):
        raise ValueProblem("it contains a control character")
    text = text.strip()
    if key.kind == "string":
        cut = text.encode("utf-8", "surrogateescape")[: key.size].decode("utf-8", "ignore")
        return (Secret(cut) if key.secret else cut), []
    if key.kind == "enum":
        if text not in key.words:
            raise ValueProblem(f"it must be one of {', '.join(key.words)}")
        return text, []
    if key.kind == "list":
        return _convert_list(key, text)
    return str(_convert_number(key.kind, text)), []


def has_control_characters(text: str) -> bool:
    """Whether a text could end a line, or steer a terminal."""
    return not text.isprintable() and any(c < " " or c in "\x7f\x85\u2028\u2029" for c in text)


def shown(key: Key, value: Value, *, reveal: bool = False) -> str:
    """A value as the screen shows it: "<empty>", or stars for a secret unless `reveal`."""
    if isinstance(value, Secret):
        if not value:
            return EMPTY
        return value.reveal() if reveal else MASK
    if key.shown_16_bits:
        return str(int(value) & 0xFFFF)
    return value or EMPTY


def plain(value: Value) -> str:
    """A value's text, secrets included: for the daemon and the store."""
    return value.reveal() if isinstance(value, Secret) else value


def wire_record(record: Record) -> dict[str, str]:
    """A record as it travels to the daemon: text, secrets included, nothing empty."""
    return {key: plain(value) for key, value in record.items() if value}


def wire_node(record: Record) -> dict[str, str]:
    """A node record as it travels to be logged in: as above, without what the daemon has as a built-in default."""
    table = node_table(plain(record.get("iface.iscsi_ifacename", "default")))
    usual = {key.name: key.default for key in table.keys}
    return {key: text for key, text in wire_record(record).items() if text != usual.get(key)}


def _convert_list(key: Key, text: str) -> tuple[str, list[str]]:
    chosen: list[str] = []
    remarks = []
    for word in text.replace(",", " ").split():
        if word not in key.words:
            remarks.append(f"Ignoring unknown value '{word}' for '{key.name}'")
        elif word in chosen:
            remarks.append(f"Ignoring repeated value '{word}' for '{key.name}'")
        else:
            chosen.append(word)
    return ",".join(chosen) or key.default, remarks


def _convert_number(kind: str, text: str) -> int:
    """What strtoul(3) and a cast to the field's width make of `text`."""
    sign, digits = 1, text
    if text[:1] in ("+", "-"):
        sign, digits = (-1 if text[0] == "-" else 1), text[1:]
    end = 0
    while end < len(digits) and digits[end] in "0123456789":
        end += 1
    number = int(digits[: min(end, 40)] or "0")
    number = _UNSIGNED_LONG_MAX if number > _UNSIGNED_LONG_MAX else sign * number & _UNSIGNED_LONG_MAX
    if kind == "int":
        number &= 0xFFFFFFFF
        return number - (1 << 32) if number >> 31 else number
    return number & ((1 << int(kind[4:])) - 1)
