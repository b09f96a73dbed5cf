# SPDX-License-Identifier: Apache-2.0
"""rdma_cm on asyncio through cffi, in short-lived worker processes."""
