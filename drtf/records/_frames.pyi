import numpy as np

def read_frames(
    files: np.ndarray,
    offsets: np.ndarray,
    lengths: np.ndarray,
    image_offsets: np.ndarray,
    image_lengths: np.ndarray,
    crcs: np.ndarray,
    starts: np.ndarray,
    out: np.ndarray,
    check: bool = True,
    /,
) -> int: ...
