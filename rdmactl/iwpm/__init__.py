# SPDX-License-Identifier: Apache-2.0
"""The iWARP port mapper: claims TCP ports for the kernel's iw_cm and tells peers about them.

Engines: `wire` (UDP messages), `table` (mappings), `states` (all state machines), `link` and `report` (kernel side),
`active` and `passive` (peer side), `mapper` (all of it together).
Shells: `claims`, `udp`, `conf`, `options`, `service`.
"""
