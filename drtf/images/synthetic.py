"""Draws synthetic fundus photographs with lesions of a chosen grade.

They stand in for patients' photographs in demonstrations and tests: a model can
learn from them, but nothing about real eyes can be concluded from that. Lesions
are coarser than real ones, so that they survive a reduction to 96 px.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from drtf.tasks import NUM_GRADES

Eye = Literal["left", "right"]
Color = tuple[float, float, float]

# The soft layers (tissue, light, haze) are drawn at this field radius in px and
# enlarged: blurring them at full size would take most of the time.
_SOFT_RADIUS = 112
_SHIFT = 4  # fractional bits of cv2's subpixel coordinates
_TRUNK_POINTS = 56

_VEIN: Color = (0.71, 0.54, 0.57)
_ARTERY: Color = (0.87, 0.68, 0.69)
_MICROANEURYSM: Color = (0.46, 0.14, 0.22)
_HAEMORRHAGE: Color = (0.44, 0.15, 0.20)
_PRERETINAL: Color = (0.52, 0.17, 0.19)
_NEW_VESSEL: Color = (0.74, 0.38, 0.44)


@dataclass(frozen=True)
class Photograph:
    """A drawn photograph and the truth about it.

    Attributes:
        image: uint8 [H, W, 3], RGB in [0, 255].
        lesions: bool [H, W], True where a lesion was drawn.
    """

    image: np.ndarray
    lesions: np.ndarray


@dataclass(frozen=True)
class Camera:
    """The look of one fundus camera.

    Attributes:
        width: of the frame, in px.
        height: of the frame, in px.
        field: radius of the round field over the frame's height; above 0.5 the
            frame cuts the field off above and below.
        gain: of red, green and blue.
        blur: sigma of the optics, in thousandths of the field radius.
        vignette: part of the light that is lost at the field's edge, in [0, 1].
        haze: light scattered over the whole field, in [0, 1].
        noise: largest deviation of a pixel, in grey levels.
        notch: whether the mask carries a tab at the upper right.
    """

    width: int
    height: int
    field: float
    gain: Color
    blur: float
    vignette: float
    haze: float
    noise: float
    notch: bool


CAMERAS = (
    Camera(1200, 900, 0.475, (0.98, 0.94, 0.86), 1.6, 0.34, 0.01, 5.0, True),
    Camera(1024, 682, 0.590, (1.02, 0.86, 0.38), 2.6, 0.24, 0.01, 4.0, True),
    Camera(800, 600, 0.490, (0.95, 1.05, 0.92), 3.2, 0.16, 0.05, 5.0, True),
    Camera(640, 480, 0.540, (0.86, 1.00, 1.12), 3.0, 0.30, 0.07, 7.0, False),
    Camera(900, 900, 0.485, (1.06, 0.82, 0.72), 2.0, 0.28, 0.02, 6.0, False),
)


@dataclass(frozen=True)
class Patient:
    """What both eyes of a patient share.

    Lengths are in field radii.

    Attributes:
        camera: that took both photographs.
        pigment: from 0 (pale, the choroid shows) to 1 (dark).
        disc: middle of the optic disc, in eye coordinates.
        disc_radius: of the optic disc.
        cup_ratio: radius of the cup over that of the disc.
        arcade: half-axes of the ellipse that the vessel arcades follow.
        tortuosity: how much vessels wind, about 1.
        vessel_scale: how wide vessels are, about 1.
        sheen: light reflected along vessels, in [0, 1]; strong in the young.
        num_drusen: pale spots about the macula.
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


@dataclass(frozen=True)
class View:
    """Where an eye lies in the frame: maps eye coordinates to pixels.

    Eye coordinates are field radii, with the fovea at the origin, the optic disc
    at positive x, and y pointing down.

    Attributes:
        center: of the field, float64 [2], x and y in px.
        radius: of the field, in px.
        shift: of the fovea from the field's centre, float64 [2], in radii.
        tilt: of the eye, in radians.
        mirror: 1 with the disc on the right (a right eye), -1 on the left.
        disc: middle of the optic disc, float64 [2], in eye coordinates.
    """

    center: np.ndarray
    radius: float
    shift: np.ndarray
    tilt: float
    mirror: int
    disc: np.ndarray

    def to_field(self, points: np.ndarray) -> np.ndarray:
        """Map eye coordinates [..., 2] to radii from the field's centre."""
        cos, sin = np.cos(self.tilt), np.sin(self.tilt)
        turned = points @ np.array([[cos, sin], [-sin, cos]]) + self.shift
        return turned * (self.mirror, 1)

    def to_pixels(self, points: np.ndarray) -> np.ndarray:
        """Map eye coordinates [..., 2] to pixels of the frame."""
        return self.to_field(points) * self.radius + self.center

    def to_soft(self, points: np.ndarray) -> np.ndarray:
        """Map eye coordinates [..., 2] to pixels of the soft layers."""
        size = np.array(_soft_size(self)) / 2
        return self.to_field(points) * _SOFT_RADIUS + size


@dataclass(frozen=True)
class Layers:
    """The sheets that a photograph is put together from.

    Attributes:
        tissue: float32 [h, w, 3], soft, reflectance in [0, 1].
        light: float32 [h, w, 3], soft, illumination about 1.
        haze: float32 [h, w, 3], soft, scattered light in [0, 1].
        transmission: uint8 [H, W, 3], 255 where nothing absorbs.
        glow: uint8 [H, W, 3], reflectance added on top of the tissue.
        lesions: uint8 [H, W], 255 where a lesion was drawn.
    """

    tissue: np.ndarray
    light: np.ndarray
    haze: np.ndarray
    transmission: np.ndarray
    glow: np.ndarray
    lesions: np.ndarray


@dataclass(frozen=True)
class Vessel:
    """A stretch of vessel without branches.

    Attributes:
        points: float64 [N, 2], in eye coordinates.
        widths: float64 [N], in field radii.
        is_vein: veins are darker than arteries, and have less of a reflex.
    """

    points: np.ndarray
    widths: np.ndarray
    is_vein: bool


def draw_photograph(
    grade: int, *, patient_seed: int, eye: Eye, seed: int
) -> Photograph:
    """Draw the photograph of one eye with lesions of one grade.

    Equal arguments give equal pixels. The patient's seed sets the camera, the
    pigment and the anatomy, mirrored in the other eye with vessels of its own;
    `seed` sets what differs between two shots of an eye: gaze, light, dust, noise
    and the place of the lesions. Grades follow the ETDRS order: 1 has
    microaneurysms only; 2 adds haemorrhages and hard exudates; 3 has many
    haemorrhages, in all quadrants, and cotton-wool spots; 4 adds new vessels and
    at times a preretinal haemorrhage.

    Args:
        grade: of diabetic retinopathy, 0-4.
        patient_seed: >= 0.
        eye: "left" (the optic disc is left of the middle) or "right".
        seed: >= 0.

    Returns:
        The image and its lesions, both as large as the camera's frame.

    Raises:
        ValueError: if the grade, the eye or a seed is none of these.
    """
    if grade not in range(NUM_GRADES):
        raise ValueError(f"grade must be 0-{NUM_GRADES - 1} (got {grade!r})")
    if eye not in ("left", "right"):
        raise ValueError(f"eye must be 'left' or 'right' (got {eye!r})")
    if patient_seed < 0 or seed < 0:
        raise ValueError(
            f"seeds must be >= 0 (got patient_seed={patient_seed}, seed={seed})"
        )
    side = ("left", "right").index(eye)
    patient = _draw_patient(np.random.default_rng([0, patient_seed]))
    anatomy_rng = np.random.default_rng([1, patient_seed, side])
    shot_rng = np.random.default_rng([2, patient_seed, side, seed])
    lesion_rng = np.random.default_rng([3, patient_seed, side, seed, grade])

    view = _draw_view(shot_rng, patient, mirror=1 if eye == "right" else -1)
    vessels = _grow_vessels(anatomy_rng, patient)
    layers = _start_layers(patient, view)
    _paint_tissue(anatomy_rng, layers, patient=patient, view=view)
    _paint_vessels(anatomy_rng, layers, patient=patient, view=view, vessels=vessels)
    _paint_lesions(
        lesion_rng, layers, grade=grade, patient=patient, view=view, vessels=vessels
    )
    _paint_light(shot_rng, layers, patient=patient, view=view)
    field = _draw_field(patient.camera, view)
    image = _develop(
        shot_rng, layers, patient=patient, view=view, field=field, disc_rng=anatomy_rng
    )
    return Photograph(image, (layers.lesions > 0) & (field > 200))


def _draw_patient(rng: np.random.Generator) -> Patient:
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
        num_drusen=int(rng.integers(6, 40)) if rng.random() < 0.2 else 0,
    )


def _draw_view(rng: np.random.Generator, patient: Patient, *, mirror: int) -> View:
    camera = patient.camera
    toward_disc = rng.beta(1.2, 4.0) * 0.6
    return View(
        center=np.array([camera.width, camera.height]) / 2 + rng.uniform(-3, 3, 2),
        radius=camera.field * camera.height,
        shift=np.array([0.06 - toward_disc * patient.disc[0], rng.normal(0.02, 0.04)]),
        tilt=rng.normal(0, 0.06),
        mirror=mirror,
        disc=np.array(patient.disc),
    )


def _soft_size(view: View) -> tuple[int, int]:
    scale = 2 * _SOFT_RADIUS / view.radius
    return round(view.center[0] * scale), round(view.center[1] * scale)


def _start_layers(patient: Patient, view: View) -> Layers:
    width, height = _soft_size(view)
    frame = (patient.camera.height, patient.camera.width)
    return Layers(
        tissue=np.empty((height, width, 3), np.float32),
        light=np.ones((height, width, 3), np.float32),
        haze=np.zeros((height, width, 3), np.float32),
        transmission=np.full((*frame, 3), 255, np.uint8),
        glow=np.zeros((*frame, 3), np.uint8),
        lesions=np.zeros(frame, np.uint8),
    )


def _draw_clouds(
    rng: np.random.Generator, size: tuple[int, int], *, cells: tuple[int, ...]
) -> np.ndarray:
    """Return float32 [h, w] of smooth noise with a deviation of about 1."""
    clouds = np.zeros(size[::-1], np.float32)
    for cell in cells:
        grid = rng.standard_normal(
            (size[1] // cell + 2, size[0] // cell + 2), dtype=np.float32
        )
        clouds += cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)
    return clouds / len(cells) ** 0.5


def _draw_waves(
    rng: np.random.Generator, num_points: int, *, num_knots: int, width: int
) -> np.ndarray:
    """Return float32 [num_points, width] of smooth noise that starts at 0."""
    knots = rng.standard_normal((num_knots, width), dtype=np.float32)
    waves = cv2.resize(knots, (width, num_points), interpolation=cv2.INTER_CUBIC)
    return waves - waves[0]


def _walk(
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

    Headings, turn and wander are in radians, lengths in field radii.
    """
    num_steps = max(4, round(length / step))
    waves = _draw_waves(rng, num_steps, num_knots=2 + num_steps // 4, width=1)[:, 0]
    headings = heading + np.arange(num_steps) * (turn / num_steps) + wander * waves
    points = np.empty((num_steps + 1, 2))
    points[0] = start
    points[1:, 0] = start[0] + step * np.cumsum(np.cos(headings))
    points[1:, 1] = start[1] + step * np.cumsum(np.sin(headings))
    return points


def _grow_vessels(rng: np.random.Generator, patient: Patient) -> list[Vessel]:
    """Grow the retinal vessels out of the optic disc, trunks first."""
    disc = np.array(patient.disc)
    half_width, half_height = patient.arcade
    stems: list[Vessel] = []
    for is_vein, sign in ((True, -1), (True, 1), (False, -1), (False, 1)):
        width = (0.021 if is_vein else 0.016) * patient.vessel_scale
        root = disc + rng.normal(0, 0.2, 2) * patient.disc_radius
        angles = np.linspace(0, rng.uniform(1.8, 2.3), _TRUNK_POINTS)
        x = -half_width * rng.uniform(0.9, 1.1) * (1 - np.cos(angles))
        y = sign * half_height * rng.uniform(0.88, 1.12) * np.sin(angles)
        waves = _draw_waves(rng, _TRUNK_POINTS, num_knots=10, width=2)
        trunk = root + np.stack([x, y], axis=1) + 0.012 * patient.tortuosity * waves
        nasal = _walk(
            rng,
            root + rng.normal(0, 0.15, 2) * patient.disc_radius,
            heading=sign * rng.uniform(0.8, 1.3),
            length=0.9,
            turn=-sign * rng.uniform(0.2, 0.8),
            wander=0.2 * patient.tortuosity,
        )
        twig = _walk(
            rng,
            root + rng.normal(0, 0.25, 2) * patient.disc_radius,
            heading=np.pi - sign * rng.uniform(0.2, 0.7),
            length=rng.uniform(0.3, 0.5),
            turn=sign * 0.4,
            wander=0.22 * patient.tortuosity,
        )
        stems += [
            _taper(trunk, width=width, is_vein=is_vein, start=0.5),
            _taper(nasal, width=0.62 * width, is_vein=is_vein, start=0.5),
            _taper(twig, width=0.3 * width, is_vein=is_vein, start=0.5),
        ]
    branches = []
    for stem in stems:
        count = int(rng.integers(5, 9) * min(1, len(stem.points) / _TRUNK_POINTS))
        lengths = (0.3, 0.7)
        branches += _branch(
            rng, stem, count=count, forks=2, lengths=lengths, patient=patient
        )
    twigs = []
    for branch in branches:
        count = int(rng.integers(0, 3))
        lengths = (0.15, 0.4)
        twigs += _branch(
            rng, branch, count=count, forks=0, lengths=lengths, patient=patient
        )
    return stems + branches + twigs


def _taper(
    points: np.ndarray, *, width: float, is_vein: bool, start: float = 1.0
) -> Vessel:
    """Return a vessel that thins out, and that ends before the fovea.

    It starts with part of its width where it comes up through the disc.
    """
    near_fovea = np.flatnonzero(np.hypot(points[:, 0], points[:, 1]) < 0.16)
    if near_fovea.size:
        points = points[: max(2, near_fovea[0])]
    widths = width * np.linspace(1.0, 0.4, len(points))
    widths[:4] *= np.linspace(start, 1, 4)[: len(points)]
    return Vessel(points, widths, is_vein)


def _branch(
    rng: np.random.Generator,
    vessel: Vessel,
    *,
    count: int,
    forks: int,
    lengths: tuple[float, float],
    patient: Patient,
) -> list[Vessel]:
    """Return branches to alternate sides, and those that the end forks into."""
    last = len(vessel.points) - 1
    if last < 8:
        return []
    side = int(rng.choice([-1, 1]))
    branches = []
    for index in (*np.sort(rng.integers(4, last, count)), *(last,) * forks):
        side = -side
        along = vessel.points[index] - vessel.points[index - 2]
        is_fork = index == last
        leave = rng.uniform(0.15, 0.45) if is_fork else rng.uniform(0.45, 0.95)
        path = _walk(
            rng,
            vessel.points[index],
            heading=float(np.arctan2(along[1], along[0])) + side * leave,
            length=rng.uniform(*lengths),
            turn=-side * rng.uniform(-0.2, 0.8),
            wander=0.25 * patient.tortuosity,
        )
        share = rng.uniform(0.7, 0.9) if is_fork else rng.uniform(0.4, 0.7)
        width = max(share * vessel.widths[index], 0.0025)
        branches.append(_taper(path, width=width, is_vein=vessel.is_vein))
    return branches


def _paint_tissue(
    rng: np.random.Generator, layers: Layers, *, patient: Patient, view: View
) -> None:
    """Paint pigment, choroid, macula and drusen into the tissue layer."""
    size = _soft_size(view)
    pale, dark = np.array([0.88, 0.54, 0.31]), np.array([0.62, 0.32, 0.17])
    layers.tissue[:] = pale + (dark - pale) * patient.pigment

    clouds = _draw_clouds(rng, size, cells=(60, 24, 9))
    grain = _draw_clouds(rng, size, cells=(4, 2))
    choroid = np.zeros(size[::-1], np.uint8)
    for _ in range(70):
        start = rng.uniform(-1.2, 1.2, 2)
        away = start - view.disc
        path = _walk(
            rng,
            start,
            heading=float(np.arctan2(away[1], away[0])) + rng.normal(0, 0.5),
            length=0.6,
            turn=rng.normal(0, 0.6),
            wander=0.5,
            step=0.05,
        )
        thickness = int(rng.integers(1, 5))
        _draw_path(choroid, view.to_soft(path), color=255, thickness=thickness)
    choroid = cv2.GaussianBlur(choroid, (0, 0), 1.1)
    shows = np.clip(0.5 + 0.6 * _draw_clouds(rng, size, cells=(70,)), 0, 1)
    strength = (1 - patient.pigment) ** 2 * rng.uniform(0.1, 0.4)
    vessels = (choroid / np.float32(255) - 0.4) * shows * np.float32(strength)
    mottle = 1 + 0.025 * clouds + 0.014 * grain
    for channel, weight in enumerate((0.25, 0.5, 0.45)):
        layers.tissue[..., channel] *= mottle + np.float32(weight) * vessels

    fovea = view.to_soft(np.zeros(2))
    depth = rng.uniform(0.22, 0.42)
    broad = _draw_spot(size, fovea, sigma=0.16 * _SOFT_RADIUS) * (0.62 * depth)
    narrow = _draw_spot(size, fovea, sigma=0.055 * _SOFT_RADIUS) * (0.5 * depth)
    for channel, weight in enumerate((0.7, 1.0, 1.05)):
        layers.tissue[..., channel] *= 1 - weight * (broad + narrow)
    halo = _draw_spot(
        size, view.to_soft(view.disc), sigma=2.1 * patient.disc_radius * _SOFT_RADIUS
    )
    layers.tissue[:] += halo[..., None] * _rgb(0.09, 0.08, 0.05)

    spots = np.zeros(size[::-1], np.uint8)
    for _ in range(patient.num_drusen):
        place = view.to_soft(rng.normal(0, 0.2, 2))
        radius = rng.uniform(0.006, 0.017) * _SOFT_RADIUS
        _draw_dot(spots, place, radius=radius, color=int(rng.integers(70, 190)))
    spots = cv2.GaussianBlur(spots, (0, 0), 0.8) / np.float32(255)
    layers.tissue[:] += spots[..., None] * _rgb(0.12, 0.19, 0.10)


def _draw_spot(
    size: tuple[int, int], center: np.ndarray, *, sigma: float
) -> np.ndarray:
    """Return float32 [h, w], a Gaussian spot with a peak of 1."""
    x = np.exp(-0.5 * ((np.arange(size[0]) - center[0]) / sigma) ** 2)
    y = np.exp(-0.5 * ((np.arange(size[1]) - center[1]) / sigma) ** 2)
    return np.outer(y, x).astype(np.float32)


def _draw_path(
    canvas: np.ndarray, points: np.ndarray, *, color: object, thickness: int
) -> None:
    fixed = np.round(points * (1 << _SHIFT)).astype(np.int32)
    cv2.polylines(canvas, [fixed], False, color, thickness, cv2.LINE_AA, _SHIFT)


def _draw_dot(
    canvas: np.ndarray, center: np.ndarray, *, radius: float, color: object
) -> None:
    x, y, r = (round(float(v) * (1 << _SHIFT)) for v in (*center, radius))
    cv2.circle(canvas, (x, y), r, color, cv2.FILLED, cv2.LINE_AA, _SHIFT)


def _draw_shape(canvas: np.ndarray, points: np.ndarray, *, color: object) -> None:
    fixed = np.round(points * (1 << _SHIFT)).astype(np.int32)
    cv2.fillPoly(canvas, [fixed], color, cv2.LINE_AA, _SHIFT)


def _rgb(red: float, green: float, blue: float) -> np.ndarray:
    return np.array([red, green, blue], np.float32)


def _to_bytes(color: Color, *, strength: float = 1.0) -> tuple[int, int, int]:
    """Return a transmission weakened toward 1, in [0, 255]."""
    red, green, blue = (round(255 * (1 - (1 - c) * strength)) for c in color)
    return red, green, blue


def _paint_vessels(
    rng: np.random.Generator,
    layers: Layers,
    *,
    patient: Patient,
    view: View,
    vessels: list[Vessel],
) -> None:
    """Paint the vessels, thin ones first, with the reflex on top of them."""
    contrast = rng.uniform(0.8, 1.0)
    for vessel in sorted(vessels, key=lambda vessel: vessel.widths[0]):
        points = view.to_pixels(vessel.points)
        widths = vessel.widths * view.radius
        color = _VEIN if vessel.is_vein else _ARTERY
        thickness = np.maximum(1, np.round(widths)).astype(int)
        for stop in np.unique(thickness)[::-1]:
            part = np.flatnonzero(thickness == stop)
            strength = contrast * np.clip(widths[part].mean() / 5 + 0.15, 0.25, 1)
            _draw_path(
                layers.transmission,
                points[part[0] : part[-1] + 2],
                color=_to_bytes(color, strength=strength),
                thickness=int(stop),
            )
        reflex = (60 if vessel.is_vein else 110) * patient.sheen
        wide = int(np.count_nonzero(widths > 3))
        if wide > 1:
            level = round(reflex)
            _draw_path(
                layers.glow,
                points[:wide],
                color=(level, round(0.7 * level), round(0.5 * level)),
                thickness=max(1, round(0.25 * widths[0])),
            )


def _paint_lesions(
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
    num_dots = rng.integers(*((9, 22), (12, 26), (18, 34), (10, 26))[grade - 1])
    num_blots = rng.integers(*((0, 1), (5, 14), (18, 34), (8, 24))[grade - 1])
    num_wool = rng.integers(*((0, 1), (0, 1), (2, 7), (1, 5))[grade - 1])
    num_clusters = rng.integers(*((0, 1), (1, 5), (1, 5), (1, 4))[grade - 1])
    contrast = rng.uniform(0.75, 1.0)

    for _ in range(num_wool):
        place = _find_place(rng, patient, view=view, reach=(0.35, 0.9))
        _paint_wool(rng, layers, view=view, place=place)
    for _ in range(num_clusters):
        _paint_exudates(rng, layers, patient=patient, view=view)
    for index in range(num_blots):
        place = _find_place(
            rng, patient, view=view, reach=(0.15, 0.95), quadrant=index % 4
        )
        toward_disc = view.disc - place
        is_flame = grade >= 3 and rng.random() < 0.35
        shape = _draw_blob(
            rng,
            radius=0.018 + 0.026 * rng.beta(1.0, 2.5),
            stretch=rng.uniform(1.8, 3.2) if is_flame else rng.uniform(1.0, 1.6),
            angle=float(np.arctan2(toward_disc[1], toward_disc[0])),
        )
        strength = contrast * rng.uniform(0.6, 1.0)
        _paint_red(
            layers, shape, place=place, view=view, color=_HAEMORRHAGE, strength=strength
        )
    for _ in range(num_dots):
        place = _find_place(rng, patient, view=view, reach=(0.1, 0.9))
        radius = rng.uniform(0.013, 0.020)
        shape = _draw_blob(rng, radius=radius, stretch=1.0, angle=0.0)
        strength = contrast * rng.uniform(0.7, 1.0)
        _paint_red(
            layers,
            shape,
            place=place,
            view=view,
            color=_MICROANEURYSM,
            strength=strength,
        )
    if grade == 4:
        if rng.random() < 0.5:
            _paint_preretinal(rng, layers, patient=patient, view=view)
        for _ in range(rng.integers(1, 4)):
            _paint_new_vessels(rng, layers, patient=patient, view=view, vessels=vessels)


def _find_place(
    rng: np.random.Generator,
    patient: Patient,
    *,
    view: View,
    reach: tuple[float, float],
    quadrant: int | None = None,
) -> np.ndarray:
    """Return a place in eye coordinates that is visible and off the disc.

    Reach bounds the distance from the fovea, in field radii. A quadrant, 0-3, is
    tried for but not insisted on: the frame may not show it.
    """
    camera = patient.camera
    top = min(0.92, 0.5 / camera.field - 0.06)
    for attempt in range(60):
        angle = rng.uniform(0, 2 * np.pi)
        if quadrant is not None and attempt < 30:
            angle = (quadrant + rng.uniform(0, 1)) * np.pi / 2
        distance = np.sqrt(rng.uniform(reach[0] ** 2, reach[1] ** 2))
        place = distance * np.array([np.cos(angle), np.sin(angle)])
        x, y = view.to_field(place)
        off_disc = np.hypot(*(place - view.disc)) > 1.5 * patient.disc_radius
        if off_disc and np.hypot(x, y) < 0.92 and abs(y) < top:
            return place
    return np.array([-0.3, 0.2])


def _draw_blob(
    rng: np.random.Generator, *, radius: float, stretch: float, angle: float
) -> np.ndarray:
    """Return the outline [N, 2] of an uneven ellipse about the origin."""
    turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    uneven = 1 + sum(
        rng.normal(0, 0.16 / order) * np.cos(order * turns + rng.uniform(0, 6.3))
        for order in (2, 3, 4)
    )
    x = radius * uneven * np.cos(turns) * np.sqrt(stretch)
    y = radius * uneven * np.sin(turns) / np.sqrt(stretch)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([x * cos - y * sin, x * sin + y * cos], axis=1)


def _paint_red(
    layers: Layers,
    shape: np.ndarray,
    *,
    place: np.ndarray,
    view: View,
    color: Color,
    strength: float,
    fade: float = 0.3,
) -> None:
    """Paint a patch of blood, fainter in the outer part `fade` of its radius."""
    for part, share in ((0.0, 0.6), (0.5, 0.85), (1.0, 1.0)):
        outline = view.to_pixels(place + (1 - part * fade) * shape)
        shade = _to_bytes(color, strength=strength * share)
        _draw_shape(layers.transmission, outline, color=shade)
    _draw_shape(layers.lesions, view.to_pixels(place + shape), color=255)


def _paint_wool(
    rng: np.random.Generator, layers: Layers, *, view: View, place: np.ndarray
) -> None:
    """Paint a cotton-wool spot: white, soft, broader than high."""
    patch = np.zeros(layers.tissue.shape[:2], np.uint8)
    for _ in range(rng.integers(2, 5)):
        shape = _draw_blob(
            rng,
            radius=rng.uniform(0.02, 0.036),
            stretch=rng.uniform(1.0, 1.8),
            angle=rng.uniform(0, np.pi),
        )
        outline = place + rng.normal(0, 0.018, 2) + shape
        _draw_shape(patch, view.to_soft(outline), color=255)
        _draw_shape(layers.lesions, view.to_pixels(outline), color=255)
    soft = cv2.GaussianBlur(patch, (0, 0), 1.3) / np.float32(255)
    white = _rgb(0.92, 0.86, 0.70)
    layers.tissue[:] += (
        soft[..., None] * np.float32(rng.uniform(0.5, 0.8)) * (white - layers.tissue)
    )


def _paint_exudates(
    rng: np.random.Generator, layers: Layers, *, patient: Patient, view: View
) -> None:
    """Paint a cluster of hard exudates: yellow, small, sharp-edged."""
    middle = _find_place(rng, patient, view=view, reach=(0.12, 0.6))
    ring = rng.uniform(0, 0.09)
    level = rng.uniform(0.7, 1.0)
    color = tuple(round(level * v) for v in (100, 125, 70))
    for _ in range(rng.integers(12, 44)):
        turn = rng.uniform(0, 2 * np.pi)
        place = middle + ring * np.array([np.cos(turn), np.sin(turn)])
        place = place + rng.normal(0, 0.035, 2)
        if np.hypot(*(place - view.disc)) < 1.3 * patient.disc_radius:
            continue
        shape = _draw_blob(
            rng,
            radius=0.004 + 0.014 * rng.beta(1.0, 2.5),
            stretch=rng.uniform(1.0, 1.8),
            angle=rng.uniform(0, np.pi),
        )
        outline = view.to_pixels(place + shape)
        _draw_shape(layers.glow, outline, color=color)
        _draw_shape(layers.lesions, outline, color=255)


def _paint_preretinal(
    rng: np.random.Generator, layers: Layers, *, patient: Patient, view: View
) -> None:
    """Paint a preretinal haemorrhage: a boat with a level top, over the vessels."""
    place = _find_place(rng, patient, view=view, reach=(0.35, 0.7))
    half_width, depth = rng.uniform(0.09, 0.17), rng.uniform(0.06, 0.13)
    turns = np.linspace(0, np.pi, 20)
    belly = np.sqrt(np.maximum(np.sin(turns), 0))
    hull = np.stack([half_width * np.cos(turns), depth * belly], axis=1)
    hull += 0.005 * _draw_waves(rng, 20, num_knots=7, width=2)
    away = place - view.disc
    if np.hypot(*away) < 0.38:
        place = view.disc + away * 0.38 / np.hypot(*away)
    _paint_red(
        layers,
        hull,
        place=place,
        view=view,
        color=_PRERETINAL,
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
    if rng.random() < 0.6:
        arcades = [vessel for vessel in vessels if len(vessel.points) == _TRUNK_POINTS]
        if arcades:
            arcade = arcades[rng.integers(len(arcades))]
            root = arcade.points[rng.integers(10, 34)]
    thickness = max(1, round(0.0032 * view.radius))
    for _ in range(rng.integers(12, 22)):
        path = _walk(
            rng,
            root + rng.normal(0, 0.03, 2),
            heading=rng.uniform(0, 2 * np.pi),
            length=rng.uniform(0.1, 0.26),
            turn=rng.normal(0, 2.5),
            wander=0.9,
            step=0.012,
        )
        points = view.to_pixels(path)
        color = _to_bytes(_NEW_VESSEL, strength=rng.uniform(0.7, 1.0))
        _draw_path(layers.transmission, points, color=color, thickness=thickness)
        _draw_path(layers.lesions, points, color=255, thickness=thickness)


def _paint_light(
    rng: np.random.Generator, layers: Layers, *, patient: Patient, view: View
) -> None:
    """Paint vignette, uneven light, dust on the lens and flare."""
    camera = patient.camera
    size = _soft_size(view)
    x = (np.arange(size[0], dtype=np.float32) - size[0] / 2) / _SOFT_RADIUS
    y = (np.arange(size[1], dtype=np.float32) - size[1] / 2) / _SOFT_RADIUS
    x, y = np.meshgrid(x, y)
    lean = rng.normal(0, 0.18, 2)
    squared = np.square(x - lean[0]) + np.square(y - lean[1])
    light = 1 - camera.vignette * np.minimum(squared, 1.6)
    light *= 1 + 0.05 * _draw_clouds(rng, size, cells=(110, 50))
    light *= np.float32(np.exp(rng.normal(0, 0.13)))

    dust = np.zeros(size[::-1], np.uint8)
    for _ in range(rng.integers(0, 7)):
        place = np.array(size) / 2 + rng.uniform(-0.9, 0.9, 2) * _SOFT_RADIUS
        radius = rng.uniform(0.008, 0.035) * _SOFT_RADIUS
        _draw_dot(dust, place, radius=radius, color=int(rng.integers(40, 200)))
    dust = cv2.GaussianBlur(dust, (0, 0), 1.6) / np.float32(255)
    pale = rng.random() < 0.3
    if not pale:
        light *= 1 - 0.2 * dust
    layers.light[:] = light[..., None] * _rgb(*camera.gain)

    layers.haze[:] = camera.haze * rng.uniform(0.6, 1.4) * _rgb(0.8, 0.95, 1.0)
    if pale:
        layers.haze[:] += 0.10 * dust[..., None] * _rgb(0.8, 1.0, 0.95)
    if rng.random() < 0.35:
        turn = rng.uniform(0, 2 * np.pi)
        beam = x * np.cos(turn) + y * np.sin(turn)
        edge = np.clip((np.hypot(x, y) - 0.72) / 0.3, 0, 1) ** 2
        flare = edge * np.clip(beam - 0.2, 0, 1) * rng.uniform(0.2, 0.9)
        tint = _rgb(0.75, 1.0, 0.95) if rng.random() < 0.7 else _rgb(1.0, 0.6, 0.2)
        layers.haze[:] += flare[..., None].astype(np.float32) * tint


def _draw_field(camera: Camera, view: View) -> np.ndarray:
    """Return uint8 [H, W], 255 in the round field, 0 outside, soft between."""
    field = np.zeros((camera.height, camera.width), np.uint8)
    _draw_dot(field, view.center, radius=view.radius, color=255)
    if camera.notch:
        middle = view.center + view.radius * np.array([0.735, -0.70])
        half = 0.045 * view.radius
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
        _draw_shape(field, middle + corners @ np.array([[0.8, 0.6], [-0.6, 0.8]]),
                    color=255)  # fmt: skip
    return cv2.GaussianBlur(field, (0, 0), 0.004 * view.radius)


def _develop(
    rng: np.random.Generator,
    layers: Layers,
    *,
    patient: Patient,
    view: View,
    field: np.ndarray,
    disc_rng: np.random.Generator,
) -> np.ndarray:
    """Put the layers together into uint8 [H, W, 3]."""
    camera = patient.camera
    frame = (camera.width, camera.height)
    image = cv2.resize(layers.tissue, frame, interpolation=cv2.INTER_LINEAR)
    _blend_disc(disc_rng, image, patient=patient, view=view)
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


def _blend_disc(
    rng: np.random.Generator, image: np.ndarray, *, patient: Patient, view: View
) -> None:
    """Blend the optic disc and its cup into float32 [H, W, 3] in [0, 1]."""
    x, y = view.to_pixels(view.disc)
    radius = patient.disc_radius * view.radius
    left, top = max(0, int(x - 1.6 * radius)), max(0, int(y - 1.6 * radius))
    patch = image[top : int(y + 1.6 * radius), left : int(x + 1.6 * radius)]
    rows = ((np.arange(patch.shape[0]) + top - y) / radius)[:, None]
    columns = ((np.arange(patch.shape[1]) + left - x) / radius)[None]
    nasal = columns * view.mirror
    wobble = 1 + 0.05 * np.sin(3 * np.arctan2(rows, columns) + rng.uniform(0, 6.3))
    distance = np.hypot(rows / 1.06, columns) * wobble
    tint = np.array([0.97, 0.76, 0.50]) + rng.normal(0, 0.02, 3)
    rim = np.clip((1.06 - distance) / 0.14, 0, 1)[..., None]
    pink = np.clip(nasal, 0, 1)[..., None] * np.array([0.0, 0.14, 0.08])
    patch += (rim * rng.uniform(0.72, 0.9) * (tint - pink - patch)).astype(np.float32)
    cup_distance = np.hypot(rows, nasal + 0.12)
    cup = np.clip((patient.cup_ratio - cup_distance) / 0.22 + 0.5, 0, 1)[..., None]
    bright = np.array([1.02, 0.93, 0.74])
    patch += (cup * rng.uniform(0.6, 0.85) * (bright - patch)).astype(np.float32)
    crescent = np.clip(1 - np.abs(distance - 1.14) / 0.1, 0, 1) * np.clip(-nasal, 0, 1)
    patch += (crescent[..., None] * rng.uniform(-0.05, 0.12)).astype(np.float32)
