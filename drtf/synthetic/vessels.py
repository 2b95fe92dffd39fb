"""The retinal vessels: how they grow out of the optic disc, and how they look."""

from dataclasses import dataclass

import numpy as np

from drtf.synthetic.canvas import (
    Layers,
    draw_path,
    random_path,
    random_waves,
    transmission_bytes,
)
from drtf.synthetic.patient import Color, Patient
from drtf.synthetic.view import View

VEIN: Color = (0.71, 0.54, 0.57)
ARTERY: Color = (0.87, 0.68, 0.69)
# Brightness of the light reflex on a vessel with full sheen, in gray levels.
VEIN_REFLEX = 60
ARTERY_REFLEX = 110
# The reflex is slightly red.
REFLEX_GREEN = 0.7
REFLEX_BLUE = 0.5
MIN_REFLEX_WIDTH_PX = 3
FULL_CONTRAST_WIDTH_PX = 5

# Widths and lengths are in field radii.
VEIN_WIDTH = 0.021
ARTERY_WIDTH = 0.016
MIN_BRANCH_WIDTH = 0.0025
NASAL_WIDTH = 0.62  # compared with the trunk
MACULAR_WIDTH = 0.3
AVASCULAR_RADIUS = 0.16  # no vessel comes closer to the fovea
BRANCH_LENGTHS = (0.3, 0.7)
TWIG_LENGTHS = (0.15, 0.4)

TRUNK_POINTS = 56
MIN_BRANCHED_POINTS = 8


@dataclass(frozen=True)
class Vessel:
    """A vessel from one branching point to its end.

    Attributes:
        points: float64 [N, 2], in eye coordinates.
        widths: float64 [N], in field radii.
        is_vein: Veins are darker than arteries and reflect less light.
    """

    points: np.ndarray
    widths: np.ndarray
    is_vein: bool


def grow_vessels(rng: np.random.Generator, patient: Patient) -> list[Vessel]:
    """Grow the retinal vessels out of the optic disc, trunks first."""
    stems = []
    for is_vein, sign in ((True, -1), (True, 1), (False, -1), (False, 1)):
        stems += _grow_stems(rng, patient, is_vein=is_vein, sign=sign)
    branches = []
    for stem in stems:
        count = int(rng.integers(5, 9) * min(1, len(stem.points) / TRUNK_POINTS))
        branches += _grow_branches(
            rng,
            stem,
            num_sides=count,
            num_forks=2,
            lengths=BRANCH_LENGTHS,
            patient=patient,
        )
    twigs = []
    for branch in branches:
        twigs += _grow_branches(
            rng,
            branch,
            num_sides=int(rng.integers(0, 3)),
            num_forks=0,
            lengths=TWIG_LENGTHS,
            patient=patient,
        )
    return stems + branches + twigs


def _grow_stems(
    rng: np.random.Generator, patient: Patient, *, is_vein: bool, sign: int
) -> list[Vessel]:
    """Grow the trunk along an arcade, a nasal vessel and a twig to the macula.

    Args:
        rng: Source of the shapes.
        patient: The owner of the eye.
        is_vein: Whether they are veins.
        sign: -1 for the upper half of the eye, 1 for the lower half.
    """
    disc = np.array(patient.disc)
    half_width, half_height = patient.arcade
    width = (VEIN_WIDTH if is_vein else ARTERY_WIDTH) * patient.vessel_scale
    root = disc + rng.normal(0, 0.2, 2) * patient.disc_radius
    angles = np.linspace(0, rng.uniform(1.8, 2.3), TRUNK_POINTS)
    x = -half_width * rng.uniform(0.9, 1.1) * (1 - np.cos(angles))
    y = sign * half_height * rng.uniform(0.88, 1.12) * np.sin(angles)
    waves = random_waves(rng, TRUNK_POINTS, num_knots=10, width=2)
    trunk = root + np.stack([x, y], axis=1) + 0.012 * patient.tortuosity * waves
    nasal = random_path(
        rng,
        root + rng.normal(0, 0.15, 2) * patient.disc_radius,
        heading=sign * rng.uniform(0.8, 1.3),
        length=0.9,
        turn=-sign * rng.uniform(0.2, 0.8),
        wander=0.2 * patient.tortuosity,
    )
    macular = random_path(
        rng,
        root + rng.normal(0, 0.25, 2) * patient.disc_radius,
        heading=np.pi - sign * rng.uniform(0.2, 0.7),
        length=rng.uniform(0.3, 0.5),
        turn=sign * 0.4,
        wander=0.22 * patient.tortuosity,
    )
    return [
        _taper(trunk, width=width, is_vein=is_vein, start=0.5),
        _taper(nasal, width=NASAL_WIDTH * width, is_vein=is_vein, start=0.5),
        _taper(macular, width=MACULAR_WIDTH * width, is_vein=is_vein, start=0.5),
    ]


def _taper(
    points: np.ndarray, *, width: float, is_vein: bool, start: float = 1.0
) -> Vessel:
    """Build a vessel that gets thinner and ends before the fovea.

    Args:
        points: float64 [N, 2], in eye coordinates.
        width: Its largest width, in field radii.
        is_vein: Whether it is a vein.
        start: Width of the first point as a fraction of `width`. A vessel that comes
            up through the disc starts thin.
    """
    near_fovea = np.flatnonzero(np.hypot(points[:, 0], points[:, 1]) < AVASCULAR_RADIUS)
    if near_fovea.size:
        points = points[: max(2, near_fovea[0])]
    widths = width * np.linspace(1.0, 0.4, len(points))
    widths[:4] *= np.linspace(start, 1, 4)[: len(points)]
    return Vessel(points, widths, is_vein)


def _grow_branches(
    rng: np.random.Generator,
    vessel: Vessel,
    *,
    num_sides: int,
    num_forks: int,
    lengths: tuple[float, float],
    patient: Patient,
) -> list[Vessel]:
    """Grow branches to alternate sides, and forks at the end of the vessel."""
    last = len(vessel.points) - 1
    if last < MIN_BRANCHED_POINTS:
        return []
    side = int(rng.choice([-1, 1]))
    branches = []
    indices = np.sort(rng.integers(4, last, num_sides))
    for index in (*indices, *(last,) * num_forks):
        side = -side
        along = vessel.points[index] - vessel.points[index - 2]
        is_fork = index == last
        angle = rng.uniform(0.15, 0.45) if is_fork else rng.uniform(0.45, 0.95)
        path = random_path(
            rng,
            vessel.points[index],
            heading=float(np.arctan2(along[1], along[0])) + side * angle,
            length=rng.uniform(*lengths),
            turn=-side * rng.uniform(-0.2, 0.8),
            wander=0.25 * patient.tortuosity,
        )
        ratio = rng.uniform(0.7, 0.9) if is_fork else rng.uniform(0.4, 0.7)
        width = max(ratio * vessel.widths[index], MIN_BRANCH_WIDTH)
        branches.append(_taper(path, width=width, is_vein=vessel.is_vein))
    return branches


def paint_vessels(
    rng: np.random.Generator,
    layers: Layers,
    *,
    patient: Patient,
    view: View,
    vessels: list[Vessel],
) -> None:
    """Paint the vessels, thin ones first, each with its light reflex on top."""
    contrast = rng.uniform(0.8, 1.0)
    for vessel in sorted(vessels, key=lambda vessel: vessel.widths[0]):
        points = view.to_pixels(vessel.points)
        widths = vessel.widths * view.radius
        color = VEIN if vessel.is_vein else ARTERY
        thickness = np.maximum(1, np.round(widths)).astype(int)
        for stop in np.unique(thickness)[::-1]:
            part = np.flatnonzero(thickness == stop)
            strength = contrast * np.clip(
                widths[part].mean() / FULL_CONTRAST_WIDTH_PX + 0.15, 0.25, 1
            )
            draw_path(
                layers.transmission,
                points[part[0] : part[-1] + 2],
                color=transmission_bytes(color, strength=strength),
                thickness=int(stop),
            )
        reflex = (VEIN_REFLEX if vessel.is_vein else ARTERY_REFLEX) * patient.sheen
        num_wide = int(np.count_nonzero(widths > MIN_REFLEX_WIDTH_PX))
        if num_wide > 1:
            level = round(reflex)
            draw_path(
                layers.glow,
                points[:num_wide],
                color=(level, round(REFLEX_GREEN * level), round(REFLEX_BLUE * level)),
                thickness=max(1, round(0.25 * widths[0])),
            )
