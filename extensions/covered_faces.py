"""Faces with drawn objects before them, from which the network of dubbing/occlusion.py learns: it is in no paper."""

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np

from dubbing.occlusion import FORM, network_input
from media.heatmap import LIP_POINTS
from media.landmarks import OVAL_POINTS

DRAWN = dataclasses.replace(FORM, height=2 * FORM.height, width=2 * FORM.width)  # objects are drawn at twice the size
Layer = tuple[np.ndarray, np.ndarray]  # (H, W, 3) float32 colours, (H, W) float32 opacity


@dataclasses.dataclass
class Clip:
    """Faces of one video.

    crops: (F, H, W, 3) uint8 of `DRAWN`; landmarks: (F, 131, 2) in units of the crop.
    usual: (M, H, W, 3) uint8, the medians of some of them; unlike: (F,) how little each resembles the first.
    """

    crops: np.ndarray
    landmarks: np.ndarray
    usual: np.ndarray
    unlike: np.ndarray

    def draw(self, rng: np.random.Generator) -> int:
        """The number of a face: often of one that is unlike the usual face, as these are taken for covered ones."""
        several = rng.integers(len(self.crops), size=int(rng.integers(1, 6)))
        return int(several[self.unlike[several].argmax()])


def clip_of(crops: np.ndarray, landmarks: np.ndarray) -> Clip:
    rng = np.random.default_rng(0)
    picks = [rng.permutation(len(crops))[: rng.integers(5, 40)] for _ in range(6)]
    usual = np.stack([np.median(crops[pick], axis=0).astype(np.uint8) for pick in picks])
    small = [cv2.resize(face, FORM.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.int16) for face in crops]
    mean = cv2.resize(usual[0], FORM.shape[::-1], interpolation=cv2.INTER_AREA)
    return Clip(crops, landmarks, usual, np.array([np.abs(face - mean).mean() for face in small]))


# The objects. Sizes are in units of the crop's width, about 1.8 times that of a face.


def _canvas(shape: tuple[int, ...]) -> Layer:
    return np.zeros((*shape, 3), np.float32), np.zeros(shape, np.float32)


def _colour(rng: np.random.Generator) -> np.ndarray:
    """Dark, light, grey or any colour."""
    kind = rng.random()
    if kind < 0.3:
        return rng.uniform(5, 70) + rng.normal(0, 6, 3)
    if kind < 0.5:
        return rng.uniform(190, 250) + rng.normal(0, 6, 3)
    return rng.uniform(60, 200) + rng.normal(0, 8, 3) if kind < 0.65 else rng.uniform(0, 255, 3)


def _skin(rng: np.random.Generator, crop: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The colour of a patch of the face, lighter or darker."""
    size = crop.shape[0]
    low, high = landmarks[OVAL_POINTS].min(axis=0), landmarks[OVAL_POINTS].max(axis=0)
    spot = low + (high - low) * rng.uniform([0.2, 0.1], [0.8, 0.6])
    x, y = np.clip(np.rint(spot * size).astype(int), 3, size - 4)
    return crop[y - 3 : y + 4, x - 3 : x + 4].reshape(-1, 3).mean(axis=0) * rng.uniform(0.6, 1.25) + rng.normal(0, 5, 3)


def _noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random light and dark spots of a random size, (H, W, 1), about 1."""
    coarse = max(2, int(shape[0] * rng.uniform(0.03, 1)))
    spots = rng.normal(0, 1, (coarse, coarse)).astype(np.float32)
    return (
        1 + np.float32(rng.uniform(0, 0.25)) * cv2.resize(spots, shape[::-1], interpolation=cv2.INTER_CUBIC)[..., None]
    )


def _light(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A ramp of light in a random direction, (H, W, 1), about 1."""
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.4)
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None] * np.float32(strength * np.sin(angle))
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)[None] * np.float32(strength * np.cos(angle))
    return (1 + x + y)[..., None]


def _filled(alpha: np.ndarray, points: np.ndarray) -> None:
    cv2.fillPoly(alpha, [np.rint(points * alpha.shape[0]).astype(np.int32)], (1.0,), cv2.LINE_AA)


def _turned(points: np.ndarray, angle: float, centre: np.ndarray) -> np.ndarray:
    cosine, sine = np.cos(angle), np.sin(angle)
    return points @ np.array([[cosine, sine], [-sine, cosine]]) + centre


def _bar(start: np.ndarray, stop: np.ndarray, width: float) -> np.ndarray:
    along = (stop - start) / (np.linalg.norm(stop - start) + 1e-6)
    across = np.array([-along[1], along[0]]) * width / 2
    return np.stack([start + across, stop + across, stop - across, start - across])


def _ellipse(centre: np.ndarray, radii: np.ndarray, angle: float) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return _turned(np.stack([radii[0] * np.cos(t), radii[1] * np.sin(t)], axis=1), angle, centre)


def microphone(rng: np.random.Generator, clip: Clip, i: int, near: np.ndarray, other: np.ndarray) -> Layer:
    colour, alpha = _canvas(DRAWN.shape)
    shade, ball = _colour(rng) if rng.random() < 0.4 else rng.uniform(5, 90) + rng.normal(0, 4, 3), alpha.copy()
    radius = rng.uniform(0.05, 0.2)
    end = near + np.array([rng.normal(0, 0.3), rng.uniform(0.3, 1.0)])
    if rng.random() < 0.85:
        _filled(alpha, _bar(near, end, radius * rng.uniform(0.3, 1.4)))
    colour[:] = shade * rng.uniform(0.5, 1.3)
    _filled(ball, _ellipse(near, radius * rng.uniform(0.8, 1.3, 2), rng.uniform(0, 3)))
    foam = np.broadcast_to(shade, colour.shape) * _noise(rng, alpha.shape)
    colour = np.where(ball[..., None] > 0.5, foam, colour).astype(np.float32)
    return colour * _light(rng, alpha.shape), np.maximum(alpha, ball)


def hand(rng: np.random.Generator, clip: Clip, i: int, near: np.ndarray, other: np.ndarray) -> Layer:
    """Fingers side by side, from a palm: in the colour of the speaker's skin, with outlines or shading."""
    colour, alpha = _canvas(DRAWN.shape)
    skin = _skin(rng, clip.crops[i], clip.landmarks[i])
    colour[:] = skin
    angle, width, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.1), rng.uniform(0.2, 0.5)
    palm = _turned(
        _bar(np.array([length * 0.8, 0.0]), np.array([length + rng.uniform(0.2, 0.8), 0]), width * 4.2), angle, near
    )
    fingers, outlined, size = int(rng.integers(1, 6)), rng.random() < 0.5, alpha.shape[0]
    palm_first = rng.random() < 0.5
    shapes = []
    for k in range(fingers):
        y = (k - (fingers - 1) / 2) * width * rng.uniform(0.8, 1.1)
        tip = np.array([rng.uniform(-0.06, 0.06), y + rng.normal(0, 0.01)])
        root = np.array([length, y * rng.uniform(0.8, 1.1)])
        middle, half = (tip + root) / 2, np.linalg.norm(root - tip) / 2
        if rng.random() < 0.5:
            shape = _ellipse(middle, np.array([half, width / 2]), np.arctan2(*(root - tip)[::-1]))
        else:
            shape = np.concatenate([_bar(tip, root, width), _ellipse(tip, np.full(2, width / 2), 0)])
            shape = cv2.convexHull(shape.astype(np.float32))[:, 0]
        shapes.append(_turned(shape, angle, near))
    for shape in [palm, *shapes] if palm_first else [*shapes, palm]:
        single = np.zeros_like(alpha)
        _filled(single, shape)
        tone = skin * rng.uniform(0.85, 1.12)
        depth = cv2.distanceTransform((single > 0.5).astype(np.uint8), cv2.DIST_L2, 3)[..., None]
        shading = 1 - rng.uniform(0, 0.5) * np.exp(-depth / (width * size / 4))
        colour = np.where(single[..., None] > 0.5, tone * shading, colour)
        if outlined:
            drawn = [np.rint(shape * size).astype(np.int32)]
            colour = np.ascontiguousarray(colour, np.float32)
            cv2.polylines(colour, drawn, True, (tone * rng.uniform(0.3, 0.8)).tolist(), 1, cv2.LINE_AA)
        alpha = np.maximum(alpha, single)
    if rng.random() < 0.7:
        colour = colour * _noise(rng, alpha.shape)
    return (colour * _light(rng, alpha.shape)).astype(np.float32), alpha


def mask(rng: np.random.Generator, clip: Clip, i: int, near: np.ndarray, other: np.ndarray) -> Layer:
    """A cloth over the lower face, from the nose to the chin."""
    colour, alpha = _canvas(DRAWN.shape)
    oval, lips = clip.landmarks[i][OVAL_POINTS], clip.landmarks[i][LIP_POINTS]
    top = lips[:, 1].min() - rng.uniform(0.03, 0.2)
    hull = cv2.convexHull(oval.astype(np.float32))[:, 0]
    middle = hull.mean(axis=0)
    hull = (hull - middle) * rng.uniform(0.8, 1.1, 2) + middle
    hull[:, 1] = np.maximum(hull[:, 1], top + rng.uniform(0, 0.05))
    _filled(alpha, np.concatenate([hull, [[lips[:, 0].mean(), top]]]))
    colour[:] = _colour(rng) * _noise(rng, alpha.shape)
    if rng.random() < 0.5:
        folds = np.sin(np.linspace(0, rng.uniform(10, 60), alpha.shape[0])) * rng.uniform(0, 0.15) + 1
        colour *= folds[:, None, None].astype(np.float32)
    return colour * _light(rng, alpha.shape), alpha


def board(rng: np.random.Generator, clip: Clip, i: int, near: np.ndarray, other: np.ndarray) -> Layer:
    """Paper, a book, a telephone, a cup: a quadrangle with a texture."""
    colour, alpha = _canvas(DRAWN.shape)
    half = rng.uniform(0.05, 0.35, 2)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half * rng.uniform(0.8, 1.2, (4, 2))
    _filled(alpha, _turned(corners, rng.choice([0.0, 1.0]) * rng.normal(0, 0.6), near))
    if rng.random() < 0.3:
        _filled(alpha, _ellipse(near - np.array([0, half[1]]), np.array([half[0], half[1] * 0.3]), 0))
    colour[:] = _colour(rng) * _noise(rng, alpha.shape)
    if rng.random() < 0.4:
        step = int(rng.integers(4, 12))
        colour[::step] *= rng.uniform(0.2, 1)
    if rng.random() < 0.3:
        colour = _patch(rng, other, alpha.shape)
    return (colour * _light(rng, alpha.shape)).astype(np.float32), alpha


def _patch(rng: np.random.Generator, picture: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A part of another picture, enlarged to `shape`."""
    size = picture.shape[0]
    side = int(rng.integers(size // 6, size))
    x, y = rng.integers(0, size - side + 1, 2)
    part = cv2.resize(picture[y : y + side, x : x + side], shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.rot90(part, int(rng.integers(4))).astype(np.float32) * rng.uniform(0.6, 1.3)


def blob(rng: np.random.Generator, clip: Clip, i: int, near: np.ndarray, other: np.ndarray) -> Layer:
    """Food, cloth, somebody's hand: a rounded shape with one colour or a part of another picture."""
    colour, alpha = _canvas(DRAWN.shape)
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    waves = sum(rng.normal(0, 0.25 / n) * np.cos(n * t + rng.uniform(0, 6)) for n in range(1, 6))
    radius = rng.uniform(0.05, 0.3) * np.clip(1 + waves, 0.3, 2)
    _filled(alpha, near + np.stack([radius * np.cos(t), radius * np.sin(t) * rng.uniform(0.5, 1.5)], axis=1))
    if rng.random() < 0.6:
        colour = _patch(rng, other, alpha.shape)
    else:
        shade = _skin(rng, clip.crops[i], clip.landmarks[i]) if rng.random() < 0.4 else _colour(rng)
        colour[:] = shade * _noise(rng, alpha.shape)
    return (colour * _light(rng, alpha.shape)).astype(np.float32), alpha


def caption(rng: np.random.Generator, clip: Clip, i: int, near: np.ndarray, other: np.ndarray) -> Layer:
    """Letters, with an outline or on a bar."""
    colour, alpha = _canvas(DRAWN.shape)
    size, scale = alpha.shape[0], rng.uniform(0.3, 1.0)
    text = "".join(rng.choice(list("ABCDEFGHIKLMNOPRSTUWabcdefghiklmnoprstuw  "), int(rng.integers(3, 22))))
    font = int(rng.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX]))
    thick = int(rng.integers(1, 3))
    (wide, tall), _ = cv2.getTextSize(text, font, scale, thick)
    origin = (int(near[0] * size - wide / 2), int(near[1] * size + tall / 2))
    light = _colour(rng) if rng.random() < 0.2 else np.array([255, 255, rng.choice([0, 255])], np.float64)
    letters = np.zeros_like(alpha)
    cv2.putText(letters, text, origin, font, scale, (1.0,), thick, cv2.LINE_AA)
    if rng.random() < 0.7:
        cv2.putText(alpha, text, origin, font, scale, (1.0,), thick + 2, cv2.LINE_AA)
    else:
        cv2.rectangle(alpha, (origin[0] - 3, origin[1] + 4), (origin[0] + wide + 3, origin[1] - tall - 4), (1.0,), -1)
    colour[:] = rng.uniform(0, 30)
    colour += letters[..., None] * (light - colour[0, 0])
    return colour.astype(np.float32), np.maximum(alpha, letters)


OBJECTS: list[tuple[float, Callable[..., Layer]]] = [
    (0.2, microphone), (0.3, hand), (0.1, mask), (0.15, board), (0.15, blob), (0.1, caption)
]  # fmt: skip


def covered(rng: np.random.Generator, clip: Clip, i: int, other: np.ndarray) -> Layer:
    """An object near the mouth of face `i` of `clip`; `other` is a picture to take texture from."""
    draw = OBJECTS[rng.choice(len(OBJECTS), p=[share for share, _ in OBJECTS])][1]
    lips = clip.landmarks[i][LIP_POINTS].mean(axis=0)
    spread = rng.choice([0.06, 0.18])
    colour, alpha = draw(rng, clip, i, lips + rng.normal(0, spread, 2), other)
    if rng.random() < 0.5:
        soft = rng.uniform(0.3, 1.5)
        colour, alpha = cv2.GaussianBlur(colour, (0, 0), soft), cv2.GaussianBlur(alpha, (0, 0), soft)
    return colour, alpha


def _over(face: np.ndarray, layer: Layer) -> np.ndarray:
    colour, alpha = layer
    return face + (np.clip(colour, 0, 255) - face) * alpha[..., None].astype(np.float32)


def _whiskers(rng: np.random.Generator, landmarks: np.ndarray, shape: tuple[int, ...]) -> Layer:
    """A beard, which belongs to the face."""
    colour, alpha = _canvas(shape)
    oval, lips = landmarks[OVAL_POINTS], landmarks[LIP_POINTS]
    hull = cv2.convexHull(oval.astype(np.float32))[:, 0].copy()
    hull[:, 1] = np.maximum(hull[:, 1], lips[:, 1].min() - rng.uniform(-0.05, 0.08))
    _filled(alpha, hull)
    mouth = np.zeros_like(alpha)
    _filled(mouth, cv2.convexHull(lips.astype(np.float32))[:, 0])
    alpha = np.clip(alpha - cv2.dilate(mouth, np.ones((5, 5))), 0, 1) * rng.uniform(0.2, 0.85)
    alpha *= np.clip(_noise(rng, shape) * rng.uniform(0.7, 1, (*shape, 1)), 0, 1)[..., 0]
    colour[:] = rng.choice([20, 50, 90, 170]) + np.array([20, 8, 0]) * rng.uniform(0, 1.5)
    return colour, cv2.GaussianBlur(alpha.astype(np.float32), (0, 0), 2.0)


def _moved(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    turned = cv2.getRotationMatrix2D((shape[1] / 2, shape[0] / 2), rng.normal(0, 2), rng.normal(1, 0.03))
    matrix = np.asarray(turned, np.float64)
    matrix[:, 2] += rng.normal(0, 0.015 * shape[0], 2)
    return matrix


def _filmed(rng: np.random.Generator, face: np.ndarray, usual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both faces in other light and through another camera and encoder, uint8."""
    shape = FORM.shape
    if rng.random() < 0.3:
        usual = usual * np.float32(rng.uniform(0.75, 1.3)) * _light(rng, shape)
    gain = (rng.uniform(0.4, 1.3) * rng.normal(1, 0.08, 3)).astype(np.float32)
    face, usual = face * gain * (_light(rng, shape) if rng.random() < 0.4 else 1), usual * gain
    if rng.random() < 0.15:
        face, usual = (np.repeat(part.mean(axis=2, keepdims=True), 3, axis=2) for part in (face, usual))
    if rng.random() < 0.3:
        face = cv2.GaussianBlur(face, (0, 0), rng.uniform(0.3, 1.3))
    noise = rng.standard_normal(face.shape, np.float32) * np.float32(rng.uniform(0, 4))
    face, usual = np.clip(face + noise, 0, 255).astype(np.uint8), np.clip(usual, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        coded = cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 85))])[1]
        face = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    return face, usual


def example(rng: np.random.Generator, clips: list[Clip]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The network's input, the object's opacity, and the weight of each pixel."""
    clip, other = (clips[int(rng.integers(len(clips)))] for _ in range(2))
    i, shape = clip.draw(rng), DRAWN.shape
    face, usual = clip.crops[i].astype(np.float32), clip.usual[int(rng.integers(len(clip.usual)))].astype(np.float32)
    landmarks = clip.landmarks[i]
    alpha: np.ndarray = np.zeros(shape, np.float32)
    if rng.random() < 0.15:
        beard = _whiskers(rng, landmarks, shape)
        face, usual = _over(face, beard), _over(usual, beard)
    if rng.random() < 0.25:  # a photograph, or a mouth that is at rest most of the time
        usual = face.copy() if rng.random() < 0.6 else clip.crops[clip.draw(rng)].astype(np.float32)
    if rng.random() < 0.12:  # most frames of the person have an object which is not in this one
        usual = _over(usual, covered(rng, clip, i, other.crops[0]))
    if rng.random() < 0.5:
        layer = covered(rng, clip, i, other.crops[int(rng.integers(len(other.crops)))])
        alpha = layer[1]
        if rng.random() < 0.3:  # an object that stays is in the usual face too
            jitter = np.array([[1, 0, rng.normal(0, 1.5)], [0, 1, rng.normal(0, 1.5)]])
            colour, opacity = (cv2.warpAffine(part, jitter, shape[::-1]) for part in layer)
            usual = _over(usual, (colour, opacity))
        if rng.random() < 0.3:  # its shadow
            depth = cv2.GaussianBlur(
                cv2.warpAffine(alpha, np.array([[1, 0, rng.normal(0, 4)], [0, 1, 3.0]]), shape[::-1]), (0, 0), 4
            )
            face = face * (1 - rng.uniform(0, 0.5) * depth[..., None])
        face = _over(face, layer)
    size = FORM.shape[::-1]
    parts = face, usual, alpha
    face, usual, alpha = (np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA)) for part in parts)
    matrix = _moved(rng, FORM.shape)
    moved = (cv2.warpAffine(part, matrix, size, borderMode=cv2.BORDER_REPLICATE) for part in (face, alpha))
    face, alpha = map(np.asarray, moved)
    landmarks = (landmarks * size[0] @ matrix[:, :2].T + matrix[:, 2]) / size[0]
    face, usual = _filmed(rng, face, usual)
    if rng.random() < 0.5:
        face, usual, alpha = (np.ascontiguousarray(part[:, ::-1]) for part in (face, usual, alpha))
        landmarks = landmarks * [-1, 1] + [1, 0]
    hull = np.zeros(FORM.shape, np.float32)
    _filled(hull, cv2.convexHull(landmarks[OVAL_POINTS].astype(np.float32))[:, 0])
    weight = cv2.dilate(hull, np.ones((5, 5)))
    landmarks = landmarks + rng.normal(0, 0.012, 2) + rng.normal(0, 0.004, landmarks.shape)
    return network_input(face, usual, landmarks), alpha, weight
