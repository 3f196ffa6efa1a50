"""What SyncNet sees of a frame: S3FD's boxes, the whole frame, or the box of MediaPipe's mesh."""

import cv2
import numpy as np
import pytest
import torch
from faces import portraits
from media_files import beat_sound, write_sound
from test_evaluate import results, run

from checkpoints import fetch
from media.errors import InputError
from media.video import VideoWriter
from metrics import sync
from metrics.sync import DetectedBoxes, SyncEmbeddings, load_s3fd
from models import s3fd
from models.chung_syncnet import SIZE, ChungSyncNet
from models.s3fd import S3FD, decoded, detect


def test_s3fd_has_the_published_files_tensors(tmp_path):
    with torch.device("meta"):
        tensors = S3FD().state_dict()
    size = sum(each.numel() * each.element_size() for each in tensors.values())
    assert 0 < 89_844_381 - size < 100_000  # sfd_face.pth, in float32 with names
    shapes = {name: tuple(each.shape) for name, each in tensors.items()}
    assert shapes["vgg.0.weight"] == (64, 3, 3, 3) and shapes["vgg.28.weight"] == (512, 512, 3, 3)
    assert shapes["vgg.31.weight"] == (1024, 512, 3, 3) and shapes["vgg.33.weight"] == (1024, 1024, 1, 1)
    assert shapes["extras.1.weight"] == (512, 256, 3, 3) and shapes["extras.2.weight"] == (128, 512, 1, 1)
    assert shapes["L2Norm3_3.weight"] == (256,) and shapes["L2Norm5_3.weight"] == (512,)
    assert shapes["conf.0.weight"] == (4, 256, 3, 3) and shapes["conf.5.weight"] == (2, 256, 3, 3)
    assert {shapes[f"loc.{k}.weight"][0] for k in range(6)} == {4}
    torch.save({"vgg.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="lacks the tensor"):
        load_s3fd(tmp_path / "other.pth")


def test_maps_lie_on_their_steps():
    torch.manual_seed(0)
    network = S3FD().eval()
    maps = network._maps(torch.rand(1, 3, 256, 192))
    assert [tuple(each.shape[1:]) for each in maps][:3] == [(256, 64, 48), (512, 32, 24), (512, 16, 12)]
    assert maps[4].shape[1] == 512 and maps[5].shape[1] == 256
    boxes, scores = network(torch.rand(3, 256, 192) * 255)
    assert boxes.shape == (len(scores), 4) and ((scores >= 0) & (scores <= 1)).all()


def test_boxes_are_prior_boxes_moved_and_grown():
    found = torch.zeros(4, 3, 5, dtype=torch.float64)
    plain = decoded(found, 8, 32)
    assert plain.shape == (15, 4)
    assert plain[7].tolist() == [2.5 * 8 - 16, 1.5 * 8 - 16, 2.5 * 8 + 16, 1.5 * 8 + 16]  # row 1, column 2
    found[:, 1, 2] = torch.tensor([1.0, -2.0, 5 * np.log(2), 0.0])
    moved = decoded(found, 8, 32)[7].tolist()
    assert moved == pytest.approx([20 + 3.2 - 32, 12 - 6.4 - 16, 20 + 3.2 + 32, 12 - 6.4 + 16])


class _Bright(S3FD):
    """A stand-in that finds a square of 32 px about each picture's bright spots, twice, and one less surely."""

    def __init__(self):
        torch.nn.Module.__init__(self)

    def forward(self, picture):
        rows, columns = torch.nonzero(picture[0] > 250, as_tuple=True)
        boxes = [[x - 16, y - 16, x + 16, y + 16] for y, x in zip(rows.tolist(), columns.tolist(), strict=True)]
        boxes += [[1, 1, 33, 33]]
        scores = [0.95] * (len(boxes) - 1) + [0.5]
        return torch.tensor(boxes, dtype=torch.float32), torch.tensor(scores)


def spots(*places: tuple[int, int], size: tuple[int, int] = (200, 300)) -> np.ndarray:
    frame = np.zeros((*size, 3), np.uint8)
    for x, y in places:
        frame[y - 1 : y + 2, x - 1 : x + 2] = 255
    return frame


def test_a_face_found_many_times_is_one_and_unsure_ones_are_left_out():
    found = detect(_Bright(), spots((100, 80), (220, 150)), 1.0, 0.9)
    centres = sorted(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in found)
    assert np.allclose(centres, [(100, 80), (220, 150)], atol=1.5)
    large = np.kron(spots((100, 80)), np.ones((4, 4, 1), np.uint8))
    (box,) = detect(_Bright(), large, 0.25, 0.9)
    assert np.allclose(box, np.array([84, 64, 116, 96]) * 4, atol=8)


def test_one_face_is_followed_and_a_missing_one_keeps_its_box():
    boxes = DetectedBoxes(_Bright())
    assert boxes.box(spots()) is None
    first = boxes.box(spots((100, 80)))
    assert first is not None
    moved = boxes.box(spots((104, 82), (220, 150)))
    assert moved is not None and np.allclose(moved - first, [4, 2, 4, 2], atol=1.5)
    for frame in (spots(), spots((220, 150))):  # nobody, and someone else
        kept = boxes.box(frame)
        assert kept is not None and np.array_equal(kept, moved)


def test_a_whole_frame_is_resized_as_wav2lips_script_does():
    embeddings = SyncEmbeddings(ChungSyncNet())
    frame = np.random.RandomState(0).randint(0, 255, (160, 160, 3), np.uint8)
    embeddings.add(0, frame, None)
    (crop,) = embeddings._crops
    assert np.array_equal(crop, cv2.resize(frame[..., ::-1], (SIZE, SIZE)))


def test_evaluate_gives_syncnet_what_is_asked_for(tmp_path, capsys, monkeypatch):
    torch.manual_seed(0)
    for name, network in {"syncnet": ChungSyncNet(), "s3fd": S3FD()}.items():
        torch.save(network.state_dict(), tmp_path / f"{name}.pth")
    monkeypatch.setattr(fetch, "require", lambda name, purpose: tmp_path / f"{name}.pth")
    seen: dict[str, list] = {}
    add = SyncEmbeddings.add

    def noting(self, index, frame, box):
        seen[mode].append(None if box is None else np.asarray(box).tolist())
        return add(self, index, frame, box)

    monkeypatch.setattr(SyncEmbeddings, "add", noting)
    monkeypatch.setattr(sync, "detect", lambda *arguments: np.array([[50.0, 40, 150, 140]]))
    sound = write_sound(tmp_path / "sound.wav", "pcm_s16le", 16000, sound=beat_sound(16000, 0.5))
    with VideoWriter(tmp_path / "made" / "a.mp4", 240, 224, sound=sound, duration=0.28) as writer:
        for frame in portraits(7):
            writer.write(frame)
    notes = {}
    for mode in ("mesh", "s3fd", "frame"):
        seen[mode] = []
        arguments = (
            "--generated",
            tmp_path / "made",
            "--metrics",
            "lse-d",
            "--lse-boxes",
            mode,
            "--output",
            tmp_path / mode,
        )
        code, out, _ = run(*arguments, capsys=capsys)
        assert code == 0, out
        assert results(tmp_path / mode)["options"]["lse_boxes"] == mode
        notes[mode] = next(line for line in out.splitlines() if line.startswith("LSE: "))
    assert seen["frame"] == [None] * 7
    assert seen["s3fd"] == [[50, 40, 150, 140]] * 7
    assert len(seen["mesh"]) == 7 and seen["mesh"][0] != [50, 40, 150, 140]
    assert "not comparable digit by digit" in notes["mesh"] and "whole frames" in notes["frame"]
    assert "S3FD" in notes["s3fd"]


def test_s3fd_s_weights_are_asked_for_by_name(tmp_path, capsys, monkeypatch):
    torch.save(ChungSyncNet().state_dict(), tmp_path / "syncnet.pth")

    def require(name, purpose):
        if name == "s3fd":
            raise InputError(f"{purpose}: missing; run `python -m checkpoints.fetch s3fd`")
        return tmp_path / "syncnet.pth"

    monkeypatch.setattr(fetch, "require", require)
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "a.mp4").write_bytes(b"x")
    code, _, err = run("--generated", tmp_path / "made", "--metrics", "lse-d", "--lse-boxes", "s3fd", capsys=capsys)
    assert code == 2 and "--lse-boxes s3fd: missing; run `python -m checkpoints.fetch s3fd`" in err
    assert s3fd.SIDES == (16, 32, 64, 128, 256, 512)
