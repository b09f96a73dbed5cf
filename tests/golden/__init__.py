# SPDX-License-Identifier: Apache-2.0
"""iseradm, called as iscsiadm, against recorded runs of open-iscsi 2.1.8."""
