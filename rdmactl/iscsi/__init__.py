# SPDX-License-Identifier: Apache-2.0
"""iSCSI and iSER as engines: bytes and events, no I/O. RFC 7143, RFC 7145."""
