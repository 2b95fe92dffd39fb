import numpy as np

from drtf.records.gather import Frames

def read_frames(
    frames: Frames,
    rows: np.ndarray,
    out: np.ndarray,
    num_threads: int,
    verify_checksums: bool = True,
    /,
) -> int: ...
