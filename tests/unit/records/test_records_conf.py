# SPDX-License-Identifier: Apache-2.0
"""iscsid.conf and initiatorname.iscsi."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmactl.errors import StoreError
from rdmactl.records import conf
from rdmactl.records.conf import Setting, parse_config
from rdmactl.records.model import defaults, node_table


def test_what_a_line_is() -> None:
    text = "# comment\n   a.b   =  some value  \n\n\tc = d = e # f\n"
    assert parse_config(text) == ([Setting(2, "a.b", "some value"), Setting(4, "c", "d = e # f")], [])


@pytest.mark.parametrize(
    ("line", "warning"),
    [
        ("bogus\n", "Config file line 1 does not have value"),
        ("bogus =\n", "Config file line 1 does not have value"),
        ("key=7\n", "Config file line 1 does not have '=' separator"),
        ("key= 7\n", "Config file line 1 does not have '=' separator"),
        ("key 7\n", "Config file line 1 does not have '=' separator"),
        ("k = " + "x" * 3000 + "\n", "Config file line 1 too long."),
        ("k = v", "Config file line 2 too long."),
    ],
)
def test_lines_that_are_wrong(line: str, warning: str) -> None:
    assert parse_config(line)[1] == [warning]


def test_later_settings_win_and_bad_words_leave_the_default() -> None:
    table = node_table("default")
    record = defaults(table)
    settings = [
        Setting(1, "node.session.queue_depth", "7"),
        Setting(2, "node.session.queue_depth", "8"),
        Setting(3, "node.startup", "Automatic"),
        Setting(4, "node.name", "x"),
        Setting(5, "who.knows", "x"),
    ]
    assert conf.apply(record, table, settings) == [
        "config file line 3 contains unknown value format 'Automatic' for parameter name 'node.startup'"
    ]
    assert (record["node.session.queue_depth"], record["node.startup"], record["node.name"]) == ("8", "manual", "")


def test_the_daemons_own_options(tmp_path: Path) -> None:
    (tmp_path / "iscsid.conf").write_text("# iscsid.safe_logout = No\niscsid.safe_logout=Yes\n")
    assert conf.option("iscsid.safe_logout", str(tmp_path)) == "Yes"
    assert conf.option("iscsid.startup", str(tmp_path)) is None


def test_the_initiator_name_is_read(tmp_path: Path) -> None:
    path = tmp_path / "initiatorname.iscsi"
    assert conf.initiator_name(str(tmp_path)) is None
    path.write_text("## comment\nGenerateName=yes\n#InitiatorName=iqn.no\nInitiatorName = iqn.1993-08.org:01:a \n")
    assert conf.initiator_name(str(tmp_path)) == "iqn.1993-08.org:01:a"
    assert conf.ensure_initiator_name(str(tmp_path)) == "iqn.1993-08.org:01:a"


def test_a_missing_initiator_name_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "initiatorname.iscsi"
    path.write_text("# made by hand\nInitiatorAlias=host")
    name = conf.ensure_initiator_name(str(tmp_path), lambda count: bytes(range(count)))
    assert name == "iqn.2016-04.com.open-iscsi:012345"
    assert path.read_text() == f"# made by hand\nInitiatorAlias=host\nInitiatorName={name}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert conf.ensure_initiator_name(str(tmp_path)) == name


def test_a_name_that_cannot_be_stored_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        conf.ensure_initiator_name(str(tmp_path / "file" / "sub"))


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    settings, _ = parse_config(text)
    for setting in settings:
        assert setting.key.strip() == setting.key != ""
        assert setting.value.strip() == setting.value != ""
