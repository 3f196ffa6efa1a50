"""Clip files: written, read back, refused where they are damaged, and cut into training windows."""

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from faces import portrait
from safetensors.numpy import load_file, save_file
from torch.utils.data import DataLoader
from training_runs import write_clips

from data_prep.clips import Clip, ClipData, encode_face, stored_part, write_clip
from data_prep.sync import SyncDataset
from data_prep.unsynced import draw_shifts, sync_sounds
from data_prep.windows import ClipDataset
from extensions.landmark_maps import apply_affine, fit_affine
from media.audio import audio_windows
from media.crop import CROPS, CropForm
from media.errors import InputError
from media.face import FaceTracker
from media.heatmap import FULL_FACE, KEYPOINTS, MIRROR, POSE, draw_heatmap
from media.landmarks import TRACKED, tracked
from media.place import crop_face
from media.references import choose_references, lip_opening
from media.video import read_frames

FRAMES = [*range(3, 15), *range(20, 30)]  # a gap after 14


SIDE = 180  # px of the source frames; STSA's crop lies in the middle
BOX = np.array([2, 4, 178, 176], np.int32)  # of the stored part


def picture(number: int) -> np.ndarray:
    """A source frame, different for each number."""
    return np.ascontiguousarray(cv2.resize(portrait(number, -number / 2), (SIDE, SIDE)))


def clip_data(frames=FRAMES, seconds=1.6) -> ClipData:
    random = np.random.default_rng(0)
    points = random.uniform(31, 149, (len(frames), len(TRACKED), 2)).astype(np.float32)
    points[:, 10:12] = [[30, 30], [150, 150]]  # eyebrows
    return ClipData(
        faces=[encode_face(picture(number), BOX, 95, 640) for number in frames],
        points=list(points),
        boxes=[BOX] * len(frames),
        frames=list(frames),
        wav=random.uniform(-0.5, 0.5, round(seconds * 16000)).astype(np.float32),
        audio={"mel": random.normal(size=(round(seconds * 80) + 1, 80)).astype(np.float16).astype(np.float32)},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "one.safetensors", clip_data())
    write_clip(folder / "speaker" / "a.b.safetensors", clip_data(range(30)))
    return folder


def test_a_clip_file_is_as_the_contract_says(folder):
    tensors, data = load_file(folder / "one.safetensors"), clip_data()
    count = len(FRAMES)
    assert {name: (str(tensor.dtype), tensor.shape) for name, tensor in tensors.items()} == {
        "faces": ("uint8", (sum(map(len, data.faces)),)),
        "face_offsets": ("int64", (count + 1,)),
        "points": ("float32", (count, 132, 2)),
        "boxes": ("int32", (count, 4)),
        "frames": ("int32", (count,)),
        "pcm": ("int16", (25600,)),
        "audio_mel": ("float16", (129, 80)),
    }
    assert Clip(folder / "one.safetensors").heard is None  # as in files of before there was such a tensor
    np.testing.assert_array_equal(tensors["frames"], FRAMES)
    np.testing.assert_allclose(tensors["pcm"] / 32767, data.wav, atol=1 / 32767)
    for place, number in enumerate(FRAMES):
        first, end = tensors["face_offsets"][place : place + 2]
        decoded = cv2.imdecode(tensors["faces"][first:end], cv2.IMREAD_COLOR)[..., ::-1]
        assert np.abs(decoded.astype(int) - picture(number)[4:176, 2:178]).mean() < 2


@pytest.mark.parametrize("name", CROPS)
def test_any_form_is_cut_from_one_clip_file(name, folder, tmp_path):
    form = CROPS[name]
    clip = Clip(folder / "one.safetensors", crop=form)
    places = [form.place(points) for points in clip.points]
    crops = clip.faces(range(len(clip)))
    assert crops.shape == (len(clip), *form.shape, 3)
    for crop, place, number in zip(crops, places, FRAMES, strict=True):
        expected = crop_face(picture(number), place, form.shape)
        corners = place.corners
        inside = (corners >= BOX[:2]).all() and (corners <= BOX[2:]).all()
        assert not inside or np.abs(crop.mean(axis=2) - expected.mean(axis=2)).mean() < 1.5
    np.testing.assert_allclose(clip.landmarks[3], places[3].to_crop(clip.points[3])[:131])
    np.testing.assert_array_equal(clip.faces(3), crops[3])
    decoded = Clip(folder / "one.safetensors", decoded=tmp_path / "decoded", crop=form)
    if form.framing == "dinet":
        with pytest.raises(InputError, match=r"data\.decoded=.* framing dinet"):
            decoded.faces([3, 5])
    else:
        np.testing.assert_array_equal(decoded.faces([3, 5]), crops[[3, 5]])


@pytest.mark.parametrize("longest", [640, 100, 50])
def test_a_stored_picture_is_never_enlarged_and_its_crops_stay_in_place(tmp_path, longest):
    data = clip_data()
    data.faces = [encode_face(cv2.GaussianBlur(picture(n), (0, 0), 3), BOX, 95, longest) for n in data.frames]
    write_clip(tmp_path / "a.safetensors", data)
    clip = Clip(tmp_path / "a.safetensors", crop=CropForm(height=64, width=64))
    assert clip.pictures([0])[0].shape == {640: (172, 176, 3), 100: (98, 100, 3), 50: (49, 50, 3)}[longest]
    cut = cv2.GaussianBlur(picture(FRAMES[0]), (0, 0), 3)[25:155, 25:155]
    expected = cv2.resize(cut, (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(clip.faces(0).mean(axis=2) - expected.mean(axis=2)).mean() < 2


def test_a_large_picture_is_decoded_at_a_fraction_of_its_size(tmp_path):
    """The decoder's halved picture gives the same crop."""
    data = clip_data()
    large = cv2.resize(picture(3), (1080, 1080), interpolation=cv2.INTER_CUBIC)
    box = BOX * 6
    data.faces, data.boxes = [encode_face(large, box, 95, 2000)] * len(data.frames), [box] * len(data.frames)
    data.points = [points * 6 for points in data.points]
    write_clip(tmp_path / "a.safetensors", data)
    clip = Clip(tmp_path / "a.safetensors")
    place = clip.crop.place(clip.points[0])
    assert place.width == 730
    assert np.abs(clip.faces(0).astype(int) - crop_face(large, place, (128, 128))).mean() < 1.5


def test_what_is_stored_of_a_face_holds_every_form_s_crop():
    with FaceTracker() as tracker:
        frame = next(iter(read_frames(ROOT / "assets" / "portrait.mp4")))
        points = tracked(tracker.find(frame)[0].landmarks)
    size = frame.shape[1::-1]
    part = stored_part(points, *size)
    landmarks = points[:131]
    width, height = np.ptp(landmarks, axis=0)
    assert (part[2:] - part[:2] >= np.minimum(1.5 * np.array([width, height]), size)).all()
    for form in CROPS.values():
        corners = np.clip(form.place(points).corners, 0, size)
        assert (corners >= part[:2]).all() and (corners <= part[2:]).all()
    np.testing.assert_array_equal(stored_part(points + 5000, 100, 80), [99, 79, 100, 80])


def test_a_clip_file_of_the_first_form_is_refused_in_one_line(tmp_path):
    tensors = {
        "faces": np.zeros(4, np.uint8), "face_offsets": np.array([0, 4]), "frames": np.zeros(1, np.int32),
        "landmarks": np.zeros((1, 131, 2), np.float32), "boxes": np.zeros((1, 4), np.int32),
        "pcm": np.zeros(9, np.int16), "audio_mel": np.zeros((9, 80), np.float32),
    }  # fmt: skip
    save_file(tensors, tmp_path / "old.safetensors")
    for read in (lambda: Clip(tmp_path / "old.safetensors"), lambda: ClipDataset(tmp_path)):
        with pytest.raises(InputError) as error:
            read()
        assert str(error.value) == (
            f"clip file {tmp_path / 'old.safetensors'} is of the first form, which held faces cut to one size; make it "
            f"again from its video with `python -m data_prep.preprocess`"
        )


def test_what_a_network_takes_is_cut_from_the_clips(folder):
    item = ClipDataset(folder, crop=CropForm(hidden=(0.1, 0.4, 0.9, 1), guidance=32))[0, 1]
    assert (item["frames"].shape[-2:], item["heatmaps"].shape[-2:]) == ((128, 128), (32, 32))


def test_frames_of_a_window_share_dinets_scale_and_references_have_their_own(folder):
    form = CROPS["g4g"]
    dataset = ClipDataset(folder, crop=form, references=3)
    item = dataset[2, 0]
    clip = Clip(folder / "one.safetensors", crop=form)
    first = list(clip.frames).index(item["start"])
    window = clip.points[first : first + 5]
    places = [form.place(points, window) for points in window]
    assert len({round(place.height, 3) for place in places}) == 1
    assert places[0].height == max(form.place(points).height for points in window)
    for place, points, landmarks in zip(places, window, item["landmarks"], strict=True):
        np.testing.assert_allclose(landmarks, place.to_crop(points)[:131], atol=1e-6)
    alone = np.stack([form.place(points).to_crop(points)[:131] for points in clip.points])
    for landmarks in item["reference_landmarks"].numpy():
        assert np.abs(alone - landmarks).max(axis=(1, 2)).min() < 1e-6


def test_clips_of_small_faces_are_left_out(folder):
    assert Clip(folder / "one.safetensors").outline.face_width == 120
    assert len(ClipDataset(folder, smallest_face=120).clips) == 2
    with pytest.raises(InputError, match="and 2 have faces below smallest_face=121; add"):
        ClipDataset(folder, smallest_face=121)


def test_reading_gives_what_was_written(folder):
    clip, data = Clip(folder / "one.safetensors"), clip_data()
    assert (clip.id, len(clip), clip.kinds, clip.seconds) == ("one", len(FRAMES), ["mel"], 1.6)
    np.testing.assert_array_equal(clip.points, data.points)
    np.testing.assert_array_equal(clip.boxes, data.boxes)
    np.testing.assert_array_equal(clip.audio("mel"), data.audio["mel"])
    np.testing.assert_array_equal(clip.faces([4, 2])[1], clip.faces(2))
    with pytest.raises(InputError, match="--audio wav2vec2"):
        clip.audio("wav2vec2")


def offsets(tensors):
    tensors["face_offsets"][3] = tensors["face_offsets"][5]


DAMAGES = {
    "face_offsets does not rise": offsets,
    "face_offsets is I64": lambda t: t.update(face_offsets=t["face_offsets"][:-1]),
    "points is missing": lambda t: t.pop("points"),
    "points is F64": lambda t: t.update(points=t["points"].astype(np.float64)),
    "boxes is I32": lambda t: t.update(boxes=t["boxes"][:, :3].copy()),
    "frames does not rise": lambda t: t.update(frames=t["frames"][::-1].copy()),
    "frames is empty": lambda t: t.update(
        frames=t["frames"][:0], boxes=t["boxes"][:0], points=t["points"][:0], face_offsets=t["face_offsets"][:1]
    ),
    "frames is I32": lambda t: t.update(frames=np.array(3, np.int32)),
    "audio_mel is F16": lambda t: t.update(audio_mel=np.zeros((10, 40), np.float16)),
    "audio_wav2vec2 is F16": lambda t: t.update(audio_wav2vec2=np.zeros((10, 512), np.float16)),
    "pcm is F32": lambda t: t.update(pcm=np.zeros(10, np.float32)),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_a_damaged_clip_is_refused_by_the_tensor_s_name(folder, tmp_path, message):
    tensors = {name: tensor.copy() for name, tensor in load_file(folder / "one.safetensors").items()}
    DAMAGES[message](tensors)
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(InputError, match=f"bad.safetensors: tensor {message}"):
        Clip(tmp_path / "bad.safetensors")


def test_what_is_no_clip_is_refused(folder, tmp_path):
    whole = (folder / "one.safetensors").read_bytes()
    for content in (b"", b"text", whole[:40], whole[:-1], b"\xff" * 200):
        (tmp_path / "bad.safetensors").write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.safetensors"):
            Clip(tmp_path / "bad.safetensors")
    with pytest.raises(InputError, match="absent"):
        Clip(tmp_path / "absent.safetensors")


def test_faces_and_landmarks_that_are_none_are_refused(tmp_path):
    data = clip_data()
    data.faces[0], data.faces[1] = b"\xff\xd8 no picture", encode_face(picture(0), BOX - [0, 0, 99, 0], 90, 640)
    at = data.faces[2].index(b"\xff\xc0") + 5
    data.faces[2] = data.faces[2][:at] + b"\xfd\xe8" * 2 + data.faces[2][at + 4 :]  # which OpenCV refuses to allocate
    data.points[3][:] = np.nan
    data.boxes = [BOX] * 4 + [BOX * [1, 1, 0, 1]] + data.boxes[5:]
    write_clip(tmp_path / "bad.safetensors", data)
    clip = Clip(tmp_path / "bad.safetensors")
    for read, message in [
        (lambda: clip.faces(0), "tensor faces holds something that is not a JPEG"),
        (lambda: clip.faces(1), "77x172 for a box of 176x172"),
        (lambda: clip.faces(2), "65000x65000 for a box of 176x172"),
        (lambda: clip.faces(4), "tensor boxes holds a box without an area"),
        (lambda: clip.boxes, "tensor boxes holds a box without an area"),
        (lambda: clip.faces(3), "tensor points .* not finite"),
        (lambda: clip.landmarks, "tensor points .* not finite"),
    ]:
        with pytest.raises(InputError, match=message):
            read()


def test_a_clip_may_have_the_longest_name_that_a_file_can_have(tmp_path):
    path = tmp_path / f"{'語' * 80}.safetensors"
    write_clip(path, clip_data())
    assert [path] == list(tmp_path.iterdir())
    with pytest.raises(InputError, match="cannot be written"):
        write_clip(tmp_path / f"{'語' * 90}.safetensors", clip_data())


def test_a_failed_write_leaves_nothing(tmp_path):
    data = clip_data()
    data.points = [*data.points[:1], np.zeros((5, 2))]
    with pytest.raises(ValueError):
        write_clip(tmp_path / "half.safetensors", data)
    assert not list(tmp_path.iterdir())


# --- windows


def test_windows_are_in_a_row_and_hold_what_the_clip_holds(folder):
    dataset = ClipDataset(folder)
    clips = {clip.id: clip for clip in dataset.clips}
    assert set(clips) == {"one", "speaker/a.b"}
    starts = [(item["clip"], item["start"]) for item in (dataset[index, 0] for index in range(len(dataset)))]
    assert [start for id, start in starts if id == "one"] == [*range(3, 11), *range(20, 26)]
    assert [start for id, start in starts if id == "speaker/a.b"] == list(range(26))

    item = dataset[9, 5]
    clip = clips[item["clip"]]
    places = [list(clip.frames).index(item["start"] + step) for step in range(5)]
    landmarks = clip.landmarks[places]
    np.testing.assert_array_equal(item["frames"], clip.faces(places).transpose(0, 3, 1, 2) / np.float32(255))
    np.testing.assert_array_equal(item["heatmaps"][:, 0], [draw_heatmap(each, FULL_FACE) for each in landmarks])
    np.testing.assert_array_equal(item["pose_heatmaps"][:, 0], [draw_heatmap(each, POSE) for each in landmarks])
    np.testing.assert_array_equal(item["keypoints"], landmarks[:, KEYPOINTS])
    numbers = range(item["start"], item["start"] + 5)
    np.testing.assert_array_equal(item["audio"], audio_windows(clip.audio("mel"), "mel", numbers))
    first = 80 * item["start"] // 25  # the sync expert hears the window's own 0.2 s
    np.testing.assert_array_equal(item["sync_audio"][0], clip.audio("mel")[first : first + 16].T)


def test_references_are_different_frames_outside_the_window(folder):
    dataset = ClipDataset(folder, references=5)
    chosen = set()
    for seed in range(30):
        item = dataset[4, seed]
        clip = next(clip for clip in dataset.clips if clip.id == item["clip"])
        every = clip.faces(range(len(clip))).transpose(0, 3, 1, 2) / np.float32(255)
        places = [int(np.abs(every - image.numpy()).sum((1, 2, 3)).argmin()) for image in item["reference_images"]]
        for place, heatmap in zip(places, item["reference_heatmaps"], strict=True):
            np.testing.assert_array_equal(heatmap[0], draw_heatmap(clip.landmarks[place]))
        assert len(set(places)) == 5
        assert not {int(clip.frames[place]) for place in places} & set(range(item["start"], item["start"] + 5))
        chosen |= set(places)
    assert len(chosen) == len(clip) - 5  # each of the others, sooner or later


def test_references_stand_in_the_order_of_dubbing(folder):
    """From the most closed mouth to the most open, as `choose_references` gives the same frames."""
    plain, mirrored, warped = (ClipDataset(folder, **how) for how in ({}, {"augment": True}, {"warp": 0.3}))
    for seed in range(12):
        item = plain[4, seed]
        landmarks = item["reference_landmarks"].numpy()
        openings = lip_opening(landmarks)
        assert (np.diff(openings) > 0).all()
        np.testing.assert_array_equal(choose_references(openings, 5), range(5))
        # What augmentation does to the points, each reference by itself, moves none to another place.
        assert torch.equal(warped[4, seed]["reference_images"], item["reference_images"])
        np.testing.assert_allclose(lip_opening(mirrored[4, seed]["reference_landmarks"].numpy()), openings, atol=1e-6)


def test_an_item_depends_on_index_and_seed_alone(folder):
    def same(a, b):
        return all(torch.equal(a[name], b[name]) if torch.is_tensor(a[name]) else a[name] == b[name] for name in a)

    dataset = ClipDataset(folder, augment=True)
    items = [(3, 1), (30, 2), (3, 3)]
    here = [dataset[item] for item in items]
    assert same(here[0], dataset[3, 1]) and not same(here[0], here[2])
    loader = DataLoader(ClipDataset(folder, augment=True), sampler=items, batch_size=None, num_workers=2)
    assert all(same(a, b) for a, b in zip(here, loader, strict=True))


@pytest.mark.parametrize("window", [1, 5])
def test_negatives_are_the_clips_own_sound_shifted(tmp_path, window):
    write_clip(tmp_path / "a.safetensors", clip_data(frames=range(40)))
    plain, dataset = (ClipDataset(tmp_path, window=window, negatives=count, furthest=9) for count in (0, 4))
    mel, drawn = dataset.clips[0].audio("mel"), set()
    for index in range(len(dataset)):
        item, without = dataset[index, 3], plain[index, 3]
        assert all(
            torch.equal(item[name], without[name]) for name in ("audio", "sync_audio", "frames", "reference_images")
        )
        start, middle = item["start"], item["start"] + window // 2
        places = [shift for shift in range(-9, 10) if shift]
        cuts = audio_windows(mel, "mel", [middle + shift for shift in places])
        shifts = [places[int(np.abs(cuts - cut.numpy()).sum((1, 2)).argmin())] for cut in item["audio_negatives"]]
        np.testing.assert_array_equal(
            item["audio_negatives"], audio_windows(mel, "mel", [middle + shift for shift in shifts])
        )
        np.testing.assert_array_equal(
            item["sync_negatives"], sync_sounds(mel, "mel", np.array([start + shift for shift in shifts]))
        )
        first, last = min(start, middle - 2), max(start, middle - 2)
        inside = [shift for shift in places if first + shift >= 0 and last + shift + 5 <= 40]  # 40 frames of sound
        assert len(set(shifts)) == 4 and set(shifts) <= set(inside)
        near = [sum(abs(shift) <= 3 for shift in some) for some in (shifts, inside)]
        assert near[0] == min(2, near[1])
        drawn |= set(shifts)
    assert drawn == set(places)


def test_negatives_are_as_loud_as_the_windows_own_sound(folder):
    """Their loudness tells nothing: augmentation changes both alike."""
    plain, varied = (ClipDataset(folder, augment=augment, negatives=2, furthest=1) for augment in (False, True))
    assert set(plain[8, 1]) == set(varied[8, 1])
    item = varied[8, 1]
    own, others = item["audio"][2], item["audio_negatives"]
    assert not torch.equal(own, plain[8, 1]["audio"][2])
    # A frame later the columns that both hold have moved by 3 or 4.
    assert any(torch.equal(own[:, moved:], other[:, :-moved]) for other in others for moved in (3, 4))


def test_a_sound_too_short_for_so_many_shifts_is_followed_by_silence():
    random = np.random.default_rng(0)
    for earliest, latest in ((0, 0), (-1, 2), (3, -8)):
        shifts = draw_shifts(random, 6, 15, earliest, latest)
        assert len(set(shifts)) == 6 and 0 not in shifts
    assert {shift for _ in range(50) for shift in draw_shifts(random, 2, 4, -1, 3)} == {-1, 1, 2, 3}
    with pytest.raises(InputError, match="negatives=7 must be between 1 and 2 furthest = 6"):
        ClipDataset("anywhere", negatives=7, furthest=3)


def test_batches_have_the_networks_shapes(tmp_path):
    form = CropForm(height=64, width=48, guidance=32)
    write_clip(tmp_path / "one.safetensors", clip_data())
    dataset = ClipDataset(tmp_path, window=3, references=2, crop=form)
    batch = next(iter(DataLoader(dataset, batch_sampler=[[(0, 1), (7, 2)]])))
    shapes = {name: tuple(value.shape) for name, value in batch.items() if torch.is_tensor(value)}
    assert shapes == {
        "audio": (2, 3, 80, 16), "frames": (2, 3, 3, 64, 48), "heatmaps": (2, 3, 1, 32, 32),
        "pose_heatmaps": (2, 3, 1, 32, 32), "keypoints": (2, 3, 57, 2), "sync_audio": (2, 1, 80, 16),
        "reference_images": (2, 2, 3, 64, 48), "reference_heatmaps": (2, 2, 1, 32, 32), "start": (2,),
        "landmarks": (2, 3, 131, 2), "reference_landmarks": (2, 2, 131, 2),
    }  # fmt: skip
    assert all(value.dtype == torch.float32 for name, value in batch.items() if name not in ("clip", "start"))
    assert batch["frames"].min() >= 0 and batch["frames"].max() <= 1


def test_the_warp_moves_a_windows_points_alike_and_the_heatmaps_with_them(folder):
    plain, warped = ClipDataset(folder)[20, 1], ClipDataset(folder, warp=0.1)[20, 1]
    found = fit_affine(plain["landmarks"], warped["landmarks"])
    assert torch.allclose(found, found[:1].expand_as(found), atol=1e-3) and not torch.allclose(
        found[0, :2], torch.eye(2)
    )
    torch.testing.assert_close(apply_affine(plain["landmarks"], found), warped["landmarks"], atol=1e-3, rtol=0)
    each = fit_affine(plain["reference_landmarks"], warped["reference_landmarks"])
    assert not torch.allclose(each[0], each[1], atol=1e-3)
    for name, points in (("heatmaps", "landmarks"), ("reference_heatmaps", "reference_landmarks")):
        np.testing.assert_array_equal(warped[name][0, 0], draw_heatmap(warped[points][0].numpy()))
    assert torch.equal(plain["frames"], warped["frames"])
    torch.testing.assert_close(warped["keypoints"], warped["landmarks"][:, KEYPOINTS])


def test_augmentation_mirrors_images_and_landmarks_together(folder):
    plain, augmented = ClipDataset(folder), ClipDataset(folder, augment=True)
    mirrored = 0
    for seed in range(12):
        before, after = plain[20, seed], augmented[20, seed]
        grey_before, grey_after = (item["frames"][0].mean(0) for item in (before, after))
        flip = correlation(grey_after, grey_before.flip(-1)) > correlation(grey_after, grey_before)
        mirrored += flip
        clip = next(clip for clip in plain.clips if clip.id == before["clip"])
        landmarks = clip.landmarks[list(clip.frames).index(before["start"])]
        if flip:
            landmarks = landmarks[MIRROR] * np.array([-1, 1], np.float32) + np.array([1, 0], np.float32)
        np.testing.assert_allclose(after["keypoints"][0], landmarks[KEYPOINTS], atol=1e-6)
        np.testing.assert_array_equal(after["heatmaps"][0, 0], draw_heatmap(landmarks))
        # The light changes alike for the window and its references.
        change = [(after[name].mean() / before[name].mean()).item() for name in ("frames", "reference_images")]
        assert abs(change[0] - change[1]) < 0.02
    assert 2 < mirrored < 10


def test_slices_equal_the_same_places_of_whole_tracks(tmp_path):
    data = clip_data(range(40))
    data.audio["wav2vec2"] = np.random.default_rng(1).normal(size=(80, 768)).astype(np.float16).astype(np.float32)
    write_clip(tmp_path / "a.safetensors", data)
    clip = Clip(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(clip.points_at(np.array([7, 0, 39, 7])), np.stack(data.points)[[7, 0, 39, 7]])
    for kind, features in data.audio.items():
        for numbers in ([0, 1], [17, 3], [38, 39, 44], [-1], [-50], [500], [-50, 500]):
            whole = audio_windows(features, kind, numbers)
            np.testing.assert_array_equal(clip.audio_windows(kind, np.array(numbers)), whole)
    with pytest.raises(InputError, match="--audio mfcc"):
        clip.audio_windows("mfcc", np.array([3]))


def test_an_item_reads_no_whole_track(folder, monkeypatch):
    datasets = ClipDataset(folder, negatives=2, augment=True), SyncDataset(folder)
    monkeypatch.setattr(Clip, "_read", None)
    for dataset in datasets:
        assert dataset[9, 5]["sync_audio"].isfinite().all()


@pytest.mark.parametrize("more", [{}, {"augment": True, "warp": 0.1}, {"augment": True, "negatives": 2}])
def test_without_pictures_an_item_is_otherwise_the_same_and_no_face_is_decoded(folder, monkeypatch, more):
    items = [(20, seed) for seed in range(4)]
    whole = [ClipDataset(folder, **more)[item] for item in items]
    monkeypatch.setattr(Clip, "face_bytes", None)
    for before, item in zip(whole, items, strict=True):
        after = ClipDataset(folder, pictures=False, **more)[item]
        assert before.keys() - after.keys() == {"frames", "reference_images"} and not after.keys() - before.keys()
        assert all(
            torch.equal(torch.as_tensor(before[name]), torch.as_tensor(after[name])) for name in after.keys() - {"clip"}
        )


def test_without_poses_an_item_is_otherwise_the_same(folder):
    before, after = (ClipDataset(folder, augment=True, poses=poses)[20, 3] for poses in (True, False))
    assert before.keys() - after.keys() == {"pose_heatmaps"} and not after.keys() - before.keys()
    assert all(torch.equal(after[name], before[name]) for name in after.keys() - {"clip", "start"})


def correlation(a, b):
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]


def test_windows_beyond_the_sound_are_left_out(tmp_path):
    write_clip(tmp_path / "clip.safetensors", clip_data(range(40), seconds=1.0))
    dataset = ClipDataset(tmp_path)
    assert max(dataset[index, 0]["start"] for index in range(len(dataset))) == 20


def test_frames_of_long_videos_are_told_from_the_sounds_end(tmp_path):
    write_clip(tmp_path / "clip.safetensors", clip_data(range(140_000, 140_030), seconds=1.0))  # 93 minutes in
    with pytest.raises(InputError, match="no clip has 5 frames in a row"):
        ClipDataset(tmp_path)


def test_folders_without_clips_are_refused(tmp_path, folder):
    with pytest.raises(InputError, match="does not exist"):
        ClipDataset(tmp_path / "absent")
    with pytest.raises(InputError, match="holds no clip file"):
        ClipDataset(tmp_path)
    with pytest.raises(InputError, match="--audio wav2vec2"):
        ClipDataset(folder, audio="wav2vec2")
    write_clip(tmp_path / "short.safetensors", clip_data(range(0, 40, 2)))
    with pytest.raises(InputError, match="frames in a row"):
        ClipDataset(tmp_path)


def test_decoded_copies_hold_the_same_faces_and_follow_the_clip_file(tmp_path):
    path, copies = tmp_path / "clips" / "person" / "a.safetensors", tmp_path / "decoded"
    data = clip_data()
    write_clip(path, data)
    expected = Clip(path).faces(range(len(FRAMES)))
    for _ in range(2):  # once making the copy, once from the copy
        clip = Clip(path, "person/a", copies)
        np.testing.assert_array_equal(clip.faces([7, 0, 7]), expected[[7, 0, 7]])
        np.testing.assert_array_equal(clip.faces(3), expected[3])
    (copy,) = copies.rglob("*.rgb")
    assert copy.parent == copies / "person" and copy.stat().st_size == expected.nbytes

    copy.write_bytes(copy.read_bytes()[:-1])  # a copy cut short is made anew
    np.testing.assert_array_equal(Clip(path, "person/a", copies).faces(range(len(FRAMES))), expected)
    data.faces.reverse()
    write_clip(path, data)  # and so is that of a clip file that has changed
    np.testing.assert_array_equal(Clip(path, "person/a", copies).faces(range(len(FRAMES))), expected[::-1])

    plain, quick = ClipDataset(path.parent), ClipDataset(path.parent, decoded=copies)
    assert all(torch.equal(plain[3, 5][name], quick[3, 5][name]) for name in ("frames", "reference_images"))
    name = f"person/{'語' * 80}"  # as long as a name can be
    np.testing.assert_array_equal(Clip(path, name, copies).faces(3), Clip(path).faces(3))


def test_holdout_keeps_the_end_of_each_clip_apart(tmp_path):
    write_clip(tmp_path / "a.safetensors", clip_data(frames=range(120), seconds=4.8))
    trained = ClipDataset(tmp_path, holdout=0.25)
    held = ClipDataset(tmp_path, holdout=0.25, held_out=True)

    def numbers(dataset: ClipDataset) -> set[int]:
        return {dataset[i]["start"] + t for i in range(len(dataset)) for t in range(5)}

    assert numbers(trained) == set(range(65))  # a second before the last quarter is left out
    assert numbers(held) == set(range(90, 120))
    faces = torch.from_numpy(Clip(tmp_path / "a.safetensors").faces(range(120))).permute(0, 3, 1, 2) / 255
    for dataset in (trained, held):
        for image in dataset[3, 7]["reference_images"]:
            assert (faces - image).abs().amax(dim=(1, 2, 3)).argmin() < 90
    with pytest.raises(InputError, match="holdout=1"):
        ClipDataset(tmp_path, holdout=1)
    with pytest.raises(InputError, match="outside the part that holdout reserves"):  # nothing is left for references
        ClipDataset(tmp_path, holdout=0.999, held_out=True)


def test_what_is_kept_apart_is_not_learned_from(tmp_path):
    folder = write_clips(tmp_path, count=1, frames=100)
    assert len(next(ClipDataset(folder, holdout=0.25).landmarks())) == 75
