# SPDX-License-Identifier: Apache-2.0
"""The iWARP port mapper: engines, and the service around them."""
