"""The authors' protocol: whole crops pasted, bare crops without loss, and both against computations of their own."""

import csv
import json
import shutil
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from faces import empty, portrait, small_checkpoint, write_frames
from media_files import write_sound, write_video
from test_evaluate import results, run

from benchmarks.dubbing import SourcesOwnFaces
from dubbing import DubOptions, Summary, dub, load_speaker
from dubbing.pairs import Pair, dub_pairs, read_pairs
from dubbing.paste import paste_whole
from media.audio import audio_windows, mel_spectrogram
from media.errors import InputError
from media.face import FaceTracker
from media.heatmap import FULL_FACE, POSE, draw_heatmap
from media.landmarks import ORDER, OVAL_POINTS, select131
from media.lossless import lossless_writer
from media.place import Place
from media.references import choose_references
from media.sound import read_audio
from media.video import read_frames
from models import load_checkpoint


def talking(count: int) -> list[np.ndarray]:
    """Portraits whose mouths open and close by a known warp, so that the order by lip opening is clear."""
    pictures = []
    for i in range(count):
        picture, open_by = portrait(2 * np.sin(i / 3)), 4 + 4 * np.sin(1.7 * i)
        lower = cv2.warpAffine(picture, np.array([[1, 0, 0], [0, 1, open_by]], np.float32), picture.shape[1::-1])
        picture[150:] = lower[150:]
        pictures.append(picture)
    return pictures


@pytest.fixture(scope="module")
def dubbed(tmp_path_factory):
    """A dub by the authors' protocol with small networks, and what went into it."""
    folder = tmp_path_factory.mktemp("dubbed")
    video = write_video(folder / "person.mp4", pictures=talking(12), options={"crf": "8"})
    sound = write_sound(folder / "sound.wav", "pcm_s16le", 16000, seconds=0.48)
    checkpoint = small_checkpoint(folder / "checkpoint")
    options = DubOptions(
        progress=None, protocol="authors", crop_output=folder / "crops.mkv", source_crop_output=folder / "true.mkv"
    )
    speaker = load_speaker(checkpoint, torch.device("cpu"), "float32", 4)
    encode, given = speaker.encode, []

    def noting(images, landmarks):
        given.append(images)
        return encode(images, landmarks)

    speaker.encode = noting  # type: ignore[method-assign]
    dub(video, sound, folder / "out.mp4", speaker, options)
    np.save(folder / "references.npy", given[0])
    return folder


def own_crops(frames: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (F, 4), landmarks (F, 131, 2) in pixels, and crops (F, 128, 128, 3), by the released code's rules."""
    boxes, points, crops = [], [], []
    with FaceTracker() as tracker:
        for frame in frames:
            landmarks = select131(tracker.find(frame)[0].landmarks.astype(np.float64))
            box = np.concatenate([landmarks.min(axis=0) - 5, landmarks.max(axis=0) + 5])
            box = np.clip(box, 0, [*frame.shape[1::-1]] * 2).astype(int)
            face = frame[box[1] : box[3], box[0] : box[2]]
            shrinks = face.shape[0] * face.shape[1] > 128 * 128
            crops.append(cv2.resize(face, (128, 128), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC))
            boxes.append(box)
            points.append(landmarks)
    return np.array(boxes), np.array(points), np.array(crops)


def test_the_crops_are_those_of_a_computation_of_its_own(dubbed):
    """The networks' own `forward`, window by window and frame by frame, on crops cut here."""
    frames = list(read_frames(dubbed / "person.mp4"))
    boxes, points, crops = own_crops(frames)
    true = np.stack(list(read_frames(dubbed / "true.mkv")))
    assert np.array_equal(true, crops)
    units = ((points - boxes[:, None, :2]) / (boxes[:, None, 2:] - boxes[:, None, :2])).astype(np.float32)
    opening = np.linalg.norm(units[:, ORDER.index(0)] - units[:, ORDER.index(17)], axis=1)
    ranked = sorted(range(len(frames)), key=lambda i: opening[i])
    chosen = [ranked[int(i)] for i in torch.linspace(0, len(frames) - 1, 5)]
    assert chosen != [ranked[round(float(i))] for i in torch.linspace(0, len(frames) - 1, 5)]

    assert np.array_equal(np.load(dubbed / "references.npy"), crops[chosen])

    predictor, synthesizer = load_checkpoint(dubbed / "checkpoint")
    full, pose = (
        torch.from_numpy(np.stack([draw_heatmap(each, edges) for each in units]))[:, None]
        for edges in (FULL_FACE, POSE)
    )
    pictures = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
    features = mel_spectrogram(read_audio(dubbed / "sound.wav"))
    sound = torch.from_numpy(audio_windows(features, "mel", np.arange(len(frames))))
    made = []
    with torch.inference_mode():
        for i in range(len(frames)):
            window = np.clip(np.arange(i - 2, i + 3), 0, len(frames) - 1)
            heatmaps, _ = predictor(sound[window][None], pose[window][None], full[chosen][None])
            one = [x[None, i : i + 1] for x in (pictures, sound)]
            references = pictures[chosen][None], full[chosen][None]
            made.append(synthesizer(one[0], heatmaps[:, 2:3].clamp(max=1), *references, one[1])[0, 0])
    expected = (torch.stack(made).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()
    found = np.stack(list(read_frames(dubbed / "crops.mkv"))).astype(float)
    assert found.std() > 5 and np.abs(found - true).mean() > 5  # the networks change the whole face
    assert np.abs(found[:, :64] - true[:, :64]).mean() > 5
    assert np.abs(found - expected).max() <= 1


def test_the_frames_are_the_crops_inside_the_contour_and_nothing_else(dubbed):
    frames = list(read_frames(dubbed / "person.mp4"))
    boxes, points, _ = own_crops(frames)
    crops, result = list(read_frames(dubbed / "crops.mkv")), list(read_frames(dubbed / "out.mp4"))
    assert len(result) == 12
    for frame, box, landmarks, crop, found in zip(frames, boxes, points, crops, result, strict=True):
        x1, y1, x2, y2 = box
        face, mask = frame.copy(), np.zeros(frame.shape[:2], np.uint8)
        shrinks = (x2 - x1) * (y2 - y1) < 128 * 128
        face[y1:y2, x1:x2] = cv2.resize(
            crop, (int(x2 - x1), int(y2 - y1)), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        )
        cv2.fillConvexPoly(mask, cv2.convexHull(np.rint(landmarks[OVAL_POINTS]).astype(np.int32)), (255,))
        weight = cv2.GaussianBlur(mask, (21, 21), 11)[..., None] / 255
        expected = face * weight + frame * (1 - weight)
        outside = weight[..., 0] == 0
        assert np.abs(found - expected).mean() < 2.5  # 4:2:0 halves the colours' resolution
        assert np.abs(found[outside].astype(int) - frame[outside]).mean() < 1.5
        top = slice(y1 + (y2 - y1) // 4, y1 + (y2 - y1) // 2), slice(x1 + (x2 - x1) // 3, x1 + (x2 - x1) * 2 // 3)
        assert np.abs(found[top].astype(int) - frame[top]).mean() > 3  # the upper half is generated too


def test_a_whole_crop_is_pasted_up_to_the_blurred_hull():
    frame, face = np.full((120, 120, 3), 40, np.uint8), np.full((128, 128, 3), 200, np.uint8)
    landmarks, angles = np.full((131, 2), 60.0), np.linspace(0, 2 * np.pi, len(OVAL_POINTS), endpoint=False)
    landmarks[OVAL_POINTS] = np.stack([60 + 25 * np.cos(angles), 60 + 30 * np.sin(angles)], axis=1)
    pasted = paste_whole(frame, face, Place(30, 25, 90, 95), landmarks)
    assert (pasted[60, 60] == 200).all() and (pasted[44, 60] == 200).all()  # above the middle too
    assert (pasted[:20] == 40).all() and (pasted[:, :28] == 40).all()
    assert 40 < pasted[30, 60, 0] < 200
    beyond = paste_whole(frame, face, Place(200, 200, 260, 260), landmarks)
    assert np.array_equal(beyond, frame)


def test_lossless_videos_are_read_bit_for_bit(tmp_path):
    pictures = np.random.RandomState(0).randint(0, 255, (4, 37, 51, 3), np.uint8)
    with lossless_writer(tmp_path / "a.mkv", 51, 37) as writer:
        for picture in pictures:
            writer.write(picture)
    assert np.array_equal(np.stack(list(read_frames(tmp_path / "a.mkv"))), pictures)


def test_crops_without_loss_are_mkv_files(tmp_path):
    video = write_video(tmp_path / "v.mp4", pictures=talking(2))
    sound = write_sound(tmp_path / "s.wav", "pcm_s16le", 16000, seconds=0.08)
    options = DubOptions(progress=None, protocol="authors", crop_output=tmp_path / "c.mp4")
    with pytest.raises(InputError, match=r"c\.mp4 must end in \.mkv"):
        dub(video, sound, tmp_path / "out.mp4", SourcesOwnFaces(), options)


def test_truncated_steps_are_whole_ranks():
    openings = np.arange(12.0)
    assert choose_references(openings, 5, truncated=True).tolist() == [0, 2, 5, 8, 11]
    assert choose_references(openings, 5).tolist() == [0, 3, 6, 8, 11]


def test_a_list_may_name_files_for_the_crops(tmp_path):
    for name in ("v.mp4", "s.wav"):
        (tmp_path / name).write_bytes(b"x")
    path = tmp_path / "list.csv"
    path.write_text("video,audio,output,crops,source_crops\nv.mp4,s.wav,o.mp4,c.mkv,t.mkv\nv.mp4,s.wav,p.mp4\n")
    first, second = read_pairs(path)
    assert first == Pair(*(tmp_path / name for name in ("v.mp4", "s.wav", "o.mp4", "c.mkv", "t.mkv")))
    assert second.crops is None
    path.write_text("v.mp4,s.wav,o.mp4,c.mkv,o.mp4\n")
    with pytest.raises(InputError, match=r"o\.mp4 is the output of an earlier"):
        read_pairs(path)
    path.write_text("v.mp4,s.wav,o.mp4,c.mkv\n")
    with pytest.raises(InputError, match="is not video,audio,output"):
        read_pairs(path)
    # A dub whose crops are missing is made again.
    pair = Pair(Path("v"), Path("s"), tmp_path / "v.mp4", tmp_path / "none.mkv", tmp_path / "s.wav")
    made: list[Pair] = []

    def dubbing(pair: Pair) -> Summary:
        made.append(pair)
        return Summary(pair.output, 1, Fraction(25), 2, 2, [])

    assert dub_pairs([pair], dubbing) == 0 and made == [pair]


def crops_tree(folder: Path, made: list[np.ndarray], true: list[np.ndarray]) -> Path:
    for which, pictures in (("generated", made), ("true", true)):
        with lossless_writer(folder / which / "a.mkv", 128, 128) as writer:
            for picture in pictures:
                writer.write(picture)
    return folder


def test_bare_crops_are_compared_in_place_of_the_videos(tmp_path, capsys):
    draw = np.random.RandomState(0)
    frames = [portrait(i) for i in range(5)]
    true = [cv2.resize(draw.randint(0, 255, (8, 8, 3), np.uint8), (128, 128)) for _ in frames]
    made = [np.clip(each.astype(int) + 5 * (i + 1), 0, 255).astype(np.uint8) for i, each in enumerate(true)]
    true[3] = made[3] = np.zeros((128, 128, 3), np.uint8)  # no crop was made of this frame
    for name in ("made", "true"):
        write_frames(tmp_path / name / "a.mp4", frames)
    crops = crops_tree(tmp_path / "crops", made, true)
    arguments = [
        *("--generated", f"M={tmp_path / 'made'}", "--reference", tmp_path / "true", "--crops", f"M={crops}"),
        *("--metrics", "psnr", "mse", "liplmd", "--protocol", "authors", "--output", tmp_path / "out"),
    ]
    code, out, _ = run(*arguments, capsys=capsys)
    assert code == 0, out
    (clip,) = results(tmp_path / "out")["methods"][0]["clips"]
    shown = [i for i in range(5) if i != 3]
    errors = [np.mean((made[i] / 255 - true[i] / 255) ** 2) for i in shown]
    assert clip["values"]["mse"] == pytest.approx(np.mean(errors), rel=1e-5)
    assert clip["values"]["psnr"] == pytest.approx(np.mean(-10 * np.log10(errors)), rel=1e-5)
    assert clip["values"]["liplmd"] < 0.01  # of the videos, which are the same
    assert clip["frames"] == 4
    assert clip["left_out"] == {"no generated crop": {"frames": 1, "ranges": [[3, 3]]}}
    assert "Images compared: bare crops of 128x128 pixels (landmark_box)" in out


def test_crops_that_do_not_fit_are_refused(tmp_path, capsys):
    for name in ("made", "true"):
        write_frames(tmp_path / name / "a.mp4", [empty()] * 2)
    both = ("--generated", f"M={tmp_path / 'made'}", "--reference", tmp_path / "true", "--metrics", "psnr")

    def complaint(*arguments) -> str:
        code, _, err = run(*both, *arguments, capsys=capsys)
        assert code == 2
        return err

    assert "has no generated/a.mkv" in complaint("--crops", f"M={tmp_path}")
    assert "must name the same methods; N is in one" in complaint("--crops", f"N={tmp_path}")
    assert "needs --reference and the region face" in complaint("--crops", f"M={tmp_path}", "--region", "frame")


def test_the_true_crops_features_are_kept_for_their_own_file(tmp_path, capsys, monkeypatch):
    """Two methods whose true crops differ must not share features."""
    from checkpoints import fetch
    from metrics import networks, sets

    seen: list[float] = []

    def features(network, images):
        seen.extend(images.mean(dim=(1, 2, 3)).tolist())
        return images.flatten(1)[:, :8]

    monkeypatch.setattr(sets, "inception_features", features)
    monkeypatch.setattr(fetch, "require", lambda name, purpose: tmp_path)
    network = torch.nn.Linear(1, 1)
    monkeypatch.setitem(networks._LOAD, "fid", lambda path: network)
    frames = [portrait(i) for i in range(3)]
    rows = []
    for name, level in (("A", 100), ("B", 200)):
        write_frames(tmp_path / name / "a.mp4", frames)
        pictures = [np.full((128, 128, 3), level + i, np.uint8) for i in range(3)]
        crops = crops_tree(tmp_path / f"crops-{name}", pictures, pictures)
        rows += ["--generated", f"{name}={tmp_path / name}", "--crops", f"{name}={crops}"]
    shutil.copytree(tmp_path / "A", tmp_path / "true")
    arguments = (*rows, "--reference", tmp_path / "true", "--metrics", "fid", "--cache", tmp_path / "cache")
    code, out, _ = run(*arguments, capsys=capsys)
    assert code == 0, out
    assert len(seen) == 12 and sum(level > 0.7 for level in seen) == 6
    assert run(*arguments, capsys=capsys)[0] == 0
    assert len(seen) == 18  # of the second run, the generated ones alone


def test_reproduce_prepares_crops_for_the_authors_protocol_alone(tmp_path):
    from data_prep.layout import Source
    from metrics.reproduce import prepare

    (tmp_path / "v.mp4").write_bytes(b"x")
    clip = Source("test/a", tmp_path / "v.mp4", tmp_path / "v.mp4")
    for crops in (True, False):
        prepare([clip], tmp_path / "out", crops)
        header, row = csv.reader((tmp_path / "out" / "list.csv").open())
        assert len(header) == len(row) == (5 if crops else 3)
        assert json.dumps(row).count("crops/generated/test/a.mkv") == crops
