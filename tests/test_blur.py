"""A generated mouth is as blurred as the rest of the face."""

import cv2
import numpy as np
import pytest
from faces import portrait, portraits, write_frames
from media_files import write_sound

from benchmarks.dubbing import SourcesOwnFaces
from dubbing import DubOptions, dub
from dubbing.blur import Sharpness, blurred, sharpness
from media.crop import STSA, CropForm
from media.face import FaceTracker
from media.place import crop_face
from media.video import read_frames


@pytest.fixture(scope="module")
def crops() -> list[np.ndarray]:
    with FaceTracker() as tracker:
        return [
            crop_face(picture, STSA.place(tracker.find(picture)[0].landmarks), STSA.shape) for picture in portraits(4)
        ]


def test_the_blur_of_a_face_is_found_in_both_directions(crops):
    known = Sharpness(crops[:3], STSA)
    assert known.blur(crops[3]) == (0, 0) and blurred(crops[3], (0, 0)) is crops[3]
    assert known.blur(np.clip(crops[3] * 0.9, 0, 255).astype(np.uint8)) == (0, 0)
    for across, down in ((4, 0), (0, 6), (5, 5)):
        picture = cv2.GaussianBlur(crops[3], (0, 0), max(across, 0.01), sigmaY=max(down, 0.01))
        found = np.array(known.blur(picture)) * 128
        if across:
            assert 0.5 * across < found[0] < 1.3 * across
        if down:
            assert 0.5 * down < found[1] < 1.3 * down
    assert sharpness(crops, CropForm(hidden=(0, 0, 1, 1))) is None


class Sharp(SourcesOwnFaces):
    """Generates the first face that it sees for every frame."""

    face: np.ndarray | None = None

    def speak(self, jobs, references, features, known):
        faces, heatmaps = super().speak(jobs, references, features, known)
        self.face = faces[0] if self.face is None else self.face
        return np.stack([self.face] * len(faces)), heatmaps


def test_a_sharp_mouth_is_blurred_in_a_frame_that_is(tmp_path):
    """Three frames in which a moving camera blurs a face so that it is missed: they are dubbed, and as blurred."""
    picture = portrait(zoom=1.5)
    smeared = cv2.blur(picture, (61, 1))
    video = write_frames(tmp_path / "video.mp4", [picture] * 6 + [smeared] * 3 + [picture] * 6)
    sound = write_sound(tmp_path / "sound.wav", "pcm_s16le", 16000, seconds=0.6)
    summary = dub(video, sound, tmp_path / "out.mp4", Sharp(), DubOptions(progress=None))
    assert summary.untouched == []
    before, after = (np.stack(list(read_frames(path))).astype(np.float32) for path in (video, tmp_path / "out.mp4"))
    with FaceTracker() as tracker:
        x1, y1, x2, y2 = tracker.find(picture)[0].box
    mouth = slice(None), slice(y1 + (y2 - y1) * 6 // 10, y2 - (y2 - y1) // 10), slice(x1 + 20, x2 - 20)
    edges = [np.abs(np.diff(each[mouth], axis=2)).mean(axis=(1, 2, 3)) for each in (before, after)]
    assert (edges[1][6:9] < 2 * edges[0][6:9] + 1).all() and (edges[1][6:9] < 0.6 * edges[1][:6].mean()).all()
