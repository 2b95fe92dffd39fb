"""Where an eye lies in the frame of a photograph."""

from dataclasses import dataclass

import numpy as np

from drtf.synthetic.patient import Patient

# The soft layers (tissue, light, haze) are drawn at this field radius in px and
# enlarged. Blurring them at full size would take most of the time.
SOFT_RADIUS = 112
MAX_OFFSET_PX = 3  # of the field's center from the center of the frame


@dataclass(frozen=True)
class View:
    """Map eye coordinates to pixels.

    Eye coordinates are field radii. The fovea is the origin, the optic disc is at
    positive x, and y points down.

    Attributes:
        center: Center of the field, float64 [2], x and y in px.
        radius: Radius of the field, in px.
        shift: Offset of the fovea from the field's center, float64 [2], in radii.
        tilt: Rotation of the eye, in radians.
        mirror: 1 if the disc is on the right (a right eye), -1 if on the left.
        disc: Center of the optic disc, float64 [2], in eye coordinates.
    """

    center: np.ndarray
    radius: float
    shift: np.ndarray
    tilt: float
    mirror: int
    disc: np.ndarray

    @property
    def soft_size(self) -> tuple[int, int]:
        """Width and height of the soft layers, in px."""
        scale = 2 * SOFT_RADIUS / self.radius
        return round(self.center[0] * scale), round(self.center[1] * scale)

    def to_field(self, points: np.ndarray) -> np.ndarray:
        """Map eye coordinates [..., 2] to radii from the field's center."""
        cos, sin = np.cos(self.tilt), np.sin(self.tilt)
        turned = points @ np.array([[cos, sin], [-sin, cos]]) + self.shift
        return turned * (self.mirror, 1)

    def to_pixels(self, points: np.ndarray) -> np.ndarray:
        """Map eye coordinates [..., 2] to pixels of the frame."""
        return self.to_field(points) * self.radius + self.center

    def to_soft(self, points: np.ndarray) -> np.ndarray:
        """Map eye coordinates [..., 2] to pixels of the soft layers."""
        return self.to_field(points) * SOFT_RADIUS + np.array(self.soft_size) / 2


def draw_view(rng: np.random.Generator, patient: Patient, *, mirror: int) -> View:
    """Draw a random gaze of one eye of a patient."""
    camera = patient.camera
    toward_disc = rng.beta(1.2, 4.0) * 0.6
    offset = rng.uniform(-MAX_OFFSET_PX, MAX_OFFSET_PX, 2)
    return View(
        center=np.array([camera.width, camera.height]) / 2 + offset,
        radius=camera.field_radius * camera.height,
        shift=np.array([0.06 - toward_disc * patient.disc[0], rng.normal(0.02, 0.04)]),
        tilt=rng.normal(0, 0.06),
        mirror=mirror,
        disc=np.array(patient.disc),
    )
