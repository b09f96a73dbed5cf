# SPDX-License-Identifier: Apache-2.0
"""Scenarios that run against a fake kernel and against the real one, so that the fakes are known to be right."""
