# SPDX-License-Identifier: Apache-2.0
"""CRC32C against the values of RFC 7143 and of others."""

import pytest

from rdmactl.iscsi.digest import crc32c, digest

READ_COMMAND = bytes.fromhex(
    "01c00000000000000000000000000000140000000000040000000014000000182800000000000000020000000000 0000"
)


@pytest.mark.parametrize(
    ("data", "value", "wire"),
    [
        (bytes(32), 0x8A9136AA, "aa36918a"),
        (b"\xff" * 32, 0x62A8AB43, "43aba862"),
        (bytes(range(32)), 0x46DD794E, "4e79dd46"),
        (bytes(range(31, -1, -1)), 0x113FDB5C, "5cdb3f11"),
        (b"123456789", 0xE3069283, "839206e3"),
        (READ_COMMAND, 0xD9963A56, "563a96d9"),
        (b"", 0, "00000000"),
    ],
)
def test_known_values(data: bytes, value: int, wire: str) -> None:
    assert crc32c(data) == value
    assert digest(data).hex() == wire
