"""The layers of a photograph, and shapes with soft edges to draw on them."""

from dataclasses import dataclass

import cv2
import numpy as np

from drtf.synthetic.patient import Camera, Color
from drtf.synthetic.view import View

SUBPIXEL_BITS = 4  # fractional bits of the coordinates that cv2 takes
BLOB_POINTS = 16


@dataclass(frozen=True)
class Layers:
    """The layers that a photograph is composed of.

    Attributes:
        tissue: float32 [h, w, 3], soft, reflectance in [0, 1].
        light: float32 [h, w, 3], soft, illumination, about 1.
        haze: float32 [h, w, 3], soft, scattered light in [0, 1].
        transmission: uint8 [H, W, 3], 255 where nothing absorbs light.
        glow: uint8 [H, W, 3], reflectance added on top of the tissue.
        lesions: uint8 [H, W], 255 where a lesion was drawn.
    """

    tissue: np.ndarray
    light: np.ndarray
    haze: np.ndarray
    transmission: np.ndarray
    glow: np.ndarray
    lesions: np.ndarray


def empty_layers(camera: Camera, view: View) -> Layers:
    """Create layers on which nothing is drawn yet."""
    width, height = view.soft_size
    frame = (camera.height, camera.width)
    return Layers(
        tissue=np.empty((height, width, 3), np.float32),
        light=np.ones((height, width, 3), np.float32),
        haze=np.zeros((height, width, 3), np.float32),
        transmission=np.full((*frame, 3), 255, np.uint8),
        glow=np.zeros((*frame, 3), np.uint8),
        lesions=np.zeros(frame, np.uint8),
    )


def rgb(red: float, green: float, blue: float) -> np.ndarray:
    """Return a color as float32 [3]."""
    return np.array([red, green, blue], np.float32)


def transmission_bytes(color: Color, *, strength: float = 1.0) -> tuple[int, int, int]:
    """Return how much light a pigment transmits, 0-255 for each channel.

    Args:
        color: Fraction transmitted at full strength, for red, green and blue.
        strength: In [0, 1]. At 0 all light is transmitted.
    """
    red, green, blue = (round(255 * (1 - (1 - c) * strength)) for c in color)
    return red, green, blue


def draw_path(
    canvas: np.ndarray, points: np.ndarray, *, color: object, thickness: int
) -> None:
    """Draw a line through points [N, 2], given in px of the canvas."""
    fixed = np.round(points * (1 << SUBPIXEL_BITS)).astype(np.int32)
    cv2.polylines(canvas, [fixed], False, color, thickness, cv2.LINE_AA, SUBPIXEL_BITS)


def draw_dot(
    canvas: np.ndarray, center: np.ndarray, *, radius: float, color: object
) -> None:
    """Draw a filled circle; center and radius are in px of the canvas."""
    x, y, r = (round(float(v) * (1 << SUBPIXEL_BITS)) for v in (*center, radius))
    cv2.circle(canvas, (x, y), r, color, cv2.FILLED, cv2.LINE_AA, SUBPIXEL_BITS)


def draw_shape(canvas: np.ndarray, points: np.ndarray, *, color: object) -> None:
    """Draw a filled polygon with corners [N, 2], given in px of the canvas."""
    fixed = np.round(points * (1 << SUBPIXEL_BITS)).astype(np.int32)
    cv2.fillPoly(canvas, [fixed], color, cv2.LINE_AA, SUBPIXEL_BITS)


def gaussian_spot(
    size: tuple[int, int], center: np.ndarray, *, sigma: float
) -> np.ndarray:
    """Return float32 [h, w], a Gaussian spot with a peak of 1."""
    x = np.exp(-0.5 * ((np.arange(size[0]) - center[0]) / sigma) ** 2)
    y = np.exp(-0.5 * ((np.arange(size[1]) - center[1]) / sigma) ** 2)
    return np.outer(y, x).astype(np.float32)


def random_clouds(
    rng: np.random.Generator, size: tuple[int, int], *, cells: tuple[int, ...]
) -> np.ndarray:
    """Return float32 [h, w] of smooth noise with a standard deviation of about 1.

    Args:
        rng: Source of the noise.
        size: Width and height, in px.
        cells: Sizes of the structures, in px.
    """
    clouds = np.zeros(size[::-1], np.float32)
    for cell in cells:
        grid = rng.standard_normal(
            (size[1] // cell + 2, size[0] // cell + 2), dtype=np.float32
        )
        clouds += cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)
    return clouds / len(cells) ** 0.5


def random_waves(
    rng: np.random.Generator, num_points: int, *, num_knots: int, width: int
) -> np.ndarray:
    """Return float32 [num_points, width] of smooth noise that starts at 0."""
    knots = rng.standard_normal((num_knots, width), dtype=np.float32)
    waves = cv2.resize(knots, (width, num_points), interpolation=cv2.INTER_CUBIC)
    return waves - waves[0]


def random_path(
    rng: np.random.Generator,
    start: np.ndarray,
    *,
    heading: float,
    length: float,
    turn: float,
    wander: float,
    step: float = 0.025,
) -> np.ndarray:
    """Return the points [N, 2] of a path that turns steadily and wanders.

    `heading`, `turn` and `wander` are in radians, lengths in field radii.
    """
    num_steps = max(4, round(length / step))
    num_knots = 2 + num_steps // 4
    waves = random_waves(rng, num_steps, num_knots=num_knots, width=1)[:, 0]
    headings = heading + np.arange(num_steps) * (turn / num_steps) + wander * waves
    points = np.empty((num_steps + 1, 2))
    points[0] = start
    points[1:, 0] = start[0] + step * np.cumsum(np.cos(headings))
    points[1:, 1] = start[1] + step * np.cumsum(np.sin(headings))
    return points


def random_blob(
    rng: np.random.Generator, *, radius: float, stretch: float, angle: float
) -> np.ndarray:
    """Return the outline [N, 2] of an uneven ellipse around the origin.

    Args:
        rng: Source of the unevenness.
        radius: Geometric mean of the half-axes.
        stretch: Ratio of the half-axes, >= 1.
        angle: Direction of the longer axis, in radians.
    """
    turns = np.linspace(0, 2 * np.pi, BLOB_POINTS, endpoint=False)
    uneven = 1 + sum(
        rng.normal(0, 0.16 / order) * np.cos(order * turns + rng.uniform(0, 6.3))
        for order in (2, 3, 4)
    )
    x = radius * uneven * np.cos(turns) * np.sqrt(stretch)
    y = radius * uneven * np.sin(turns) / np.sqrt(stretch)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([x * cos - y * sin, x * sin + y * cos], axis=1)
