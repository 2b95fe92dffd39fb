"""Sample depth: reduces samples of 10 to 16 bits to the 8 bits of a photograph."""

import numpy as np

DEPTHS = (8, 10, 12, 14, 16)


def reduce_to_8_bits(samples: np.ndarray, *, declared_bits: int = 0) -> np.ndarray:
    """Scale samples so that the range of the bits in use becomes 0-255.

    Cameras store 10, 12 or 14 bits in files of 16, often without declaring it. PNG's
    sBIT is of no use: a correct file has its samples scaled to 16 bits in spite of it.

    Args:
        samples: Unsigned integers of any shape.
        declared_bits: Bits per sample according to the file. 0 if it declares none, or
            only the size of its samples: it is then the smallest of 8, 10, 12, 14 and
            16 bits that holds the largest sample.

    Returns:
        uint8, of the same shape.
    """
    bits = declared_bits
    if not bits or bits >= DEPTHS[-1]:
        largest = int(samples.max(initial=0))
        bits = next((x for x in DEPTHS if largest < 1 << x), largest.bit_length())
    scaled = samples >> (bits - 8) if bits > 8 else samples << (8 - bits)
    return np.minimum(scaled, 255).astype(np.uint8)
