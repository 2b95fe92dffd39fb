"""The tissue behind the vessels: pigment, choroid, macula, drusen and optic disc."""

import cv2
import numpy as np

from drtf.synthetic.canvas import (
    Layers,
    draw_dot,
    draw_path,
    gaussian_spot,
    random_clouds,
    random_path,
    rgb,
)
from drtf.synthetic.patient import Patient
from drtf.synthetic.view import SOFT_RADIUS, View

PALE_TISSUE = np.array([0.88, 0.54, 0.31])
DARK_TISSUE = np.array([0.62, 0.32, 0.17])
NUM_CHOROID_VESSELS = 70
# How much each channel (red, green, blue) is affected.
CHOROID_WEIGHTS = (0.25, 0.5, 0.45)
MACULA_WEIGHTS = (0.7, 1.0, 1.05)

# The rim of the optic disc is pink on the nasal side.
DISC_TINT = np.array([0.97, 0.76, 0.50])
NASAL_PINK = np.array([0.0, 0.14, 0.08])
CUP_TINT = np.array([1.02, 0.93, 0.74])
DISC_HEIGHT = 1.06  # compared with its width
DISC_MARGIN = 1.6  # of the painted patch, in disc radii


def paint_tissue(
    rng: np.random.Generator, layers: Layers, *, patient: Patient, view: View
) -> None:
    """Paint pigment, choroid, macula and drusen into the tissue layer."""
    size = view.soft_size
    layers.tissue[:] = PALE_TISSUE + (DARK_TISSUE - PALE_TISSUE) * patient.pigment
    _paint_choroid(rng, layers, patient=patient, view=view)
    _paint_macula(rng, layers, view=view)
    halo = gaussian_spot(
        size, view.to_soft(view.disc), sigma=2.1 * patient.disc_radius * SOFT_RADIUS
    )
    layers.tissue[:] += halo[..., None] * rgb(0.09, 0.08, 0.05)
    _paint_drusen(rng, layers, patient=patient, view=view)


def _paint_choroid(
    rng: np.random.Generator, layers: Layers, *, patient: Patient, view: View
) -> None:
    """Paint mottled pigment, and choroidal vessels that show where it is pale."""
    size = view.soft_size
    clouds = random_clouds(rng, size, cells=(60, 24, 9))
    grain = random_clouds(rng, size, cells=(4, 2))
    choroid = np.zeros(size[::-1], np.uint8)
    for _ in range(NUM_CHOROID_VESSELS):
        start = rng.uniform(-1.2, 1.2, 2)
        away = start - view.disc
        path = random_path(
            rng,
            start,
            heading=float(np.arctan2(away[1], away[0])) + rng.normal(0, 0.5),
            length=0.6,
            turn=rng.normal(0, 0.6),
            wander=0.5,
            step=0.05,
        )
        thickness = int(rng.integers(1, 5))
        draw_path(choroid, view.to_soft(path), color=255, thickness=thickness)
    choroid = cv2.GaussianBlur(choroid, (0, 0), 1.1)
    visibility = np.clip(0.5 + 0.6 * random_clouds(rng, size, cells=(70,)), 0, 1)
    strength = (1 - patient.pigment) ** 2 * rng.uniform(0.1, 0.4)
    vessels = (choroid / np.float32(255) - 0.4) * visibility * np.float32(strength)
    mottle = 1 + 0.025 * clouds + 0.014 * grain
    for channel, weight in enumerate(CHOROID_WEIGHTS):
        layers.tissue[..., channel] *= mottle + np.float32(weight) * vessels


def _paint_macula(rng: np.random.Generator, layers: Layers, *, view: View) -> None:
    """Darken the macula, most of all at the fovea."""
    size, fovea = view.soft_size, view.to_soft(np.zeros(2))
    depth = rng.uniform(0.22, 0.42)
    broad = gaussian_spot(size, fovea, sigma=0.16 * SOFT_RADIUS) * (0.62 * depth)
    narrow = gaussian_spot(size, fovea, sigma=0.055 * SOFT_RADIUS) * (0.5 * depth)
    for channel, weight in enumerate(MACULA_WEIGHTS):
        layers.tissue[..., channel] *= 1 - weight * (broad + narrow)


def _paint_drusen(
    rng: np.random.Generator, layers: Layers, *, patient: Patient, view: View
) -> None:
    """Paint pale, soft spots around the macula."""
    spots = np.zeros(view.soft_size[::-1], np.uint8)
    for _ in range(patient.num_drusen):
        place = view.to_soft(rng.normal(0, 0.2, 2))
        radius = rng.uniform(0.006, 0.017) * SOFT_RADIUS
        draw_dot(spots, place, radius=radius, color=int(rng.integers(70, 190)))
    spots = cv2.GaussianBlur(spots, (0, 0), 0.8) / np.float32(255)
    layers.tissue[:] += spots[..., None] * rgb(0.12, 0.19, 0.10)


def blend_disc(
    rng: np.random.Generator, image: np.ndarray, *, patient: Patient, view: View
) -> None:
    """Blend the optic disc and its cup into an image, float32 [H, W, 3] in [0, 1]."""
    x, y = view.to_pixels(view.disc)
    radius = patient.disc_radius * view.radius
    margin = DISC_MARGIN * radius
    left, top = max(0, int(x - margin)), max(0, int(y - margin))
    patch = image[top : int(y + margin), left : int(x + margin)]
    rows = ((np.arange(patch.shape[0]) + top - y) / radius)[:, None]
    columns = ((np.arange(patch.shape[1]) + left - x) / radius)[None]
    nasal = columns * view.mirror
    wobble = 1 + 0.05 * np.sin(3 * np.arctan2(rows, columns) + rng.uniform(0, 6.3))
    distance = np.hypot(rows / DISC_HEIGHT, columns) * wobble
    tint = DISC_TINT + rng.normal(0, 0.02, 3)
    rim = np.clip((1.06 - distance) / 0.14, 0, 1)[..., None]
    pink = np.clip(nasal, 0, 1)[..., None] * NASAL_PINK
    patch += (rim * rng.uniform(0.72, 0.9) * (tint - pink - patch)).astype(np.float32)
    cup_distance = np.hypot(rows, nasal + 0.12)
    cup = np.clip((patient.cup_ratio - cup_distance) / 0.22 + 0.5, 0, 1)[..., None]
    patch += (cup * rng.uniform(0.6, 0.85) * (CUP_TINT - patch)).astype(np.float32)
    crescent = np.clip(1 - np.abs(distance - 1.14) / 0.1, 0, 1) * np.clip(-nasal, 0, 1)
    patch += (crescent[..., None] * rng.uniform(-0.05, 0.12)).astype(np.float32)
