# SPDX-License-Identifier: Apache-2.0
"""Front ends: words in, text and exit status out."""
