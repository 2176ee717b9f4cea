"""Files with a few bytes changed, lost or added."""

import random


def damaged(content: bytes, draw: random.Random, first: int) -> bytes:
    """`content` with up to three bytes put in the place of up to two, somewhere in its `first` bytes."""
    place = draw.randrange(first)
    return content[:place] + draw.randbytes(draw.randrange(1, 4)) + content[place + draw.randrange(3) :]
