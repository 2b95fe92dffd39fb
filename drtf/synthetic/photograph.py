"""One photograph: the light, the camera, and how the layers are put together."""

from dataclasses import dataclass

import cv2
import numpy as np

from drtf.synthetic.canvas import (
    Layers,
    draw_dot,
    draw_shape,
    empty_layers,
    random_clouds,
    rgb,
)
from drtf.synthetic.fundus import blend_disc, paint_tissue
from drtf.synthetic.lesions import paint_lesions
from drtf.synthetic.patient import EYES, Camera, Eye, Patient, draw_patient
from drtf.synthetic.vessels import grow_vessels, paint_vessels
from drtf.synthetic.view import SOFT_RADIUS, View, draw_view
from drtf.tasks import NUM_GRADES

VISIBLE_LEVEL = 200  # of the field mask, from which on a lesion counts as visible
PALE_DUST_PROBABILITY = 0.3
FLARE_PROBABILITY = 0.35
BLUE_FLARE_PROBABILITY = 0.7
# The notch at the edge of the field: its center and half its side in field radii.
NOTCH_CENTER = np.array([0.735, -0.70])
NOTCH_HALF_SIDE = 0.045
NOTCH_ROTATION = np.array([[0.8, 0.6], [-0.6, 0.8]])


@dataclass(frozen=True)
class Photograph:
    """A drawn photograph and its lesions.

    Attributes:
        image: uint8 [H, W, 3], RGB in [0, 255].
        lesions: bool [H, W], True where a lesion was drawn.
    """

    image: np.ndarray
    lesions: np.ndarray


def draw_photograph(
    grade: int, *, patient_seed: int, eye: Eye, seed: int
) -> Photograph:
    """Draw the photograph of one eye with lesions of one grade.

    Equal arguments give equal pixels. The patient's seed determines the camera, the
    pigment and the anatomy; the other eye is mirrored and has its own vessels. `seed`
    determines what differs between two photographs of an eye: gaze, light, dust,
    noise and the place of the lesions. Grades follow the ETDRS order: 1 has
    microaneurysms only; 2 adds hemorrhages and hard exudates; 3 has many
    hemorrhages, in all quadrants, and cotton-wool spots; 4 adds new vessels and
    sometimes a preretinal hemorrhage.

    Args:
        grade: Grade of diabetic retinopathy, 0-4.
        patient_seed: >= 0.
        eye: "left" (the optic disc is left of the center) or "right".
        seed: >= 0.

    Returns:
        The image and its lesions, both as large as the camera's frame.

    Raises:
        ValueError: If the grade, the eye or a seed is invalid.
    """
    if grade not in range(NUM_GRADES):
        raise ValueError(f"grade must be 0-{NUM_GRADES - 1} (got {grade!r})")
    if eye not in EYES:
        raise ValueError(f"eye must be 'left' or 'right' (got {eye!r})")
    if patient_seed < 0 or seed < 0:
        raise ValueError(
            f"seeds must be >= 0 (got patient_seed={patient_seed}, seed={seed})"
        )
    side = EYES.index(eye)
    patient = draw_patient(np.random.default_rng([0, patient_seed]))
    anatomy_rng = np.random.default_rng([1, patient_seed, side])
    shot_rng = np.random.default_rng([2, patient_seed, side, seed])
    lesion_rng = np.random.default_rng([3, patient_seed, side, seed, grade])

    view = draw_view(shot_rng, patient, mirror=1 if eye == "right" else -1)
    vessels = grow_vessels(anatomy_rng, patient)
    layers = empty_layers(patient.camera, view)
    paint_tissue(anatomy_rng, layers, patient=patient, view=view)
    paint_vessels(anatomy_rng, layers, patient=patient, view=view, vessels=vessels)
    paint_lesions(
        lesion_rng, layers, grade=grade, patient=patient, view=view, vessels=vessels
    )
    _paint_light(shot_rng, layers, camera=patient.camera, view=view)
    field = _draw_field(patient.camera, view)
    image = _compose(
        shot_rng, layers, patient=patient, view=view, field=field, disc_rng=anatomy_rng
    )
    return Photograph(image, (layers.lesions > 0) & (field > VISIBLE_LEVEL))


def _paint_light(
    rng: np.random.Generator, layers: Layers, *, camera: Camera, view: View
) -> None:
    """Paint vignetting, uneven light, dust on the lens, and flare."""
    size = view.soft_size
    x = (np.arange(size[0], dtype=np.float32) - size[0] / 2) / SOFT_RADIUS
    y = (np.arange(size[1], dtype=np.float32) - size[1] / 2) / SOFT_RADIUS
    x, y = np.meshgrid(x, y)
    lean = rng.normal(0, 0.18, 2)
    squared = np.square(x - lean[0]) + np.square(y - lean[1])
    light = 1 - camera.vignette * np.minimum(squared, 1.6)
    light *= 1 + 0.05 * random_clouds(rng, size, cells=(110, 50))
    light *= np.float32(np.exp(rng.normal(0, 0.13)))

    dust = _draw_dust(rng, size)
    is_pale = rng.random() < PALE_DUST_PROBABILITY
    if not is_pale:
        light *= 1 - 0.2 * dust
    layers.light[:] = light[..., None] * rgb(*camera.gain)

    layers.haze[:] = camera.haze * rng.uniform(0.6, 1.4) * rgb(0.8, 0.95, 1.0)
    if is_pale:
        layers.haze[:] += 0.10 * dust[..., None] * rgb(0.8, 1.0, 0.95)
    if rng.random() < FLARE_PROBABILITY:
        turn = rng.uniform(0, 2 * np.pi)
        beam = x * np.cos(turn) + y * np.sin(turn)
        edge = np.clip((np.hypot(x, y) - 0.72) / 0.3, 0, 1) ** 2
        flare = edge * np.clip(beam - 0.2, 0, 1) * rng.uniform(0.2, 0.9)
        is_blue = rng.random() < BLUE_FLARE_PROBABILITY
        tint = rgb(0.75, 1.0, 0.95) if is_blue else rgb(1.0, 0.6, 0.2)
        layers.haze[:] += flare[..., None].astype(np.float32) * tint


def _draw_dust(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Return float32 [h, w] in [0, 1], blurred spots of dust on the lens."""
    dust = np.zeros(size[::-1], np.uint8)
    for _ in range(rng.integers(0, 7)):
        place = np.array(size) / 2 + rng.uniform(-0.9, 0.9, 2) * SOFT_RADIUS
        radius = rng.uniform(0.008, 0.035) * SOFT_RADIUS
        draw_dot(dust, place, radius=radius, color=int(rng.integers(40, 200)))
    return cv2.GaussianBlur(dust, (0, 0), 1.6) / np.float32(255)


def _draw_field(camera: Camera, view: View) -> np.ndarray:
    """Return uint8 [H, W], 255 in the round field, 0 outside, with a soft edge."""
    field = np.zeros((camera.height, camera.width), np.uint8)
    draw_dot(field, view.center, radius=view.radius, color=255)
    if camera.has_notch:
        middle = view.center + view.radius * NOTCH_CENTER
        half = NOTCH_HALF_SIDE * view.radius
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
        draw_shape(field, middle + corners @ NOTCH_ROTATION, color=255)
    return cv2.GaussianBlur(field, (0, 0), 0.004 * view.radius)


def _compose(
    rng: np.random.Generator,
    layers: Layers,
    *,
    patient: Patient,
    view: View,
    field: np.ndarray,
    disc_rng: np.random.Generator,
) -> np.ndarray:
    """Compose the layers to an image, uint8 [H, W, 3], blurred and with noise."""
    camera = patient.camera
    frame = (camera.width, camera.height)
    image = cv2.resize(layers.tissue, frame, interpolation=cv2.INTER_LINEAR)
    blend_disc(disc_rng, image, patient=patient, view=view)
    cv2.multiply(image, layers.transmission, image, 1, cv2.CV_32F)
    cv2.add(image, layers.glow, image, None, cv2.CV_32F)
    cv2.multiply(image, cv2.resize(layers.light, frame), image)
    haze = cv2.resize(255 * layers.haze, frame)
    image = cv2.add(image, haze, None, None, cv2.CV_8U)
    image = cv2.GaussianBlur(image, (0, 0), camera.blur * view.radius / 1000)
    cv2.multiply(image, cv2.merge([field] * 3), image, 1 / 255)
    noise = rng.integers(0, 256, image.shape, np.uint8)
    level = camera.noise / 128
    return cv2.addWeighted(image, 1, noise, level, 2 - 128 * level, dtype=cv2.CV_8U)
