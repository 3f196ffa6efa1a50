"""evaluate.py as a user runs it: what it prints, writes, leaves out and refuses."""

import csv
import itertools
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torchvision
from faces import empty, portraits, write_frames
from media_files import write_video

import evaluate
from checkpoints import fetch
from media.crop import CROPS
from media.errors import InputError
from media.face import Face, FaceTracker
from media.video import VideoWriter, read_frames
from metrics import motion, scoring, sets
from metrics.pairs import FrameCount, Pair, read_pairs
from models import G4GConfig, G4GSynthesizer
from models.arcface import ArcFace
from models.checkpoint import save_checkpoint
from models.chung_syncnet import ChungSyncNet
from models.i3d import I3D


@pytest.fixture(scope="module")
def truth(tmp_path_factory) -> Path:
    """Two true videos with a face in each frame, one with sound."""
    folder = tmp_path_factory.mktemp("truth")
    write_frames(folder / "one.mp4", portraits(9))
    (folder / "more").mkdir()
    write_frames(folder / "more" / "two.mp4", portraits(9)[::-1])
    return folder


def blurred(source: Path, target: Path, sigma: float, edit=lambda frames: frames) -> Path:
    """`source`'s videos, blurred, their frames edited, under the same names in `target`."""
    for path in source.rglob("*.mp4"):
        frames = edit([cv2.GaussianBlur(frame, (0, 0), sigma) if sigma else frame for frame in read_frames(path)])
        write_frames(target / path.relative_to(source), frames)
    return target


def run(*arguments, capsys) -> tuple[int, str, str]:
    code = evaluate.main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


def complaint(*arguments, capsys) -> str:
    """The one line of a run that is refused."""
    code, _, err = run(*arguments, capsys=capsys)
    lines = [line for line in err.splitlines() if "frame/s" not in line and "frame [" not in line and line.strip()]
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def test_identical_videos_give_the_ground_truth_row(truth, tmp_path, capsys):
    code, out, _ = run(
        "--generated", f"Copy={truth}", "--reference", truth, "--table", "stsa-lrs2", "--output", tmp_path,
        capsys=capsys,
    )  # fmt: skip
    assert code == 0
    row = next(line for line in out.splitlines() if line.startswith("Copy"))
    assert row.replace("¹", "").split()[1:3] == ["N/A", "1.0000"]
    assert "0.00000" in row
    assert out.splitlines()[-1].startswith("2 pairs compared in 18 frames; 0 frames and 0 pairs left out")
    clips = results(tmp_path)["methods"][0]["clips"]
    assert [clip["name"] for clip in clips] == ["more/two", "one"]
    assert all(clip["values"]["psnr"] == "inf" and clip["values"]["ssim"] == 1 for clip in clips)
    for name in ("table.md", "table.tex", "table.csv", "clips.csv", "intervals.csv", "report.html"):
        assert (tmp_path / name).stat().st_size > 0


def test_absent_weights_show_as_a_dash_with_file_url_and_command(truth, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fetch, "DOWNLOADS", tmp_path / "nothing")
    code, out, _ = run("--generated", truth, "--reference", truth, "--metrics", "psnr", "LPIPS", "LSE-D", capsys=capsys)
    assert code == 0
    assert re.search(r"N/A +- +-", out)
    note = next(line for line in out.splitlines() if line.startswith("LPIPS: "))
    assert "alexnet-owt-7be5be79.pth" in note
    assert "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth" in note
    assert "python -m checkpoints.fetch lpips" in note
    assert "python -m checkpoints.fetch syncnet" in out


@pytest.fixture
def made_weights(tmp_path, monkeypatch):
    """Weights of the right shape and random content, in place of the published ones."""
    torch.manual_seed(0)
    inception = torchvision.models.inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    for layer in inception.modules():  # the default weights shrink a picture to nothing on its way through
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    networks = {
        "lpips": torchvision.models.alexnet(weights=None),
        "fid": inception,
        "syncnet": ChungSyncNet(),
        "raft": torchvision.models.optical_flow.raft_large(weights=None),
        "arcface": ArcFace((1, 1, 1, 1)),
        "i3d": I3D(),
    }
    for name, network in networks.items():
        torch.save(network.state_dict(), tmp_path / f"{name}.pth")
    monkeypatch.setattr(fetch, "require", lambda name, purpose: tmp_path / f"{name}.pth")
    monkeypatch.setattr(motion, "ITERATIONS", 1)
    features = sets.inception_features  # all 2048 of them take long to compare
    monkeypatch.setattr(sets, "inception_features", lambda network, images: features(network, images)[:, :64])


@pytest.mark.slow
def test_all_metrics_for_two_methods(truth, tmp_path, capsys, made_weights):
    one = tmp_path / "truth"
    one.mkdir()
    sound = write_video(tmp_path / "sound.mp4", beats=(0, 1))
    with VideoWriter(one / "one.mp4", 240, 224, sound=sound) as writer:
        for frame in portraits(9)[::2]:
            writer.write(frame)
    blurred(one, tmp_path / "blurred", 3)
    code, out, _ = run(
        "--generated", f"Copy={one}", "--generated", f"Blurred={tmp_path / 'blurred'}",
        "--reference", one, "--output", tmp_path / "out", capsys=capsys,
    )  # fmt: skip
    assert code == 0, out
    copy, blur = (
        {metric: summary["mean"] for metric, summary in method["metrics"].items()}
        for method in results(tmp_path / "out")["methods"]
    )
    assert copy["psnr"] == "inf"
    assert copy["ssim"] == 1
    for metric in ("mse", "lpips", "liplmd", "dme"):
        assert copy[metric] == 0, metric
        assert blur[metric] > 0, metric
    assert copy["fid"] == pytest.approx(0, abs=1e-4)
    assert blur["fid"] > 1e-3
    for metric in ("lse_d", "lse_c", "flicker"):
        assert np.isfinite([copy[metric], blur[metric]]).all()
    assert copy["csim"] == pytest.approx(1) and blur["csim"] < 0.999
    assert blur["flicker"] < copy["flicker"]
    assert copy["fvd"] is None  # of fewer frames than a segment
    (remark,) = [line for line in out.splitlines() if line.startswith("Blurred, one: 5 frames compared; ")]
    assert "the generated video has no sound: LSE and LipLeak with the reference's" in remark


def test_sound_that_cannot_be_read_costs_the_scores_of_lip_sync_alone(tmp_path, capsys, made_weights, monkeypatch):
    def unreadable(path):
        raise InputError(f"sound {path.name} has no samples; give another")

    monkeypatch.setattr(scoring, "read_audio", unreadable)
    sound = write_video(tmp_path / "sound.mp4", beats=(0, 1))
    with VideoWriter(tmp_path / "true" / "one.mp4", 240, 224, sound=sound, duration=0.28) as writer:
        for frame in portraits(7):
            writer.write(frame)
    code, out, _ = run(
        "--generated", f"Copy={tmp_path / 'true'}", "--reference", tmp_path / "true", "--metrics", "ssim", "lse-d",
        "--output", tmp_path / "out", capsys=capsys,
    )  # fmt: skip
    assert code == 0, out
    (clip,) = results(tmp_path / "out")["methods"][0]["clips"]
    assert clip["values"]["ssim"] == 1 and clip["values"]["lse_d"] is None
    assert clip["notes"] == ["no LSE: sound one.mp4 has no samples; give another"]


def test_what_is_left_out_is_listed_with_its_reason(truth, tmp_path, capsys):
    made, true, out = tmp_path / "made", tmp_path / "true", tmp_path / "out"
    frames = portraits(6)
    for folder in (made, true):
        write_frames(folder / "good.mp4", frames)
    write_frames(made / "longer.mp4", frames)
    write_frames(true / "longer.mp4", frames[:4])
    write_frames(made / "hidden.mp4", [*frames[:3], empty(), *frames[4:]])
    write_frames(true / "hidden.mp4", frames)
    write_frames(made / "nobody.mp4", [empty()] * 3)
    write_frames(true / "nobody.mp4", frames[:3])
    write_frames(made / "size.mp4", [frame[:200, :200] for frame in frames[:2]])
    write_frames(true / "size.mp4", frames[:2])
    (made / "broken.mp4").write_bytes(b"not a video")
    write_frames(true / "broken.mp4", frames[:2])
    write_frames(made / "extra.mp4", frames[:2])
    write_frames(true / "unseen.mp4", frames[:2])

    code, text, _ = run(
        "--generated", made, "--reference", true, "--metrics", "ssim", "liplmd", "--output", out, capsys=capsys
    )
    assert code == 0
    assert "made, longer: 4 frames compared; 2 left out (the generated video is longer)" in text
    assert "made, hidden: 5 frames compared; 1 left out (no face in the generated frame)" in text
    assert "made, nobody left out: no face was found in the generated video in any frame" in text
    assert "made, size left out: 200x200 generated, 240x224 reference: the sizes differ" in text
    assert re.search(r"made, broken left out: .*broken\.mp4", text)
    assert "made, only in the generated folder: extra" in text
    assert "made, only in the reference folder: unseen" in text
    assert text.splitlines()[-1].startswith("3 pairs compared in 15 frames; 3 frames and 3 pairs left out")
    method = results(out)["methods"][0]
    assert {clip["name"]: clip["frames"] for clip in method["clips"]} == {"good": 6, "hidden": 5, "longer": 4}
    assert sorted(method["left_out"]) == ["broken", "nobody", "size"]
    assert method["left_out"]["nobody"]["generated"] == str(made / "nobody.mp4")
    clips = {clip["name"]: clip for clip in method["clips"]}
    assert clips["hidden"]["left_out"] == {"no face in the generated frame": {"frames": 1, "ranges": [[3, 3]]}}
    assert clips["longer"]["left_out"] == {"the generated video is longer": {"frames": 2, "ranges": [[4, 5]]}}
    assert (clips["good"]["generated"], clips["good"]["reference"]) == (str(made / "good.mp4"), str(true / "good.mp4"))
    rows = {row["Clip"]: row for row in csv.DictReader((out / "clips.csv").open(encoding="utf-8"))}
    assert (rows["hidden"]["Frames"], rows["hidden"]["Left out"]) == ("5", "1")
    assert "200x200" in (out / "report.html").read_text(encoding="utf-8")


def test_wrong_input_is_one_line_and_exit_code_2(truth, tmp_path, capsys):
    folder = tmp_path / "other"
    write_frames(folder / "three.mp4", [empty()] * 2)
    (tmp_path / "bare").mkdir()
    both = ("--generated", truth, "--reference", truth)
    assert "psnrr" in complaint(*both, "--metrics", "psnrr", capsys=capsys)
    assert "stsa-lrs3" in complaint(*both, "--table", "stsa-lrs3", capsys=capsys)
    assert "mouth" in complaint(*both, "--region", "mouth", capsys=capsys)
    assert "no file name in common" in complaint("--generated", folder, "--reference", truth, capsys=capsys)
    assert "holds no video" in complaint("--generated", tmp_path / "bare", "--reference", truth, capsys=capsys)
    assert "is not a folder" in complaint("--generated", tmp_path / "none", "--reference", truth, capsys=capsys)
    assert "no face was found" in complaint("--generated", folder, "--reference", folder, capsys=capsys)
    assert "twice" in complaint("--generated", truth, *both, capsys=capsys)
    assert "--nonsense" in complaint(*both, "--nonsense", capsys=capsys)
    assert "--generated is needed" in complaint("--reference", truth, capsys=capsys)
    assert "needs --reference" in complaint("--generated", truth, "--metrics", "psnr", capsys=capsys)
    assert "needs --source" in complaint("--generated", truth, "--metrics", "fid", capsys=capsys)
    assert "leave it or --reference out" in complaint(*both, "--source", truth, capsys=capsys)
    assert "rows of paired dubbing" in complaint("--generated", truth, "--table", "stsa-lrs2", capsys=capsys)
    assert "no column that can be computed" in complaint(*both, "--table", "g4g-user-study", capsys=capsys)


def test_a_list_chooses_the_clips(truth, tmp_path, capsys):
    listed = tmp_path / "test.txt"
    listed.write_text("more/two MV\n")
    code, out, _ = run(
        "--generated", truth, "--reference", truth, "--metrics", "psnr", "--clips", listed, capsys=capsys
    )
    assert code == 0
    assert "1 pairs compared in 9 frames" in out
    listed.write_text("unknown\n")
    line = complaint("--generated", truth, "--reference", truth, "--clips", listed, capsys=capsys)
    assert "share no clip of the list" in line


def test_clips_of_the_list_that_neither_folder_has_are_reported(truth, tmp_path, capsys):
    listed = tmp_path / "test.txt"
    listed.write_text("one.mp4\nspelt wrongly\nmore/two MV\n")
    code, out, _ = run(
        "--generated", f"Copy={truth}", "--reference", truth, "--metrics", "psnr", "--clips", listed,
        "--output", tmp_path / "out", capsys=capsys,
    )  # fmt: skip
    assert code == 0
    assert "2 pairs compared" in out
    assert "Copy, in the list of clips, but in neither folder: spelt wrongly" in out
    assert results(tmp_path / "out")["methods"][0]["in_neither"] == ["spelt wrongly"]


@pytest.mark.parametrize("name", ["stsa-lrs2", "g4g-user-study"])
def test_a_published_table_is_written_in_all_forms(name, tmp_path, capsys):
    code, out, _ = run("--table", name, "--output", tmp_path / "out", capsys=capsys)
    assert code == 0
    assert f"{tmp_path}/out/table.md, .tex, .csv and .json written" in out
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["table.csv", "table.json", "table.md", "table.tex"]
    rows = list(csv.reader((tmp_path / "out" / "table.csv").open(encoding="utf-8")))
    table = json.loads((tmp_path / "out" / "table.json").read_text(encoding="utf-8"))
    assert {row[0]: row[1:] for row in rows[1:]} == table["rows"]
    assert "Wav2Lip" in (tmp_path / "out" / "table.tex").read_text(encoding="utf-8")


def test_whole_frames_need_no_face(tmp_path, capsys):
    draw = np.random.RandomState(0)
    frames = [cv2.resize(draw.randint(0, 255, (6, 8, 3), np.uint8), (64, 48)) for _ in range(4)]
    write_frames(tmp_path / "true" / "a.mp4", frames)
    write_frames(tmp_path / "made" / "a.mp4", [cv2.GaussianBlur(frame, (0, 0), 2) for frame in frames])
    out = tmp_path / "out"
    code, _, _ = run(
        "--generated", tmp_path / "made", "--reference", tmp_path / "true", "--region", "frame",
        "--metrics", "psnr", "mse", "--output", out, capsys=capsys,
    )  # fmt: skip
    assert code == 0
    clip = results(out)["methods"][0]["clips"][0]
    pairs = zip(read_frames(tmp_path / "made" / "a.mp4"), read_frames(tmp_path / "true" / "a.mp4"), strict=True)
    errors = [np.mean((made / 255.0 - true / 255.0) ** 2) for made, true in pairs]
    assert clip["frames"] == 4
    assert clip["values"]["mse"] == pytest.approx(np.mean(errors), rel=1e-4)
    assert clip["values"]["psnr"] == pytest.approx(np.mean(-10 * np.log10(errors)), rel=1e-4)


def test_whole_frames_without_a_face_are_compared_and_said_to_lack_lips_and_sync(tmp_path, capsys, made_weights):
    true, out = tmp_path / "true", tmp_path / "out"
    write_frames(true / "a.mp4", [*portraits(3), empty(), empty()])
    write_frames(true / "b.mp4", [empty()] * 3)
    code, text, _ = run(
        "--generated", f"made={true}", "--reference", true, "--region", "frame",
        "--metrics", "mse", "liplmd", "lse-d", "--output", out, capsys=capsys,
    )  # fmt: skip
    assert code == 0
    assert text.splitlines()[-1].startswith("2 pairs compared in 8 frames; 0 frames and 0 pairs left out")
    assert "made, a: 5 frames compared; 2 without LipLMD (no face in the reference frame)" in text
    assert "made, b: 3 frames compared; 3 without LipLMD (no face in the reference frame); no face in either" in text
    a, b = results(out)["methods"][0]["clips"]
    assert a["left_out"] == b["left_out"] == {}
    assert a["without_lips"] == {"no face in the reference frame": {"frames": 2, "ranges": [[3, 4]]}}
    assert b["notes"] == ["no face in either video: no LSE"]


@pytest.mark.parametrize(("metric", "size", "least"), [("ssim", 10, 11), ("lpips", 30, 31)])
def test_frames_too_small_for_a_metric_leave_the_pair_out(metric, size, least, tmp_path, capsys, made_weights):
    made = tmp_path / "made"
    write_frames(made / "small.mp4", [np.full((size, 40, 3), 90, np.uint8)] * 3)
    write_frames(made / "large.mp4", [np.full((40, 40, 3), 90, np.uint8)] * 3)
    code, text, _ = run(
        "--generated", made, "--reference", made, "--region", "frame", "--metrics", metric, capsys=capsys
    )
    assert code == 0
    reason = f"40x{size} pixels are too small for {metric.upper()}, which needs {least} a side"
    assert f"made, small left out: {reason}" in text
    assert "1 pairs compared in 3 frames; 0 frames and 1 pairs left out" in text


def test_a_size_that_changes_in_mid_video_leaves_the_pair_out(monkeypatch):
    small, large = np.zeros((32, 32, 3), np.uint8), np.zeros((48, 32, 3), np.uint8)
    videos = {"made.mp4": [small, small], "true.mp4": [small, large]}
    monkeypatch.setattr("metrics.pairs.read_frames", lambda path: iter(videos[path.name]))
    frames = read_pairs(Pair("a", Path("made.mp4"), Path("true.mp4")), FrameCount(), False, False)
    assert next(frames).index == 0
    with pytest.raises(InputError, match="32x32 generated, 32x48 reference in frame 1: the sizes differ"):
        next(frames)


def test_the_face_crop_is_the_reference_box_in_both(truth, tmp_path, capsys):
    """What changes outside the reference's face box does not count."""

    def stain(frames):
        return [cv2.rectangle(frame.copy(), (0, 0), (25, 25), (255, 0, 0), -1) for frame in frames]

    blurred(truth, tmp_path / "made", 0, stain)
    arguments = ("--generated", tmp_path / "made", "--reference", truth, "--metrics", "mse", "--output")
    errors = {}
    for region in ("face", "frame"):
        assert run(*arguments, tmp_path / region, "--region", region, capsys=capsys)[0] == 0
        errors[region] = results(tmp_path / region)["methods"][0]["metrics"]["mse"]["mean"]
    assert errors["face"] < 1e-4
    assert errors["frame"] > 1e-3


def test_the_crop_is_a_form_or_a_checkpoint_s_at_any_size(truth, tmp_path, capsys):
    checkpoint = tmp_path / "g4g"
    network = G4GSynthesizer(G4GConfig(width=0.05, crop=CROPS["g4g"]))
    save_checkpoint(checkpoint, {"g4g_synthesizer": network}, {"g4g_synthesizer": network.config})
    both = ("--generated", truth, "--reference", truth, "--metrics", "psnr", "mse")
    for number, (options, expected) in enumerate(
        [
            ((), (128, 128, "landmark_box")),
            (("--size", "96x64"), (96, 64, "landmark_box")),
            (("--crop", "upright", "--size", "64"), (64, 64, "upright")),
            (("--crop", checkpoint), (416, 320, "dinet")),
        ]
    ):
        assert run(*both, *options, "--output", tmp_path / str(number), capsys=capsys)[0] == 0
        crop = results(tmp_path / str(number))["options"]["crop"]
        assert (crop["height"], crop["width"], crop["framing"]) == expected
        assert f"{expected[1]}x{expected[0]} pixels" in (tmp_path / str(number) / "table.md").read_text()
    for options in (("--size", "axb"), ("--size", 16), ("--size", "64x20"), ("--crop", "stsa-9"), ("--crop", tmp_path)):
        assert str(options[1]) in complaint(*both, *options, capsys=capsys)


def test_blur_jitter_and_a_frozen_mouth_each_worsen_their_metric(shared, tmp_path, capsys):
    clip = itertools.islice(read_frames(shared / "clips" / "val" / "synthetic_13b.mp4"), 12)
    frames = [frame[100:480, 60:440] for frame in clip]
    write_frames(tmp_path / "true" / "a.mp4", frames)
    with FaceTracker() as tracker:
        found = [tracker.track(frame) for frame in frames]
        lips = np.array([face.landmarks[[61, 291, 0, 17]] for face in found if face is not None])
    draw = np.random.RandomState(0)
    jitter = draw.uniform(-8, 8, (len(frames), 2))

    def with_mouth(place: int, source: int, shift=(0, 0)) -> np.ndarray:
        """Frame `place` with the mouth of frame `source`, moved onto its own and by `shift`, in a soft mask."""
        frame, centre = frames[place], lips[place].mean(axis=0)
        offset = centre - lips[source].mean(axis=0) + shift
        moved = cv2.warpAffine(
            frames[source], np.array([[1, 0, offset[0]], [0, 1, offset[1]]], np.float32), frame.shape[1::-1]
        )
        mask = np.zeros(frame.shape[:2], np.float32)
        cv2.ellipse(mask, (*map(int, centre),), (70, 50), 0, 0, 360, (1.0,), -1)
        soft = cv2.GaussianBlur(mask, (0, 0), 6)[..., None]
        return np.rint(moved * soft + frame * (1 - soft)).astype(np.uint8)

    made = {
        "same": frames,
        "blurred": [cv2.GaussianBlur(frame, (0, 0), 3) for frame in frames],
        "jittered": [with_mouth(i, i, jitter[i]) for i in range(len(frames))],
        "frozen": [with_mouth(i, 0) for i in range(len(frames))],
    }
    arguments = []
    for name, pictures in made.items():
        write_frames(tmp_path / name / "a.mp4", pictures)
        arguments += ["--generated", tmp_path / name]
    code, _, _ = run(
        *arguments, "--reference", tmp_path / "true", "--metrics", "ssim", "liplmd", "--output", tmp_path / "out",
        capsys=capsys,
    )  # fmt: skip
    assert code == 0
    value = {
        method["name"]: {metric: each["mean"] for metric, each in method["metrics"].items()}
        for method in results(tmp_path / "out")["methods"]
    }
    assert value["blurred"]["ssim"] < value["same"]["ssim"] - 0.03
    assert value["jittered"]["liplmd"] > value["same"]["liplmd"] + 0.005
    assert value["frozen"]["liplmd"] > value["same"]["liplmd"] + 0.005


def test_names_with_dollars_and_underscores_are_drawn_as_they_are(truth, tmp_path, capsys):
    for name in ("_a", "$x^$"):  # "$x^$" is a formula that cannot be parsed
        shutil.copytree(truth / "more", tmp_path / name / r"$\frac$")
    code, _, _ = run(
        "--generated", tmp_path / "_a", "--generated", tmp_path / "$x^$", "--reference", tmp_path / "_a",
        "--metrics", "ssim", "--output", tmp_path / "out", capsys=capsys,
    )  # fmt: skip
    assert code == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    plot = page[page.index("<svg") : page.index("</svg>")]
    texts = {text.strip() for text in re.findall(r"<text[^>]*>([^<]*)</text>", plot)}
    assert {"_a", "$x^$", r"$\frac$/two"} <= texts


def test_the_report_holds_everything_in_itself(truth, tmp_path, capsys):
    made = blurred(truth, tmp_path / "<made> & co", 2)
    run("--generated", made, "--reference", truth, "--metrics", "ssim", "--output", tmp_path / "out", capsys=capsys)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=[\"'](?!data:|#)", page)
    assert not re.search(r"url\((?!#)|@import|<script", page)
    assert page.count("data:video/mp4;base64,") == 2
    assert page.count("data:image/jpeg;base64,") == 2 * 2 * 4  # best and worst of two clips, in four pictures each
    assert page.count("<svg") == 1
    assert "&lt;made&gt; &amp; co" in page
    assert "<made>" not in page


def test_faces_of_the_truth_are_found_once_for_all_methods(truth, monkeypatch):
    pair = Pair("one", truth / "one.mp4", truth / "one.mp4")
    known: list[Face | None] = []
    first = list(read_pairs(pair, FrameCount(), known_faces=known))
    assert len(known) == 9
    monkeypatch.setattr("metrics.pairs.FaceTracker", None)  # finding any would fail
    again = list(read_pairs(pair, FrameCount(), True, False, known))
    for one, other in zip(first, again, strict=True):
        assert one.reference_face is not None and other.reference_face is not None
        assert one.reference_face.box.tolist() == other.reference_face.box.tolist()


def test_reading_stops_its_threads_when_it_is_broken_off(truth):
    import threading

    before = threading.active_count()
    frames = read_pairs(Pair("one", truth / "one.mp4", truth / "one.mp4"), FrameCount(), False, False)
    next(frames)
    frames.close()
    assert threading.active_count() == before


def test_two_files_of_one_name_are_refused(truth, tmp_path, capsys):
    folder = tmp_path / "twice"
    folder.mkdir()
    shutil.copy(truth / "one.mp4", folder / "one.mp4")
    shutil.copy(truth / "one.mp4", folder / "one.mov")
    assert "one.mov and one.mp4" in complaint("--generated", folder, "--reference", truth, capsys=capsys)
