"""The lesions of diabetic retinopathy, by grade."""

from typing import NamedTuple

import cv2
import numpy as np

from drtf.synthetic.canvas import (
    Layers,
    draw_path,
    draw_shape,
    random_blob,
    random_path,
    random_waves,
    rgb,
    transmission_bytes,
)
from drtf.synthetic.patient import Color, Patient
from drtf.synthetic.vessels import TRUNK_POINTS, Vessel
from drtf.synthetic.view import View

MICROANEURYSM: Color = (0.46, 0.14, 0.22)
HEMORRHAGE: Color = (0.44, 0.15, 0.20)
PRERETINAL: Color = (0.52, 0.17, 0.19)
NEW_VESSEL: Color = (0.74, 0.38, 0.44)
EXUDATE = (100, 125, 70)  # added to the tissue, in gray levels

# Blood is fainter at its margin: parts of the fade, and their strength.
FADE_STEPS = ((0.0, 0.6), (0.5, 0.85), (1.0, 1.0))
FLAME_PROBABILITY = 0.35
PRERETINAL_PROBABILITY = 0.5
NEW_VESSELS_ELSEWHERE_PROBABILITY = 0.6

# Lengths are in field radii.
MAX_DISTANCE = 0.92  # of a lesion from the center of the field
PRERETINAL_DISC_DISTANCE = 0.38
PRERETINAL_POINTS = 20
ATTEMPTS = 60
QUADRANT_ATTEMPTS = 30  # the first ones, which insist on the quadrant
FALLBACK_PLACE = (-0.3, 0.2)


class LesionCounts(NamedTuple):
    """How many lesions an eye has: a range [low, high) of each kind.

    `dots` are microaneurysms, `blots` are hemorrhages, `wool` are cotton-wool spots
    and `clusters` are groups of hard exudates.
    """

    dots: tuple[int, int]
    blots: tuple[int, int]
    wool: tuple[int, int]
    clusters: tuple[int, int]


LESION_COUNTS = {
    1: LesionCounts(dots=(9, 22), blots=(0, 1), wool=(0, 1), clusters=(0, 1)),
    2: LesionCounts(dots=(12, 26), blots=(5, 14), wool=(0, 1), clusters=(1, 5)),
    3: LesionCounts(dots=(18, 34), blots=(18, 34), wool=(2, 7), clusters=(1, 5)),
    4: LesionCounts(dots=(10, 26), blots=(8, 24), wool=(1, 5), clusters=(1, 4)),
}


def paint_lesions(
    rng: np.random.Generator,
    layers: Layers,
    *,
    grade: int,
    patient: Patient,
    view: View,
    vessels: list[Vessel],
) -> None:
    """Paint the lesions of a grade, and mark them in the lesions layer."""
    if grade == 0:
        return
    counts = LESION_COUNTS[grade]
    num_dots, num_blots, num_wool, num_clusters = (rng.integers(*x) for x in counts)
    contrast = rng.uniform(0.75, 1.0)

    for _ in range(num_wool):
        place = _visible_place(rng, patient, view=view, distances=(0.35, 0.9))
        _paint_wool(rng, layers, view=view, place=place)
    for _ in range(num_clusters):
        _paint_exudates(rng, layers, patient=patient, view=view)
    for index in range(num_blots):
        place = _visible_place(
            rng, patient, view=view, distances=(0.15, 0.95), quadrant=index % 4
        )
        toward_disc = view.disc - place
        is_flame = grade >= 3 and rng.random() < FLAME_PROBABILITY
        shape = random_blob(
            rng,
            radius=0.018 + 0.026 * rng.beta(1.0, 2.5),
            stretch=rng.uniform(1.8, 3.2) if is_flame else rng.uniform(1.0, 1.6),
            angle=float(np.arctan2(toward_disc[1], toward_disc[0])),
        )
        strength = contrast * rng.uniform(0.6, 1.0)
        _paint_blood(
            layers, shape, place=place, view=view, color=HEMORRHAGE, strength=strength
        )
    for _ in range(num_dots):
        place = _visible_place(rng, patient, view=view, distances=(0.1, 0.9))
        radius = rng.uniform(0.013, 0.020)
        shape = random_blob(rng, radius=radius, stretch=1.0, angle=0.0)
        strength = contrast * rng.uniform(0.7, 1.0)
        _paint_blood(
            layers,
            shape,
            place=place,
            view=view,
            color=MICROANEURYSM,
            strength=strength,
        )
    if grade == 4:
        if rng.random() < PRERETINAL_PROBABILITY:
            _paint_preretinal(rng, layers, patient=patient, view=view)
        for _ in range(rng.integers(1, 4)):
            _paint_new_vessels(rng, layers, patient=patient, view=view, vessels=vessels)


def _visible_place(
    rng: np.random.Generator,
    patient: Patient,
    *,
    view: View,
    distances: tuple[float, float],
    quadrant: int | None = None,
) -> np.ndarray:
    """Return a random place, in eye coordinates, that is visible and not on the disc.

    Args:
        rng: Source of the place.
        patient: The owner of the eye.
        view: The eye in the frame.
        distances: Smallest and largest distance from the fovea, in field radii.
        quadrant: 0-3, preferred but not guaranteed: it may lie outside the frame.
    """
    top = min(MAX_DISTANCE, 0.5 / patient.camera.field_radius - 0.06)
    for attempt in range(ATTEMPTS):
        angle = rng.uniform(0, 2 * np.pi)
        if quadrant is not None and attempt < QUADRANT_ATTEMPTS:
            angle = (quadrant + rng.uniform(0, 1)) * np.pi / 2
        distance = np.sqrt(rng.uniform(distances[0] ** 2, distances[1] ** 2))
        place = distance * np.array([np.cos(angle), np.sin(angle)])
        x, y = view.to_field(place)
        is_off_disc = np.hypot(*(place - view.disc)) > 1.5 * patient.disc_radius
        if is_off_disc and np.hypot(x, y) < MAX_DISTANCE and abs(y) < top:
            return place
    return np.array(FALLBACK_PLACE)


def _paint_blood(
    layers: Layers,
    shape: np.ndarray,
    *,
    place: np.ndarray,
    view: View,
    color: Color,
    strength: float,
    fade: float = 0.3,
) -> None:
    """Paint a patch of blood that is fainter in the outer `fade` of its radius."""
    for part, level in FADE_STEPS:
        outline = view.to_pixels(place + (1 - part * fade) * shape)
        shade = transmission_bytes(color, strength=strength * level)
        draw_shape(layers.transmission, outline, color=shade)
    draw_shape(layers.lesions, view.to_pixels(place + shape), color=255)


def _paint_wool(
    rng: np.random.Generator, layers: Layers, *, view: View, place: np.ndarray
) -> None:
    """Paint a cotton-wool spot: white, soft, wider than high."""
    patch = np.zeros(layers.tissue.shape[:2], np.uint8)
    for _ in range(rng.integers(2, 5)):
        shape = random_blob(
            rng,
            radius=rng.uniform(0.02, 0.036),
            stretch=rng.uniform(1.0, 1.8),
            angle=rng.uniform(0, np.pi),
        )
        outline = place + rng.normal(0, 0.018, 2) + shape
        draw_shape(patch, view.to_soft(outline), color=255)
        draw_shape(layers.lesions, view.to_pixels(outline), color=255)
    soft = cv2.GaussianBlur(patch, (0, 0), 1.3) / np.float32(255)
    white = rgb(0.92, 0.86, 0.70)
    layers.tissue[:] += (
        soft[..., None] * np.float32(rng.uniform(0.5, 0.8)) * (white - layers.tissue)
    )


def _paint_exudates(
    rng: np.random.Generator, layers: Layers, *, patient: Patient, view: View
) -> None:
    """Paint a cluster of hard exudates: yellow, small, with sharp edges."""
    middle = _visible_place(rng, patient, view=view, distances=(0.12, 0.6))
    ring = rng.uniform(0, 0.09)
    level = rng.uniform(0.7, 1.0)
    color = tuple(round(level * v) for v in EXUDATE)
    for _ in range(rng.integers(12, 44)):
        turn = rng.uniform(0, 2 * np.pi)
        place = middle + ring * np.array([np.cos(turn), np.sin(turn)])
        place = place + rng.normal(0, 0.035, 2)
        if np.hypot(*(place - view.disc)) < 1.3 * patient.disc_radius:
            continue
        shape = random_blob(
            rng,
            radius=0.004 + 0.014 * rng.beta(1.0, 2.5),
            stretch=rng.uniform(1.0, 1.8),
            angle=rng.uniform(0, np.pi),
        )
        outline = view.to_pixels(place + shape)
        draw_shape(layers.glow, outline, color=color)
        draw_shape(layers.lesions, outline, color=255)


def _paint_preretinal(
    rng: np.random.Generator, layers: Layers, *, patient: Patient, view: View
) -> None:
    """Paint a preretinal hemorrhage: boat-shaped, level on top, over the vessels."""
    place = _visible_place(rng, patient, view=view, distances=(0.35, 0.7))
    half_width, depth = rng.uniform(0.09, 0.17), rng.uniform(0.06, 0.13)
    turns = np.linspace(0, np.pi, PRERETINAL_POINTS)
    belly = np.sqrt(np.maximum(np.sin(turns), 0))
    hull = np.stack([half_width * np.cos(turns), depth * belly], axis=1)
    hull += 0.005 * random_waves(rng, PRERETINAL_POINTS, num_knots=7, width=2)
    away = place - view.disc
    if np.hypot(*away) < PRERETINAL_DISC_DISTANCE:
        place = view.disc + away * PRERETINAL_DISC_DISTANCE / np.hypot(*away)
    _paint_blood(
        layers,
        hull,
        place=place,
        view=view,
        color=PRERETINAL,
        strength=rng.uniform(0.8, 1.0),
        fade=0.08,
    )


def _paint_new_vessels(
    rng: np.random.Generator,
    layers: Layers,
    *,
    patient: Patient,
    view: View,
    vessels: list[Vessel],
) -> None:
    """Paint a fine, tangled net of vessels at the disc or on an arcade."""
    root = view.disc + rng.normal(0, 0.5, 2) * patient.disc_radius
    if rng.random() < NEW_VESSELS_ELSEWHERE_PROBABILITY:
        arcades = [vessel for vessel in vessels if len(vessel.points) == TRUNK_POINTS]
        if arcades:
            arcade = arcades[rng.integers(len(arcades))]
            root = arcade.points[rng.integers(10, 34)]
    thickness = max(1, round(0.0032 * view.radius))
    for _ in range(rng.integers(12, 22)):
        path = random_path(
            rng,
            root + rng.normal(0, 0.03, 2),
            heading=rng.uniform(0, 2 * np.pi),
            length=rng.uniform(0.1, 0.26),
            turn=rng.normal(0, 2.5),
            wander=0.9,
            step=0.012,
        )
        points = view.to_pixels(path)
        color = transmission_bytes(NEW_VESSEL, strength=rng.uniform(0.7, 1.0))
        draw_path(layers.transmission, points, color=color, thickness=thickness)
        draw_path(layers.lesions, points, color=255, thickness=thickness)
