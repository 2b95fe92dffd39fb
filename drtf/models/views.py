"""The views of a photograph whose scores test-time augmentation averages."""

from collections.abc import Mapping, Sequence

from drtf.config import Tta

# The views of `drtf.models.prediction.build_views`, in its order.
VIEWS: Mapping[Tta, Sequence[str]] = {
    "none": ("unchanged",),
    "flips5": (
        "unchanged",
        "flipped horizontally",
        "flipped vertically",
        "flipped horizontally and flipped vertically",
        "1.1 times as bright, clipped at white",
    ),
    "dihedral8": (
        "unchanged",
        "rotated by 180 degrees",
        "transposed",
        "transposed and rotated by 180 degrees",
        "flipped horizontally",
        "rotated by 180 degrees and flipped horizontally",
        "transposed and flipped horizontally",
        "transposed, rotated by 180 degrees and flipped horizontally",
    ),
}


def photographs_per_batch(batch_size: int, tta: Tta) -> int:
    """Return the number of photographs whose views fill a batch, at least 1."""
    return max(batch_size // len(VIEWS[tta]), 1)
