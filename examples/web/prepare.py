"""Write photographs as a run's network takes them.

Usage: python prepare.py RUN PHOTOGRAPHS OUT

OUT gets one PNG file per photograph, whose pixels are those that drtf score predicts.
"""

import sys
from pathlib import Path

import cv2

from drtf.models.run import load_run
from drtf.photographs.listing import list_photographs
from drtf.photographs.prepare import Rejected
from drtf.scoring.photograph_scores import prepare_photographs


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    run, photographs, out = map(Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    listing = list_photographs(photographs)
    prepared = prepare_photographs(load_run(run), listing.photographs, num_workers=1)
    written: set[str] = set()  # photographs of several folders may get one name
    for photograph in prepared:
        if isinstance(photograph, Rejected):
            print(f"{photograph.path}: {photograph.detail}", file=sys.stderr)
            continue
        name = photograph.path.replace("/", "_")
        while name.casefold() in written:
            name += "_"
        written.add(name.casefold())
        pixels = cv2.cvtColor(photograph.image, cv2.COLOR_RGB2BGR)
        _, encoded = cv2.imencode(".png", pixels)
        (out / f"{name}.png").write_bytes(encoded.tobytes())


if __name__ == "__main__":
    main()
