# SPDX-License-Identifier: Apache-2.0
"""The iSNS client (RFC 4171): engines, and the shell around them in `api`, `client` and `watch`. Engine ring."""
