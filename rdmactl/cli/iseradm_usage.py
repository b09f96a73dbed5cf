# SPDX-License-Identifier: Apache-2.0
"""The usage text, as iscsiadm prints it (two of its lines end with a blank). Face ring."""

__all__ = ["USAGE"]

USAGE = """\
{program} -m discoverydb [-hV] [-d debug_level] [-P printlevel] [-t type -p ip:port -I ifaceN ... [-Dl]] | \
[[-p ip:port -t type] [-o operation] [-n name] [-v value] [-lD]]{blank}
{program} -m discovery [-hV] [-d debug_level] [-P printlevel] [-t type -p ip:port -I ifaceN ... [-l]] | \
[[-p ip:port] [-l | -D]] [-W]
{program} -m node [-hV] [-d debug_level] [-P printlevel] [-L all,manual,automatic,onboot] [-W] \
[-U all,manual,automatic,onboot] [-S] [[-T targetname -p ip:port -I ifaceN] [-l | -u | -R | -s]] \
[[-o operation ] [-n name] [-v value]]
{program} -m session [-hV] [-d debug_level] [-P printlevel] [-r sessionid | sysfsdir [-R | -u | -s] \
[-o operation] [-n name] [-v value]]
{program} -m iface [-hV] [-d debug_level] [-P printlevel] [-I ifacename | -H hostno|MAC] \
[[-o operation ] [-n name] [-v value]] [-C ping [-a ip] [-b packetsize] [-c count] [-i interval]]
{program} -m fw [-d debug_level] [-l] [-W] [[-n name] [-v value]]
{program} -m host [-P printlevel] [-H hostno|MAC] [[-C chap [-x chap_tbl_idx]] | \
[-C flashnode [-A portal_type] [-x flashnode_idx]] | [-C stats]] [[-o operation] [-n name] [-v value]]{blank}
{program} -k priority
"""
