# SPDX-License-Identifier: Apache-2.0
"""I/O that notices: writes and reads a disk past the page cache, and ends at the first error or wrong byte.

    python -m tests.lab.verified_io DISK SEED

On SIGTERM it reads everything it has written once more, prints how much it did, and ends with 0.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import sys

BLOCK_BYTES = 4096
BLOCKS = 512
PARTS = 16  # of a disk: two paths to one disk get a part each, by their seeds


def stamp(seed: int, block: int, generation: int) -> bytes:
    """What a block holds after its n-th writing: different for each disk, place and time."""
    return random.Random(f"{seed} {block} {generation}").randbytes(64) * (BLOCK_BYTES // 64)


def main(disk: str, seed: int) -> None:
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    buffer = mmap.mmap(-1, BLOCK_BYTES)  # O_DIRECT wants an aligned one
    generations: dict[int, int] = {}
    dice = random.Random(seed)
    operations = 0
    descriptor = os.open(disk, os.O_RDWR | os.O_DIRECT)

    def at(block: int) -> int:
        return (seed % PARTS * BLOCKS + block) * BLOCK_BYTES

    def check(block: int) -> None:
        assert os.preadv(descriptor, [buffer], at(block)) == BLOCK_BYTES
        assert buffer[:] == stamp(seed, block, generations[block]), f"{disk}: block {block} is not what was written"

    print("running", flush=True)
    while not stop:
        block = dice.randrange(BLOCKS)
        generations[block] = generations.get(block, 0) + 1
        buffer[:] = stamp(seed, block, generations[block])
        assert os.pwritev(descriptor, [buffer], at(block)) == BLOCK_BYTES
        check(dice.choice(list(generations)))
        operations += 2
    for block in generations:
        check(block)
    print(f"{operations} operations verified", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
