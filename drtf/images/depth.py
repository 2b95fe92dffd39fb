"""Sample depth: reduces samples of any type to the 8 bits of a photograph."""

import numpy as np

from drtf.errors import PhotographError

DEPTHS = (8, 10, 12, 14, 16)


def reduce_to_8_bits(samples: np.ndarray, *, declared_bits: int = 0) -> np.ndarray:
    """Scale samples so that the range of the bits in use becomes 0-255.

    Cameras store 10, 12 or 14 bits in files of 16, often without declaring it. PNG's
    sBIT is of no use: a correct file has its samples scaled to 16 bits in spite of it.

    Args:
        samples: Integers, or floats from 0 to 1 or from 0 to 255, of any shape.
        declared_bits: Bits per sample according to the file, with the sign. 0 if it
            declares none, or only the size of its samples: it is then the smallest of
            8, 10, 12, 14 and 16 bits that holds the largest sample.

    Returns:
        uint8, of the same shape.

    Raises:
        PhotographError: With reason `unsupported` if a sample is out of range.
    """
    smallest, largest = samples.min(initial=0), samples.max(initial=0)
    is_float = np.issubdtype(samples.dtype, np.floating)
    if not smallest >= 0 or (is_float and not largest <= 255):  # true for NaN
        raise PhotographError(
            "unsupported",
            f"its {samples.dtype} samples reach from {smallest:g} to {largest:g}; save "
            "it with 8 or 16 bits per sample, which are not negative",
        )
    if is_float:
        return (samples * (255 if largest <= 1 else 1)).round().astype(np.uint8)
    bits = declared_bits - np.issubdtype(samples.dtype, np.signedinteger)
    if not declared_bits or declared_bits >= DEPTHS[-1]:
        used = int(largest).bit_length()
        bits = next((depth for depth in DEPTHS if used <= depth), used)
        bits = min(bits, int(np.iinfo(samples.dtype).max).bit_length())
    samples = samples.astype(f"u{samples.dtype.itemsize}", copy=False)  # native order
    scaled = samples >> (bits - 8) if bits > 8 else samples << (8 - bits)
    return np.minimum(scaled, 255).astype(np.uint8)
