"""The patients, their eyes and the cameras that photograph them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Eye = Literal["left", "right"]
EYES: tuple[Eye, Eye] = ("left", "right")
Color = tuple[float, float, float]

DRUSEN_PROBABILITY = 0.2


@dataclass(frozen=True)
class Camera:
    """The look of one fundus camera.

    Attributes:
        width: Width of the frame, in px.
        height: Height of the frame, in px.
        field_radius: Radius of the round field as a fraction of the frame's height.
            Above 0.5 the frame cuts the field off at the top and the bottom.
        gain: Gain of red, green and blue.
        blur: Sigma of the optical blur, in thousandths of the field radius.
        vignette: Fraction of the light that is lost at the edge of the field.
        haze: Light scattered over the whole field, in [0, 1].
        noise: Largest deviation of a pixel, in gray levels.
        has_notch: Whether the field has a tab at the upper right.
    """

    width: int
    height: int
    field_radius: float
    gain: Color
    blur: float
    vignette: float
    haze: float
    noise: float
    has_notch: bool


CAMERAS = (
    Camera(1200, 900, 0.475, (0.98, 0.94, 0.86), 1.6, 0.34, 0.01, 5.0, True),
    Camera(1024, 682, 0.590, (1.02, 0.86, 0.38), 2.6, 0.24, 0.01, 4.0, True),
    Camera(800, 600, 0.490, (0.95, 1.05, 0.92), 3.2, 0.16, 0.05, 5.0, True),
    Camera(640, 480, 0.540, (0.86, 1.00, 1.12), 3.0, 0.30, 0.07, 7.0, False),
    Camera(900, 900, 0.485, (1.06, 0.82, 0.72), 2.0, 0.28, 0.02, 6.0, False),
)


@dataclass(frozen=True)
class Patient:
    """The properties that both eyes of a patient share.

    Lengths are in field radii.

    Attributes:
        camera: Camera that took both photographs.
        pigment: From 0 (pale, the choroid is visible) to 1 (dark).
        disc: Center of the optic disc, in eye coordinates (see `View`).
        disc_radius: Radius of the optic disc.
        cup_ratio: Radius of the cup divided by the radius of the disc.
        arcade: Half-axes of the ellipse that the vessel arcades follow.
        tortuosity: How much the vessels wind, about 1.
        vessel_scale: How wide the vessels are, about 1.
        sheen: Light reflected along vessels, in [0, 1]; strong in young patients.
        num_drusen: Number of pale spots around the macula.
    """

    camera: Camera
    pigment: float
    disc: tuple[float, float]
    disc_radius: float
    cup_ratio: float
    arcade: tuple[float, float]
    tortuosity: float
    vessel_scale: float
    sheen: float
    num_drusen: int


def draw_patient(rng: np.random.Generator) -> Patient:
    """Draw a random patient."""
    return Patient(
        camera=CAMERAS[rng.integers(len(CAMERAS))],
        pigment=float(rng.beta(1.6, 1.6)),
        disc=(rng.uniform(0.66, 0.76), rng.uniform(-0.09, -0.02)),
        disc_radius=rng.uniform(0.105, 0.135),
        cup_ratio=rng.uniform(0.3, 0.6),
        arcade=(rng.uniform(0.78, 0.98), rng.uniform(0.52, 0.68)),
        tortuosity=rng.uniform(0.6, 1.6),
        vessel_scale=rng.uniform(0.85, 1.15),
        sheen=float(rng.beta(1.0, 2.5)),
        num_drusen=(
            int(rng.integers(6, 40)) if rng.random() < DRUSEN_PROBABILITY else 0
        ),
    )
