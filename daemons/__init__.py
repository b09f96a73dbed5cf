# SPDX-License-Identifier: Apache-2.0
"""The daemons: one screen each, and the files the distribution installs for them."""
