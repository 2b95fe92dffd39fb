"""Print what drtf[serve,dicom] requires, for an image without a display.

    python docker/requirements.py tensorflow-cpu

OpenCV is the package without a display, and TensorFlow is the named package.
"""

import configparser
import re
import sys
from pathlib import Path

EXTRAS = ("serve", "dicom")
LEFT_OUT = ("tensorflow-io",)  # only for plain TensorFlow code that reads from stores


def requirements(tensorflow: str) -> list[str]:
    """Return the requirements, one per line."""
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(Path(__file__).parents[1] / "setup.cfg")
    lines = setup["options"]["install_requires"].splitlines()
    for extra in EXTRAS:
        lines += setup["options.extras_require"][extra].splitlines()
    renamed = {"opencv-python": "opencv-python-headless", "tensorflow": tensorflow}
    found = []
    for line in filter(None, map(str.strip, lines)):
        name = re.match(r"[\w-]+", line)[0]
        if name not in LEFT_OUT:
            found.append(renamed.get(name, name) + line[len(name) :])
    return found


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1])))
