"""How far picture and sound of a clip are apart: the expert's samples, offsets and what they leave out."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from training_runs import run, write_clips

from data_prep.clips import Clip
from data_prep.manifest import Manifest
from data_prep.offsets import check_expert, find_offset, framed, similarity_curves, sync_crops
from data_prep.sync import SyncDataset
from data_prep.windows import ClipDataset
from media.audio import mfcc
from media.errors import InputError
from media.place import Place
from models.checkpoint import load_any_sync_expert, save_checkpoint
from models.chung_syncnet import ChungSyncNet
from models.sync_expert import SyncExpert, SyncExpertConfig


def test_a_sync_item_has_its_own_sound_first_and_others_of_the_same_clip(clips):
    dataset = SyncDataset(clips, negatives=5, furthest=6)
    item = dataset[(3, 0)]
    assert item["frames"].shape == (5, 3, 128, 128) and item["sync_audio"].shape == (6, 1, 80, 16)
    own = ClipDataset(clips, window=5, references=1)[(3, 0)]
    assert torch.equal(item["sync_audio"][0], own["sync_audio"]) and torch.equal(item["frames"], own["frames"])
    assert all(not torch.equal(item["sync_audio"][0], other) for other in item["sync_audio"][1:])
    assert torch.equal(dataset[(3, 7)]["sync_audio"], dataset[(3, 7)]["sync_audio"])
    for seed in range(6):
        augmented = SyncDataset(clips, augment=True)[(3, seed)]
        frames = augmented["frames"]
        assert frames.min() >= 0 and frames.max() <= 1 and augmented["sync_audio"].abs().max() <= 4
    clip = dataset.clips[0]
    assert "points" not in vars(clip)


class LoudMouth(SyncExpert):
    """An expert that is right by construction: loudness of the sound against the dark red of the mouth."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.config = SyncExpertConfig()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def embed_audio(self, mel):
        angle = torch.nn.functional.avg_pool1d((mel.mean(dim=2) + 4) / 8, 3, 3)  # (B, 1, 5), a frame each
        return self.unit(angle.flatten(1))

    def embed_faces(self, lower):
        blue = lower.unflatten(1, (5, 3))[:, :, 0]
        return self.unit((blue < 0.3).float().mean(dim=(2, 3)) * 10)

    def unit(self, x):
        x = x - x.mean(dim=1, keepdim=True)
        return torch.nn.functional.normalize(x, dim=1)


def test_the_offset_of_a_clip_is_found_with_its_sign(tmp_path):
    folder = write_clips(tmp_path, count=1, frames=60)
    path = folder / "clip_0.safetensors"
    assert abs(find_offset(similarity_curves(LoudMouth(), Clip(path), shifts=6))[0]) <= 1
    base = find_offset(similarity_curves(LoudMouth(), Clip(path), shifts=6))[0]
    tensors = load_file(path)
    tensors["audio_mel"] = np.roll(tensors["audio_mel"], 13, axis=0)  # four frames too late
    save_file(tensors, path)
    assert find_offset(similarity_curves(LoudMouth(), Clip(path), shifts=6))[0] == base - 4


def test_an_expert_counts_only_where_it_finds_clips_that_are_in_step(tmp_path):
    folder = write_clips(tmp_path, count=3, frames=60)
    check_expert(LoudMouth(), folder)
    for path in sorted(folder.glob("*.safetensors"))[:2]:
        tensors = load_file(path)
        tensors["audio_mel"] = np.roll(tensors["audio_mel"], 20, axis=0)
        save_file(tensors, path)
    with pytest.raises(InputError, match=r"the expert finds 1 of the 3 clips of .* within a frame"):
        check_expert(LoudMouth(), folder)


def test_faces_are_compared_with_another_clips_sound(tmp_path):
    clip, voice = (Clip(path) for path in sorted(write_clips(tmp_path, frames=60).glob("*.safetensors")))
    foreign = similarity_curves(LoudMouth(), clip, shifts=6, voice=voice)
    dubbed = similarity_curves(LoudMouth(), clip, shifts=6, shown=lambda positions: voice.faces(positions), voice=voice)
    np.testing.assert_array_equal(dubbed, similarity_curves(LoudMouth(), voice, shifts=6))
    assert foreign.mean(axis=0)[6] < dubbed.mean(axis=0)[6] - 0.1


def test_offsets_go_into_the_manifest_and_leave_clips_out(tmp_path):
    folder = write_clips(tmp_path / "clips", count=3)
    expert = tmp_path / "expert"
    config = SyncExpertConfig(width=0.03)
    save_checkpoint(expert, {"sync_expert": SyncExpert(config)}, {"sync_expert": config})
    assert run("data_prep.offsets", [str(folder), "--expert", str(expert)]) == 0
    lines = Manifest(folder).read()
    assert all(isinstance(line["offset"], int) and abs(line["offset"]) <= 15 for line in lines.values())
    assert {line["outcome"] for line in lines.values()} == {"ok"} and len(lines) == 3

    Manifest(folder).add(
        [lines["clip_0"] | {"offset": -2}, lines["clip_1"] | {"offset": 1}, lines["clip_2"] | {"offset": 0}]
    )
    for dataset in (ClipDataset(folder, max_offset=1), SyncDataset(folder, max_offset=1)):
        assert [clip.id for clip in dataset.clips] == ["clip_1", "clip_2"]
    shifted, plain = (
        SyncDataset(folder, correct_offsets=correct)[(0, 0)]["sync_audio"][0] for correct in (True, False)
    )
    assert not torch.equal(shifted, plain)
    corrected, plain = (ClipDataset(folder, correct_offsets=correct) for correct in (True, False))
    for name in ("audio", "sync_audio"):  # what belongs to frame 5 of clip_0 comes two frames late, with frame 7
        torch.testing.assert_close(corrected[(5, 0)][name], plain[(7, 0)][name])
    assert corrected[(5, 0)]["start"] == plain[(5, 0)]["start"] == 5
    Manifest(folder).add([{name: value for name, value in lines["clip_1"].items() if name != "offset"}])
    for use in ({"max_offset": 1}, {"correct_offsets": True}):
        with pytest.raises(InputError, match=r"no offset of clip clip_1, .*python -m data_prep\.offsets"):
            SyncDataset(folder, **use)
        with pytest.raises(InputError, match=r"no offset of clip clip_1, .*python -m data_prep\.offsets"):
            ClipDataset(folder, **use)
    assert len(ClipDataset(folder).clips) == 3  # nobody asked
    Manifest(folder).add([lines["clip_1"] | {"offset": None}])  # looked for, and too short to tell
    assert [clip.id for clip in ClipDataset(folder, max_offset=1).clips] == ["clip_2"]
    with pytest.raises(InputError, match="no clip"):
        Manifest(folder).add([line | {"offset": 9} for line in lines.values()])
        SyncDataset(folder, max_offset=1)


def test_chungs_syncnet_finds_offsets_too(tmp_path):
    """Random weights find nothing, but the same curve as by the book: every window against every shift on its own."""
    pytest.importorskip("python_speech_features")
    torch.manual_seed(0)
    network = ChungSyncNet()
    torch.save(network.state_dict(), tmp_path / "syncnet_v2.model")
    expert = load_any_sync_expert(tmp_path / "syncnet_v2.model")
    assert isinstance(expert, ChungSyncNet) and not expert.training
    folder = write_clips(tmp_path / "clips", count=1, frames=12)
    clip = Clip(folder / "clip_0.safetensors")
    curves = similarity_curves(expert, clip, shifts=2, batch=2)
    assert curves.shape == (4, 5)  # windows 2 .. 5: the others' shifted sounds would begin or end outside
    sound = mfcc(clip.wav)
    with torch.no_grad():
        faces = sync_crops(clip, range(3, 8))
        lips = expert.video(torch.from_numpy(faces[..., ::-1].copy()).permute(3, 0, 1, 2)[None].float())
        heard = expert.audio(torch.from_numpy(sound[16:36].T.copy())[None, None].float())
    assert curves[1, 3] == pytest.approx(-float((heard - lips).norm()), rel=1e-4)


def test_a_framed_face_has_its_own_shape_and_a_margin():
    framed_face = framed(np.full((128, 128, 3), 255, np.uint8), Place(10, 20, 110, 140))
    rows, columns = np.nonzero((framed_face == 255).all(axis=-1))
    assert framed_face.shape == (224, 224, 3) and framed_face[-1, 0].tolist() == [110, 110, 110]
    assert rows.min() <= 1 and abs(rows.max() - 160) <= 2  # 120 px of a square of 168
    assert abs(columns.max() - columns.min() - 224 * 100 / 168) <= 3 and abs(columns.min() + columns.max() - 223) <= 1
