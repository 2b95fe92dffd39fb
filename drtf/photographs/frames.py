"""Frames: how the path of a photograph names one frame of a DICOM file.

`eye.dcm#frame=2` is the second frame of `eye.dcm`.
"""

import re

FRAME = re.compile(r"(?P<file>.*)#frame=(?P<number>[1-9]\d{0,8})", re.DOTALL)


def frame_path(path: str, number: int) -> str:
    """Return the path of a frame of a file; numbers start at 1."""
    return f"{path}#frame={number}"


def split_frame(path: str) -> tuple[str, int]:
    """Return the path of the file and the number of the frame, 0 for a whole file."""
    match = FRAME.fullmatch(path) if "#" in path else None
    return (match["file"], int(match["number"])) if match else (path, 0)
