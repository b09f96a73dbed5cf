# SPDX-License-Identifier: Apache-2.0
"""Declares the one compiled module; everything else is in pyproject.toml."""

from setuptools import setup

setup(cffi_modules=["rdmactl/_cffi_build.py:ffibuilder"])
