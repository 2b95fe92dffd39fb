"""A folder of synthetic photographs and labels, organized like EyePACS."""

import functools
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from drtf.files import check_absent, write_atomic
from drtf.images.preprocess import limit_threads
from drtf.progress import progress
from drtf.synthetic.patient import EYES, Eye
from drtf.synthetic.photograph import Photograph, draw_photograph
from drtf.workers import map_in_order

GRADE_FRACTIONS = (0.57, 0.08, 0.20, 0.08, 0.07)
UNEQUAL_EYES_PROBABILITY = 0.2
JPEG_QUALITY = 92
# In a comment of each JPEG, so that photographs stay recognizable when they are copied.
MARK = b"drawn by drtf; not a photograph of an eye"

# Kaggle numbers training and test patients together. The training part starts with
# patient 10 and has about two of five numbers.
FIRST_PATIENT = 10
TRAINING_FRACTION = 0.4


@dataclass(frozen=True)
class PlannedPhotograph:
    """The plan of one photograph of a dataset.

    Attributes:
        patient: Number of the patient, >= 10.
        eye: "left" or "right".
        grade: Grade of diabetic retinopathy, 0-4.
        patient_seed: The same for both eyes of a patient.
        seed: Different for each photograph.
    """

    patient: int
    eye: Eye
    grade: int
    patient_seed: int
    seed: int

    @property
    def name(self) -> str:
        """The photograph's id in the label file, such as "10_left"."""
        return f"{self.patient}_{self.eye}"

    def draw(self) -> Photograph:
        """Draw the photograph; each call returns the same pixels."""
        return draw_photograph(
            self.grade, patient_seed=self.patient_seed, eye=self.eye, seed=self.seed
        )


def plan_photographs(num_patients: int, *, seed: int) -> list[PlannedPhotograph]:
    """Plan both eyes of each patient, in the order of the label file.

    About half of the eyes are healthy. In four of five patients both eyes have the
    same grade; in the others the grades may differ by one. A longer plan with the same
    seed starts with the shorter one.

    Args:
        num_patients: >= 1.
        seed: >= 0.

    Raises:
        ValueError: If a number is out of range.
    """
    if num_patients < 1:
        raise ValueError(f"num_patients must be >= 1 (got {num_patients})")
    if seed < 0:
        raise ValueError(f"seed must be >= 0 (got {seed})")
    planned = []
    patient = FIRST_PATIENT
    for index in range(num_patients):
        rng = np.random.default_rng([seed, index])
        grade = int(rng.choice(len(GRADE_FRACTIONS), p=GRADE_FRACTIONS))
        other_grade = grade
        if rng.random() < UNEQUAL_EYES_PROBABILITY:
            other_grade = int(np.clip(grade + rng.choice([-1, 1]), 0, 4))
        grades = rng.permutation([grade, other_grade])
        patient_seed, *seeds = (int(value) for value in rng.integers(2**31, size=3))
        for eye, eye_grade, eye_seed in zip(EYES, grades, seeds, strict=True):
            planned.append(
                PlannedPhotograph(patient, eye, int(eye_grade), patient_seed, eye_seed)
            )
        patient += int(rng.geometric(TRAINING_FRACTION))
    return planned


def is_synthetic(data: bytes) -> bool:
    """Return whether `write_photographs` wrote these bytes of a JPEG file."""
    return MARK in data[: len(MARK) + 100]


def write_photographs(
    folder: Path, *, num_patients: int, seed: int, num_workers: int = 0
) -> Path:
    """Write synthetic photographs and their label file.

    The photographs are `images/<patient>_<eye>.jpeg`. `labels.csv` has Kaggle's header
    `image,level` and is written last, so a folder that has it is complete. The number
    of workers does not change a byte.

    Args:
        folder: Created if missing; must not contain `images` or `labels.csv` yet.
        num_patients: >= 1, with two photographs each.
        seed: >= 0.
        num_workers: Number of drawing processes; 0 means one per CPU.

    Returns:
        The path of the label file.

    Raises:
        DrtfError: If the folder already contains photographs or labels.
        ValueError: If a number is out of range.
    """
    planned = plan_photographs(num_patients, seed=seed)
    images, labels = folder / "images", folder / "labels.csv"
    check_absent(images, labels)
    images.mkdir(parents=True)
    written = map_in_order(
        functools.partial(_write_photograph, folder=images),
        planned,
        num_workers=num_workers,
        initializer=limit_threads,
    )
    with progress("Drawing photographs", len(planned)) as advance:
        for name in written:
            advance(name)
    rows = [f"{photograph.name},{photograph.grade}\n" for photograph in planned]
    write_atomic(labels, "image,level\n" + "".join(rows))
    return labels


def _write_photograph(photograph: PlannedPhotograph, *, folder: Path) -> str:
    """Draw a photograph, write it as JPEG and return its name."""
    image = photograph.draw().image
    _, encoded = cv2.imencode(
        ".jpeg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    data = encoded.tobytes()
    # A comment segment, after the two bytes that begin a JPEG.
    segment = b"\xff\xfe" + (2 + len(MARK)).to_bytes(2, "big") + MARK
    (folder / f"{photograph.name}.jpeg").write_bytes(data[:2] + segment + data[2:])
    return photograph.name
