# SPDX-License-Identifier: Apache-2.0
"""A sysfs tree of iSCSI hosts, sessions and connections in a directory, as the kernel lays it out.

Attributes are plain files; what the kernel reports as "not connected" (ENOTCONN) is an absent file here, which a
reader must treat alike.
"""

from __future__ import annotations

import shutil
from pathlib import Path

SESSION_DEFAULTS = {
    "state": "FREE",
    "target_state": "ALLOCATED",
    "creator": "4242",
    "recovery_tmo": "120",
    "abort_tmo": "10",
    "lu_reset_tmo": "15",
    "tgt_reset_tmo": "30",
    "targetname": "(null)",
    "initiatorname": "(null)",
    "ifacename": "(null)",
    "tpgt": "0",
    "username": "(null)",
    "password": "(null)",
    "username_in": "(null)",
    "password_in": "(null)",
    "initial_r2t": "0",
    "immediate_data": "0",
    "first_burst_len": "0",
    "max_burst_len": "0",
    "max_outstanding_r2t": "1",
}

CONNECTION_DEFAULTS = {
    "state": "down",
    "persistent_address": "(null)",
    "persistent_port": "0",
    "header_digest": "0",
    "data_digest": "0",
    "max_recv_dlength": "8192",
    "max_xmit_dlength": "0",
    "exp_statsn": "0",
    "ping_tmo": "0",
    "recv_tmo": "0",
}


class FakeSysfs:
    """The tree below `root`. Numbers are given by the caller: this class decides nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in (
            "iscsi_session",
            "iscsi_connection",
            "iscsi_host",
            "scsi_host",
            "iscsi_transport",
            "iscsi_endpoint",
        ):
            (root / "class" / name).mkdir(parents=True, exist_ok=True)

    def add_transport(self, name: str, handle: int, caps: int) -> None:
        self.write(self.root / "class/iscsi_transport" / name, {"handle": str(handle), "caps": hex(caps)})
        self.write(self.root / "module/scsi_transport_iscsi", {"version": "2.0-870"})

    def add_session(self, transport: str, sid: int, host_no: int, can_queue: int = 113) -> None:
        device = self.host_device(host_no)
        own = device / f"session{sid}"
        self.write(own / "iscsi_session" / f"session{sid}", SESSION_DEFAULTS)
        self.link("iscsi_session", f"session{sid}", own / "iscsi_session" / f"session{sid}")
        for kind in ("iscsi_host", "scsi_host"):
            self.write(device / kind / f"host{host_no}", {})
            self.link(kind, f"host{host_no}", device / kind / f"host{host_no}")
        self.write(device / "scsi_host" / f"host{host_no}", {"proc_name": f"iscsi_{transport}", "state": "running"})
        self.write(device / "scsi_host" / f"host{host_no}", {"scan": "", "can_queue": str(can_queue)})
        names = ("initiatorname", "hwaddress", "netdev")
        self.write(device / "iscsi_host" / f"host{host_no}", dict.fromkeys(names, "(null)"))

    def add_connection(self, sid: int, host_no: int) -> None:
        own = self.host_device(host_no) / f"session{sid}" / f"connection{sid}:0" / "iscsi_connection"
        self.write(own / f"connection{sid}:0", CONNECTION_DEFAULTS)
        self.link("iscsi_connection", f"connection{sid}:0", own / f"connection{sid}:0")

    def add_lun(self, sid: int, host_no: int, lun: int, disk: str | None) -> None:
        own = self.host_device(host_no) / f"session{sid}" / f"target{host_no}:0:0" / f"{host_no}:0:0:{lun}"
        self.write(own, {"state": "running", "queue_depth": "32", "type": "0"})
        if disk is not None:
            self.write(own / "block" / disk, {"size": "131072"})

    def add_endpoint(self, number: int) -> None:
        own = self.root / "devices/virtual/iscsi_endpoint" / f"ep-{number}"
        self.write(own, {"handle": str(number)})
        self.link("iscsi_endpoint", f"ep-{number}", own)

    def remove_endpoint(self, number: int) -> None:
        (self.root / "class/iscsi_endpoint" / f"ep-{number}").unlink()
        shutil.rmtree(self.root / "devices/virtual/iscsi_endpoint" / f"ep-{number}")

    def remove_luns(self, sid: int, host_no: int) -> None:
        shutil.rmtree(self.host_device(host_no) / f"session{sid}" / f"target{host_no}:0:0", ignore_errors=True)

    def remove_connection(self, sid: int, host_no: int) -> None:
        (self.root / "class/iscsi_connection" / f"connection{sid}:0").unlink()
        shutil.rmtree(self.host_device(host_no) / f"session{sid}" / f"connection{sid}:0")

    def remove_session(self, sid: int, host_no: int) -> None:
        for kind, name in (
            ("iscsi_session", f"session{sid}"),
            ("iscsi_host", f"host{host_no}"),
            ("scsi_host", f"host{host_no}"),
        ):
            (self.root / "class" / kind / name).unlink()
        shutil.rmtree(self.host_device(host_no))

    def set_session(self, sid: int, **attributes: str) -> None:
        self.write(self.root / "class/iscsi_session" / f"session{sid}", attributes)

    def set_connection(self, sid: int, **attributes: str) -> None:
        self.write(self.root / "class/iscsi_connection" / f"connection{sid}:0", attributes)

    def get_session(self, sid: int, name: str) -> str:
        return (self.root / "class/iscsi_session" / f"session{sid}" / name).read_text().strip()

    def clear_connection(self, sid: int, *names: str) -> None:
        for name in names:
            (self.root / "class/iscsi_connection" / f"connection{sid}:0" / name).unlink(missing_ok=True)

    def set_host(self, host_no: int, **attributes: str) -> None:
        self.write(self.root / "class/iscsi_host" / f"host{host_no}", attributes)

    def host_device(self, host_no: int) -> Path:
        return self.root / "devices/platform" / f"host{host_no}"

    def write(self, directory: Path, attributes: dict[str, str]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        for name, value in attributes.items():
            temporary = directory / f".{name}"
            temporary.write_text(value + "\n")
            temporary.rename(directory / name)  # a reader sees a whole value, as in sysfs

    def link(self, kind: str, name: str, to: Path) -> None:
        where = self.root / "class" / kind / name
        if not where.is_symlink():
            where.symlink_to(to.resolve())
