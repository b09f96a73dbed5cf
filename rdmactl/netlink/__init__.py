# SPDX-License-Identifier: Apache-2.0
"""Netlink: the formats (engine ring: message, rdma, iscsi, nldev) and the shared dispatcher (shell ring: the rest)."""
