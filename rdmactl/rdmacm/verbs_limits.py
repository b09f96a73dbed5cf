# SPDX-License-Identifier: Apache-2.0
"""A device's limits as its verbs report them, where python3-pyverbs is installed and works. Shell ring.

pyverbs opens the device, and a library may keep it open for the life of the process: only short-lived programs may
call this. Not here: anything needed to do RDMA (that is `endpoint.py`, through our own module).
See ibv_query_device(3), ibv_query_port(3).
"""

from __future__ import annotations

__all__ = ["read_limits"]

_DEVICE = ("max_qp", "max_qp_wr", "max_sge", "max_cq", "max_cqe", "max_mr", "max_mr_size", "max_pd", "max_qp_rd_atom")
_MTU_BYTES = {1: 256, 2: 512, 3: 1024, 4: 2048, 5: 4096}  # enum ibv_mtu


def read_limits(device: str, ports: list[int]) -> dict[str, int] | None:
    """Limits by their names in struct ibv_device_attr, and `port<N>_active_mtu`, `port<N>_max_mtu` in bytes.

    None when pyverbs is missing, does not fit the installed libibverbs, or cannot open the device.
    """
    try:
        from pyverbs.device import Context

        with Context(name=device) as context:
            attributes = context.query_device()
            limits = {name: int(getattr(attributes, name)) for name in _DEVICE}
            for number in ports:
                port = context.query_port(number)
                for mtu in ("active_mtu", "max_mtu"):
                    limits[f"port{number}_{mtu}"] = _MTU_BYTES.get(getattr(port, mtu), 0)
    except Exception:
        # It is a courtesy: whatever a binding of another version raises must not take the inventory down.
        return None
    return limits
