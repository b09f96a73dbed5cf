# SPDX-License-Identifier: Apache-2.0
"""What holds for all tests: generated cases are the same in every run, no clock judges them, none shows a password."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest
from hypothesis import settings

# A time limit for each example fails on a busy machine, for nothing; what is slow shows in pytest's --durations.
settings.register_profile("rdmactl", deadline=None, derandomize=True)
settings.load_profile("rdmactl")

# Tests never read, and so never follow, the settings of the machine they run on.
os.environ["RDMACTL_SETTINGS_DIRECTORY"] = "/nonexistent/rdmactl"

SECRETS = ("suite-secret-4711", "corpus-secret-1234", "corpus-secret-5678", "chapsecret1234", "revsecret12345")
"""The passwords that tests use: what a passing test has printed or logged must have none of them."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    shown = [name for name, text in report.sections if any(secret in text for secret in SECRETS)]
    if report.passed and shown:
        report.outcome = "failed"
        report.longrepr = f"a password of the tests is in: {', '.join(shown)}"
    return report
