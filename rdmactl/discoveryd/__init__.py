# SPDX-License-Identifier: Apache-2.0
"""The discovery daemon: asks discovery addresses again and again, and keeps sessions in step with the answers."""
