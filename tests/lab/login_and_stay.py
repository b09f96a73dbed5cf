# SPDX-License-Identifier: Apache-2.0
"""A daemon to be killed: logs in, prints the sid, and stays. With "half" it stops when the target has let it in."""

from __future__ import annotations

import asyncio
import sys

from rdmactl.initiator.kernel import Kernel
from tests.initiator_scenarios import login, request
from tests.lab.initiator_world import RealWorld


async def stop_here(*_: object) -> None:
    print("half way", flush=True)
    await asyncio.Event().wait()


def main(transport: str, how: str = "") -> None:
    world = RealWorld()
    if how == "half":
        Kernel.start = stop_here  # type: ignore[method-assign]

    async def scenario() -> None:
        print(await login(world, request(world, transport)), flush=True)
        await asyncio.Event().wait()

    world.run(scenario)


if __name__ == "__main__":
    main(*sys.argv[1:])
