# SPDX-License-Identifier: Apache-2.0
"""rtnetlink through the dispatcher, against the running kernel, in a network namespace of its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.netns

DEADLINE_S = 20.0


def scenario() -> None:
    """In a child process inside a fresh namespace: make a link, watch it through a lane."""
    from rdmactl.netlink import route, uevent
    from rdmactl.netlink.dispatcher import Dispatcher
    from rdmactl.netlink.message import NETLINK_KOBJECT_UEVENT, NETLINK_ROUTE
    from rdmactl.netlink.ports import ChannelSpec, Lane, Received, Reply
    from tests.fake.services import Log, until

    groups = (route.RTNLGRP_LINK, route.RTNLGRP_IPV4_IFADDR, route.RTNLGRP_IPV4_ROUTE)
    events: list[object] = []
    devices: list[uevent.Uevent | None] = []
    dump: list[object] = []

    class Watcher(Log):
        async def run(self, lane: Lane) -> None:
            route.preload()
            channel = lane.open(ChannelSpec(NETLINK_ROUTE, groups, receive_bytes=32768), self)
            log = Log(lambda received: devices.append(uevent.parse(received.message.payload)))
            lane.open(ChannelSpec(NETLINK_KOBJECT_UEVENT, (uevent.GROUP_KERNEL,)), log)
            channel.send(route.RTM_GETLINK, route.ANY, flags=route.DUMP)
            await asyncio.Event().wait()

        def received(self, received: Received, now: float) -> None:
            events.append(route.parse(received.message))

        def replied(self, reply: Reply, now: float) -> None:
            dump.extend(route.parse(message) for message in reply.messages)

    def has(kind: type, **fields: object) -> bool:
        return any(
            isinstance(event, kind) and all(getattr(event, name) == value for name, value in fields.items())
            for event in events
        )

    async def main() -> None:
        dispatcher = Dispatcher()
        dispatcher.add("watcher", Watcher)
        await dispatcher.start(DEADLINE_S)
        await until(lambda: dump)
        assert [event.name for event in dump if isinstance(event, route.LinkEvent)] == ["lo"]
        for command in (
            "link add rdmactl0 type veth peer rdmactl1",
            "link set rdmactl1 up",
            "link set rdmactl0 mtu 1400 up",
            "addr add 192.0.2.1/24 dev rdmactl0",
            "route add 198.51.100.0/24 via 192.0.2.2",
            "route add default via 192.0.2.3",
            "link del rdmactl0",
        ):
            await asyncio.to_thread(subprocess.run, ["ip", *command.split()], check=True)
        await until(lambda: has(route.LinkEvent, gone=True, name="rdmactl0"))
        assert has(route.LinkEvent, gone=False, name="rdmactl0", up=True, carrier=True, mtu=1400)
        assert has(route.AddressEvent, gone=False, address="192.0.2.1", prefix_length=24)
        assert has(route.AddressEvent, gone=True, address="192.0.2.1")
        assert has(route.RouteEvent, gone=False, destination="198.51.100.0", prefix_length=24, gateway="192.0.2.2")
        assert has(route.RouteEvent, gone=False, destination=None, gateway="192.0.2.3", table=254)
        await until(lambda: any(device and device.action == "remove" for device in devices))
        assert any(device and device.subsystem == "net" and device.action == "add" for device in devices)
        (status,) = dispatcher.status()
        assert (status.restarts, status.counters.overruns, status.counters.foreign) == (0, 0, 0)
        await dispatcher.stop(DEADLINE_S)

    asyncio.run(main())


def test_links_addresses_and_routes_become_events() -> None:
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = "from tests.netns.test_route import scenario; scenario()"
    command = ["unshare", "--net", sys.executable, "-c", code]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
