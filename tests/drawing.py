"""Photographs and scores drawn for the tests: small, quick, not meant to look real."""

from pathlib import Path

import cv2
import numpy as np

NUM_PATIENTS = 24


def draw_fundus(*, seed: int, diseased: bool = False, width: int = 160) -> np.ndarray:
    """Draw a round field on black, uint8 RGB; a diseased one has dark dots."""
    rng = np.random.default_rng(seed)
    height = width * 3 // 4
    image = np.zeros((height, width, 3), np.uint8)
    center = (width // 2, height // 2)
    cv2.circle(image, center, height // 2 - 4, (190, 100, 60), -1, cv2.LINE_AA)
    cv2.circle(image, (width // 3, height // 2), height // 12, (240, 220, 160), -1)
    for _ in range(8 * diseased):
        x, y = rng.integers(-height // 4, height // 4, 2)
        cv2.circle(image, (center[0] + int(x), center[1] + int(y)), 4, (60, 10, 10), -1)
    noise = rng.integers(-6, 7, image.shape)
    return np.clip(image + noise * (image > 30), 0, 255).astype(np.uint8)


def encode(image: np.ndarray, suffix: str = ".png") -> bytes:
    """Encode uint8 RGB as an image file."""
    return cv2.imencode(suffix, image[..., ::-1])[1].tobytes()


def write_photographs(
    folder: Path, *, num_patients: int = NUM_PATIENTS, suffix: str = ".png"
) -> Path:
    """Write two eyes per patient, every second patient diseased; return the labels."""
    images = folder / "images"
    images.mkdir(parents=True)
    lines = ["image,level"]
    for patient in range(num_patients):
        grade = (0, 2, 0, 4, 0, 1)[patient % 6]
        for number, eye in enumerate(("left", "right")):
            name = f"{patient}_{eye}"
            image = draw_fundus(seed=2 * patient + number, diseased=grade > 0)
            (images / f"{name}{suffix}").write_bytes(encode(image, suffix))
            lines.append(f"{name},{grade}")
    labels = folder / "labels.csv"
    labels.write_text("\n".join(lines) + "\n")
    return labels


def draw_scores(
    num: int = 400, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw labels, scores with ties, and patients of two photographs each."""
    rng = np.random.default_rng(seed)
    y_true = rng.integers(0, 2, num)
    # Two decimals make ties.
    scores = np.clip(0.3 * y_true + rng.random(num) * 0.7, 0, 1).round(2)
    patients = np.repeat(np.arange(num // 2), 2)
    return y_true, scores, patients
