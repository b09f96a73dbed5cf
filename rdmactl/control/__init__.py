# SPDX-License-Identifier: Apache-2.0
"""The Varlink interfaces, their server, and the thin client."""
