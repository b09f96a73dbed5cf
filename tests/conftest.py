# SPDX-License-Identifier: Apache-2.0
"""What holds for all tests: generated cases are the same in every run, and no clock judges them."""

from __future__ import annotations

import os

from hypothesis import settings

# A time limit for each example fails on a busy machine, for nothing; what is slow shows in pytest's --durations.
settings.register_profile("rdmactl", deadline=None, derandomize=True)
settings.load_profile("rdmactl")

# Tests never read, and so never follow, the settings of the machine they run on.
os.environ["RDMACTL_SETTINGS_DIRECTORY"] = "/nonexistent/rdmactl"
