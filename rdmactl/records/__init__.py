# SPDX-License-Identifier: Apache-2.0
"""The record store, and the settings read from /etc."""
