# SPDX-License-Identifier: Apache-2.0
"""The control plane of RDMA storage and iWARP hosts.

Nothing is imported here: a front end is judged by its start-up time, and `import rdmactl.x` runs this
file first. docs/design.md says where things live.
"""

__version__ = "0.1.0"
