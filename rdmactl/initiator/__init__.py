# SPDX-License-Identifier: Apache-2.0
"""Sessions through the kernel (NETLINK_ISCSI) and discovery over TCP."""
