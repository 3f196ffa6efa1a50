"""Each metric against an independent computation or the library it is known by, and where its value is known."""

import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torchvision
from scipy import ndimage

from media.audio import mfcc
from media.crop import STSA
from media.errors import InputError
from media.face import Face
from media.pictures import to_tensor
from media.video import VideoWriter, read_frames
from metrics import motion, sync
from metrics.fid import FeatureStatistics, fid, frechet_distance, inception_features, load_inception
from metrics.image import mse, psnr, ssim
from metrics.landmarks import lip_landmark_distance
from metrics.motion import dynamic_motion_error, load_raft, optical_flow
from metrics.pairs import Batch, FrameCount, FramePair, Pair
from metrics.perceptual import load_lpips, lpips
from metrics.scoring import ClipResult, ClipScorer, Options, clip_mean
from metrics.sync import SyncEmbeddings, sync_score
from models.checkpoint import load_syncnet
from models.chung_syncnet import GREY, ChungSyncNet, mfcc_windows, sync_crop


def picture(seed: int = 0, size: int = 64) -> np.ndarray:
    """(size, size, 3) uint8 with structure at several scales."""
    draw = np.random.RandomState(seed)
    layers = [cv2.resize(draw.rand(side, side, 3), (size, size)) for side in (4, 8, 16, 32)]
    return (255 * np.mean(layers, axis=0)).astype(np.uint8)


def pictures(*images: np.ndarray) -> torch.Tensor:
    return to_tensor(np.stack(images))


def test_pixel_metrics_agree_with_numpy_and_scipy():
    true, made = picture(0), picture(1)
    a, b = true / 255.0, made / 255.0
    error = np.mean((a - b) ** 2)

    def blur(image):  # the Gaussian of 11x11 pixels, the image reflected beyond its border
        return ndimage.gaussian_filter(image, (1.5, 1.5, 0), radius=(5, 5, 0), mode="mirror")

    mean_a, mean_b = blur(a), blur(b)
    spread_a, spread_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    shared = blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mean_a * mean_b + c1) * (2 * shared + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (spread_a + spread_b + c2)
    )

    both = pictures(made, true), pictures(true, true)
    assert mse(*both).numpy() == pytest.approx([error, 0], abs=1e-6)
    assert psnr(*both).numpy() == pytest.approx([-10 * np.log10(error), np.inf], rel=1e-5)
    assert ssim(*both).numpy() == pytest.approx([similarity.mean(), 1], abs=1e-4)


def test_blur_worsens_the_pixel_metrics_the_more_the_stronger():
    true = picture(size=96)
    made = pictures(*(cv2.GaussianBlur(true, (0, 0), sigma) for sigma in (1, 2, 4)))
    same = pictures(true, true, true)
    assert (torch.diff(psnr(made, same)) < 0).all()
    assert (torch.diff(ssim(made, same)) < 0).all()
    assert (torch.diff(mse(made, same)) > 0).all()


def test_a_clips_psnr_is_not_drowned_by_identical_frames():
    assert clip_mean(np.array([30.0, np.inf, 32.0, np.nan])) == 31
    assert clip_mean(np.array([np.inf, np.inf])) == np.inf
    assert clip_mean(np.array([np.nan])) is None


def test_feature_statistics_of_a_stream_are_numpys_of_the_whole():
    features = np.random.RandomState(0).standard_normal((50, 7)) * 3 + 100
    whole, first, second = (FeatureStatistics() for _ in range(3))
    for part in np.split(features, [1, 20]):
        whole.update(part)
    first.update(features[:13])
    second.update(features[13:])
    first.merge(second)
    for statistics in (whole, first):
        assert statistics.count == 50
        assert np.allclose(statistics.mean, features.mean(axis=0))
        assert np.allclose(statistics.covariance, np.cov(features, rowvar=False))


def test_frechet_distance_agrees_with_pytorch_fid_and_known_values():
    from pytorch_fid.fid_score import calculate_frechet_distance

    draw = np.random.RandomState(0)
    a, b = draw.standard_normal((40, 8)), draw.standard_normal((60, 8)) * [1, 2, 3, 1, 1, 1, 1, 0.5] + 0.3
    gaussians = (a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # scipy's, of pytorch-fid's call
        assert frechet_distance(*gaussians) == pytest.approx(calculate_frechet_distance(*gaussians), rel=1e-6)
    mean, covariance = gaussians[:2]
    assert frechet_distance(mean, covariance, mean + 2, covariance) == pytest.approx(8 * 2**2)
    few = draw.standard_normal((3, 8))  # fewer images than features: a singular covariance
    assert frechet_distance(few.mean(0), np.cov(few.T), few.mean(0), np.cov(few.T)) == pytest.approx(0, abs=1e-6)


def test_lip_distance_is_in_units_of_the_reference_box():
    lips = np.random.RandomState(0).rand(3, 40, 2) * 50
    boxes = np.array([[10, 20, 110, 70]] * 3)
    assert np.allclose(lip_landmark_distance(lips, lips, boxes), 0)
    moved = lips + np.array([[[0, 0]], [[10, 0]], [[30, 20]]])  # 0.1 of the width; 0.3 of it and 0.4 of the height
    assert np.allclose(lip_landmark_distance(moved, lips, boxes), [0, 0.1, 0.5])


def test_dme_is_the_difference_of_motion_where_the_reference_moves():
    reference = torch.zeros(3, 2, 8, 8)
    reference[0, 0] = 3  # all moves
    reference[1, 0, :4] = 3  # half moves
    reference[2] = 0.5  # |u| + |v| is 1, not more
    generated = reference.clone()
    generated[:, 1] += 1  # known translation
    generated[1, :, 4:] += 50  # where nothing moves
    assert np.allclose(dynamic_motion_error(generated, reference), [1, 1, np.nan], equal_nan=True)
    assert np.allclose(dynamic_motion_error(reference, reference)[:2], 0)
    frozen = torch.zeros_like(reference)
    assert np.allclose(dynamic_motion_error(frozen, reference)[:2], 3)


class _Centroid(torch.nn.Module):
    """RAFT's stand-in for a bright spot on black: where its centre of mass goes."""

    def forward(self, first, second, num_flow_updates):
        weights = [(image[0].mean(dim=0) + 1).double() for image in (first, second)]
        rows, columns = (torch.arange(side, dtype=torch.float64) for side in first.shape[-2:])
        centres = [
            torch.stack([(weight.sum(dim=0) * columns).sum(), (weight.sum(dim=1) * rows).sum()]) / weight.sum()
            for weight in weights
        ]
        return [(centres[1] - centres[0]).float()[None, :, None, None].expand(1, 2, *first.shape[-2:])]


@pytest.mark.parametrize("size", [(100, 120), (1000, 1300)])  # below RAFT's smallest; measured at reduced size
def test_dme_of_a_moved_picture_is_the_length_of_its_move(size):
    def spot(x: float, y: float) -> torch.Tensor:
        columns, rows = np.meshgrid(np.arange(size[1]), np.arange(size[0]))
        bright = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 8**2))
        return torch.from_numpy(np.repeat(bright[None, None], 3, axis=1)).float()

    moved = optical_flow(_Centroid(), spot(50, 50), spot(56, 54))
    assert moved.shape == (1, 2, *size)
    assert moved[0, :, 10, 10].tolist() == pytest.approx([6, 4], abs=0.02)
    still = optical_flow(_Centroid(), spot(50, 50), spot(50, 50))
    assert dynamic_motion_error(still, moved) == pytest.approx(52**0.5, abs=0.03)
    assert dynamic_motion_error(moved, moved) == 0


def test_sync_score_is_the_reference_one(pipeline):
    score = sync_score(pipeline["sync.lips"], pipeline["sync.audio"])
    assert score.offset == pipeline["sync.offset"]
    assert score.distance == pytest.approx(float(pipeline["sync.distance"]), abs=1e-4)
    assert score.confidence == pytest.approx(float(pipeline["sync.confidence"]), abs=1e-4)


def speech(frames: int = 90, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of lips and of the sound that belongs to them, (frames, 16)."""
    draw = np.random.RandomState(0)
    sound = draw.standard_normal((frames, 16))
    return sound + noise * draw.standard_normal((frames, 16)), sound


@pytest.mark.parametrize("shift", [-4, 0, 7])
def test_shifting_the_sound_moves_the_best_offset_by_as_much(shift):
    lips, sound = speech()
    assert sync_score(lips, np.roll(sound, -shift, axis=0)).offset == shift  # earlier sound has to move later


def test_jittered_and_frozen_lips_worsen_the_sync_scores():
    lips, sound = speech()
    good = sync_score(lips, sound)
    jittered = sync_score(lips + np.random.RandomState(1).standard_normal(lips.shape), sound)
    frozen = sync_score(np.repeat(lips[:1], len(lips), axis=0), sound)
    for bad in (jittered, frozen):
        assert bad.distance > good.distance
        assert bad.confidence < good.confidence
    assert frozen.confidence < 0.3 * good.confidence
    with pytest.raises(ValueError, match="embeddings"):
        sync_score(lips, sound[:-1])


def test_sync_crop_has_room_at_the_sides_and_below_and_grey_beyond_the_frame():
    frame = np.zeros((100, 100, 3), np.uint8)
    frame[40:60, 40:60] = 255  # a face of 20 px: half 10, so the square spans 36..64 and 40..68
    crop = sync_crop(frame, np.array([40, 40, 60, 60]))
    assert crop.shape == (224, 224, 3)
    columns, rows = np.flatnonzero(crop[50, :, 0] > 127), np.flatnonzero(crop[:, 112, 0] > 127)
    assert (columns[0], columns[-1]) == pytest.approx((32, 191), abs=1)
    assert (rows[0], rows[-1]) == pytest.approx((0, 159), abs=1)
    assert (sync_crop(frame, np.array([0, 90, 10, 100]))[-1, 0] == GREY).all()


class _Means(ChungSyncNet):
    """SyncNet's shape: embeds the brightness of five frames' centre, and the first coefficient of the sound."""

    def __init__(self):
        torch.nn.Module.__init__(self)

    def video(self, lips):
        return lips[:, 0, :, 112, 112]

    def audio(self, mfcc):
        return mfcc[:, 0, 0, 0:20:4]


def test_windows_of_lips_and_sound_belong_to_the_same_frames_across_batches():
    frames, first, offset = 3 * sync.BATCH + 2, 3, 2
    brightness = np.random.RandomState(0).randint(0, 255, frames + first + 20)
    embeddings = SyncEmbeddings(_Means())
    for index in range(first, first + frames):
        embeddings.add(index, np.full((40, 40, 3), brightness[index], np.uint8), np.array([10, 10, 30, 30]))
    features = np.zeros((4 * len(brightness), 13))
    features[: 4 * offset, 0] = 0
    features[4 * offset :, 0] = np.repeat(brightness, 4)[: -4 * offset]  # sound that comes two frames late
    score = embeddings.score(features)
    assert score is not None and score.offset == -offset
    assert score.distance == pytest.approx(0, abs=30)  # the last windows meet the padding
    assert SyncEmbeddings(_Means()).score(features) is None


def test_boxes_that_follow_the_jaw_do_not_hold_it_still():
    seen = []

    class Watching(_Means):
        def video(self, lips):
            seen.extend(lips[:, :, 0])
            return super().video(lips)

    embeddings = SyncEmbeddings(Watching())
    gradient = np.repeat(np.linspace(0, 250, 80, dtype=np.uint8)[:, None], 80, axis=1)[..., None].repeat(3, axis=2)
    for index in range(30):
        opened = 8 if index % 3 == 0 else 0  # less than half of the time
        embeddings.add(index, gradient, np.array([20, 20, 50, 50 + opened]))
    embeddings.score(np.zeros((200, 13)))
    still = torch.from_numpy(sync_crop(gradient, np.array([20, 20, 50, 50]))[..., ::-1].copy()).permute(2, 0, 1).float()
    assert len(seen) == 26 and all(torch.equal(crop, still) for crop in seen)


def test_mfcc_windows_are_twenty_steps_from_four_a_frame():
    features = np.arange(100 * 13).reshape(100, 13)
    windows = mfcc_windows(features, np.array([0, 5]))
    assert windows.shape == (2, 1, 13, 20)
    assert np.array_equal(windows[1, 0, :, 0], features[20])
    assert np.array_equal(windows[1, 0, 4], features[20:40, 4])
    before = mfcc_windows(features, np.array([-2, 24]))
    silence = mfcc(np.zeros(16000, np.float32))[:8].T
    np.testing.assert_allclose(before[0, 0, :, :8], silence, atol=1e-4)  # beyond the ends it is silent
    assert np.array_equal(before[0, 0, :, 8:], features[:12].T) and np.array_equal(before[1, 0, :, :4], features[96:].T)


def saved(state: dict[str, torch.Tensor], path):
    torch.save(state, path)
    return path


def test_lpips_with_made_weights_is_the_weighted_distance_of_alexnets_features(tmp_path):
    torch.manual_seed(0)
    trunk = torchvision.models.alexnet(weights=None)
    network = load_lpips(saved(trunk.state_dict(), tmp_path / "alexnet.pth"))
    true = picture(size=64)
    a, b = pictures(true), pictures(cv2.GaussianBlur(true, (0, 0), 2))
    expected, maps = 0.0, []
    for images in (a, b):
        x = (images * 2 - 1 - torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)) / torch.tensor(
            [0.458, 0.448, 0.450]
        ).view(1, 3, 1, 1)
        kept = []
        for place, layer in enumerate(trunk.features.eval()):
            x = layer(x)
            if place in (1, 4, 7, 9, 11):
                kept.append(x / (x.norm(dim=1, keepdim=True) + 1e-10))
        maps.append(kept)
    for layer, (x, y) in enumerate(zip(*maps, strict=True)):
        weight = network.state_dict()[f"lin{layer}.model.1.weight"]
        expected += ((x - y) ** 2 * weight.view(1, -1, 1, 1)).sum(dim=1).mean().item()
    assert lpips(network, b, a).item() == pytest.approx(expected, rel=1e-3)
    assert lpips(network, a, a).item() == 0


def test_inception_with_made_weights_gives_its_pool3_features(tmp_path):
    torch.manual_seed(0)
    state = torchvision.models.inception_v3(
        weights=None, num_classes=1008, aux_logits=False, init_weights=False
    ).state_dict()
    network = load_inception(saved(state, tmp_path / "inception.pth"))
    features = inception_features(network, pictures(picture(0), picture(1)))
    assert features.shape == (2, 2048)
    assert not torch.allclose(features[0], features[1])
    loaded = network.state_dict()["blocks.0.0.conv.weight"]
    assert torch.equal(loaded, state["Conv2d_1a_3x3.conv.weight"])


def test_fid_compares_sets_and_needs_two_images_in_each():
    draw = np.random.RandomState(0)
    a, b, one = (FeatureStatistics() for _ in range(3))
    a.update(draw.standard_normal((10, 4)))
    b.update(draw.standard_normal((10, 4)) + 3)
    one.update(draw.standard_normal((1, 4)))
    assert fid(a, a) == pytest.approx(0, abs=1e-9)
    apart = fid(b, a)
    assert apart is not None and apart > 20
    assert fid(one, a) is None


def test_raft_with_made_weights_is_torchvisions_with_its_own_transform(tmp_path, monkeypatch):
    torch.manual_seed(0)
    raft = torchvision.models.optical_flow.raft_large(weights=None).eval()
    network = load_raft(saved(raft.state_dict(), tmp_path / "raft.pth"))
    assert motion.ITERATIONS == 20
    monkeypatch.setattr(motion, "ITERATIONS", 2)
    prepare = torchvision.models.optical_flow.Raft_Large_Weights.C_T_V1.transforms()
    height, width = 131, 140  # not RAFT's multiples of 8
    first, second = (picture(seed, 144)[:height, :width] for seed in (0, 1))
    padded = [np.pad(each, ((0, -height % 8), (0, -width % 8), (0, 0)), mode="edge") for each in (first, second)]
    with torch.no_grad():
        images = prepare(*(torch.from_numpy(each).permute(2, 0, 1)[None] for each in padded))
        expected = raft(*images, num_flow_updates=2)[-1][..., :height, :width]
    flow = optical_flow(network, pictures(first), pictures(second))
    assert expected.abs().mean() > 0.01
    assert flow.shape == (1, 2, height, width)
    assert torch.allclose(flow, expected, atol=1e-4)


class _Farneback(torch.nn.Module):
    """RAFT's stand-in: OpenCV's dense optical flow, which needs no weights."""

    def forward(self, first, second, num_flow_updates):
        grey = [np.rint((images.mean(dim=1).numpy() + 1) * 127.5).astype(np.uint8) for images in (first, second)]
        flows = [
            cv2.calcOpticalFlowFarneback(old, new, np.empty((*old.shape, 2), np.float32), 0.5, 3, 21, 5, 7, 1.5, 0)
            for old, new in zip(*grey, strict=True)
        ]
        return [torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2)]


STEP = np.array([3, 1])  # px a frame, by which the reference and the face in it move


def moving_video(path: Path, moves: list[np.ndarray]) -> Path:
    """A textured picture that lies at `moves`, in pixels."""
    texture = cv2.resize(np.random.RandomState(3).randint(0, 255, (64, 64, 3), np.uint8), (320, 320))
    with VideoWriter(path, 160, 160, crf=4) as video:
        for x, y in moves:
            video.write(cv2.warpAffine(texture, np.array([[1, 0, x - 80], [0, 1, y - 80]], np.float32), (160, 160)))
    return path


def clip_of_motion(true: Path, made: Path, faces=lambda index: True) -> ClipResult:
    """DME of two videos whose reference box moves with the picture."""
    scorer = ClipScorer(Options(("dme",)), {"raft": _Farneback()})
    pairs = []
    for index, frames in enumerate(zip(read_frames(made), read_frames(true), strict=True)):
        corner = 20 + index * STEP
        face = Face(np.zeros((478, 2), np.float32), np.array([*corner, *(corner + 100)], np.int32))
        pairs.append(FramePair(index, *frames, face, face if faces(index) else None))
    for batch in (pairs[:5], pairs[5:]):  # motion goes on from one batch to the next
        scorer.update(Batch(batch, "face", STSA))
    return scorer.finish(Pair("clip", made, true), FrameCount(shared=len(pairs)))


def test_dme_of_videos_of_known_motion(tmp_path):
    steps = [index * STEP for index in range(8)]
    true = moving_video(tmp_path / "true.mp4", steps)
    offset = np.array([-1, 2])
    moves = {
        "same": steps,
        "translated": [step + 5 * offset for step in steps],  # lies elsewhere, moves alike
        "faster": [step + index * offset for index, step in enumerate(steps)],
        "jittered": [step + (index % 2) * offset for index, step in enumerate(steps)],
        "frozen": [steps[0]] * 8,
    }
    length = float(np.linalg.norm(offset))
    expected = {"same": 0, "translated": 0, "faster": length, "jittered": length, "frozen": float(np.linalg.norm(STEP))}
    for name, places in moves.items():
        result = clip_of_motion(true, moving_video(tmp_path / f"{name}.mp4", places))
        assert result.values["dme"] == pytest.approx(expected[name], abs=0.4), name  # the borders cost precision
        assert result.notes == []


def test_dme_says_over_which_frames_it_is(tmp_path):
    steps = [index * STEP for index in (0, 1, 1, 2, 3, 4, 5, 6)]  # stands still once
    true = moving_video(tmp_path / "true.mp4", steps)
    result = clip_of_motion(true, true, faces=lambda index: index != 5)
    assert result.values["dme"] == 0
    note = "in 1 nothing of the reference moves by more than a pixel, 2 lack a face"
    assert result.notes == [f"DME over 4 of 7 frame pairs: {note}"]
    still = moving_video(tmp_path / "still.mp4", [STEP] * 8)
    result = clip_of_motion(still, true)
    assert result.values["dme"] is None
    assert result.notes == ["no DME in 7 frame pairs: in 7 nothing of the reference moves by more than a pixel"]


def test_syncnet_with_made_weights_scores_a_video(tmp_path):
    torch.manual_seed(0)
    network = load_syncnet(saved(ChungSyncNet().state_dict(), tmp_path / "syncnet.model"))
    embeddings = SyncEmbeddings(network)
    for index in range(7):
        embeddings.add(index, picture(index, 80), np.array([20, 20, 60, 60]))
    score = embeddings.score(np.random.RandomState(0).standard_normal((40, 13)))
    assert score is not None
    assert np.isfinite([score.distance, score.confidence]).all()


@pytest.mark.parametrize("load", [load_lpips, load_inception, load_raft, load_syncnet])
def test_weights_of_something_else_are_refused_by_name(load, tmp_path):
    path = saved({"layer.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth"):
        load(path)
