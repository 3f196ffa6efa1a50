"""The user study: its page in a real browser, its key, and its scorer; and the figure that compares methods."""

import csv
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from faces import empty, portraits, write_frames
from media_files import beat_sound, write_sound
from PIL import Image

from media.errors import InputError
from media.video import VideoWriter, probe
from metrics import comparison, opinions, study
from metrics.opinions import krippendorff_alpha, opinion


@pytest.fixture(scope="module")
def methods(tmp_path_factory) -> dict[str, Path]:
    """Two methods' videos of two clips, with sound, and the true ones."""
    folder = tmp_path_factory.mktemp("methods")
    sound = write_sound(folder / "sound.wav", "pcm_s16le", 16000, sound=beat_sound(16000, 0.5))
    for place, name in enumerate(("truth", "mine", "other")):
        for clip in ("a", "b"):
            with VideoWriter(folder / name / f"{clip}.mp4", 240, 224, sound=sound, duration=0.4) as writer:
                for frame in portraits(10):
                    writer.write(np.roll(frame, place, axis=-1) if place else frame)
    sound.unlink()
    return {name: folder / name for name in ("truth", "mine", "other")}


def make(methods: dict[str, Path], output: Path, *more: str) -> int:
    rows = [f"--generated={name}={folder}" for name, folder in (("GT", methods["truth"]), ("Mine", methods["mine"]))]
    return study.main([*rows, "--clips", "2", "--output", str(output), *more])


def test_the_page_names_no_method_and_holds_every_video(methods, tmp_path, capsys):
    output = tmp_path / "study.html"
    assert make(methods, output) == 0
    assert "4 videos of 2 methods" in capsys.readouterr().out
    page, key = output.read_text(), json.loads((tmp_path / "study.key.json").read_text())
    (held,) = re.findall(r'id="content">(.*?)</script>', page, re.DOTALL)
    content = json.loads(held)
    tokens = [video["token"] for video in content["videos"]]
    assert tokens == sorted(key["videos"]) and len(set(tokens)) == 4
    assert not re.search(r"Mine|GT|mine|truth", re.sub(r'"data": "[^"]*"', "", page))
    assert not re.findall(r"(?:src|href)=[\"'](?!data:|#)|https?://|url\(", page.split("<script type")[0])
    assert {video["method"] for video in key["videos"].values()} == {"GT", "Mine"}
    again = tmp_path / "again.html"
    assert make(methods, again) == 0
    assert json.loads((tmp_path / "again.key.json").read_text()) == key
    assert make(methods, again, "--seed", "1") == 0
    assert json.loads((tmp_path / "again.key.json").read_text())["study"] != key["study"]


def test_a_study_that_cannot_be_made_is_refused(methods, tmp_path, capsys):
    assert make(methods, tmp_path / "study.txt") == 2
    assert "must end in .html" in capsys.readouterr().err
    assert make(methods, tmp_path / "s.html", "--clips", "3") == 2
    assert "share 2 clips by name, not 3" in capsys.readouterr().err
    write_frames(tmp_path / "silent" / "a.mp4", portraits(3))
    assert (
        study.main(["--generated", f"M={tmp_path / 'silent'}", "--clips", "1", "--output", str(tmp_path / "s.html")])
        == 2
    )
    assert "has no sound" in capsys.readouterr().err


@pytest.mark.slow
def test_the_page_is_rated_in_a_browser_and_its_file_is_scored(methods, tmp_path, capsys):
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed")
    assert make(methods, tmp_path / "study.html") == 0
    key = json.loads((tmp_path / "study.key.json").read_text())
    orders = []
    with api.sync_playwright() as runner:
        browser = runner.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for participant, bonus in (("Ada, first", 0), ("Bob", 1)):
            page = browser.new_page()
            errors: list[str] = []
            page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
            page.goto((tmp_path / "study.html").as_uri())
            assert page.locator("#start").is_disabled()
            page.fill("#participant", participant)
            page.click("#start")
            for number in range(4):
                page.wait_for_function("document.getElementById('video').readyState >= 2")
                assert page.evaluate("document.getElementById('video').videoWidth") == 240
                assert page.inner_text("#where") == f"Video {number + 1} of 4"
                token = page.evaluate("content.videos[order[place]].token")
                assert page.locator("#next").is_disabled()
                for question in opinions.QUESTIONS:
                    value = 5 if key["videos"][token]["method"] == "GT" else 2 + bonus
                    page.check(f"input[name={question}][value='{value}']")
                if number == 1:  # ratings stay when one goes back
                    page.click("#back")
                    assert page.locator("input:checked").count() == 3
                    page.click("#next")
                    assert page.locator("input:checked").count() == 3
                page.click("#next")
            with page.expect_download() as download:
                page.click("#save")
            download.value.save_as(tmp_path / download.value.suggested_filename)
            assert page.inner_text("#saved") == f"{download.value.suggested_filename} is in your downloads."
            orders.append(page.evaluate("order.join()"))
            assert errors == []
            page.close()
        browser.close()
    files = [str(path) for path in sorted(tmp_path.glob("ratings-*.csv"))]
    assert [Path(path).name for path in files] == ["ratings-Ada_first.csv", "ratings-Bob.csv"]
    assert opinions.main([*files, "--key", str(tmp_path / "study.key.json"), "--output", str(tmp_path / "out")]) == 0
    assert "2 participants" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "opinions.json").read_text())
    assert found["participants"] == ["Ada, first", "Bob"]
    assert found["methods"]["GT"]["visual_quality"]["mean"] == 5
    assert found["methods"]["Mine"]["video_realness"]["mean"] == 2.5


def test_alpha_is_krippendorffs_own_example():
    text = """
        1 2 3 3 2 1 4 1 2 . . .
        1 2 3 3 2 2 4 1 2 5 . 3
        . 3 3 3 2 3 4 2 2 5 1 .
        1 2 3 3 2 4 4 1 2 5 1 .
    """  # "Computing Krippendorff's Alpha-Reliability", 2011
    ratings = np.array(
        [[np.nan if word == "." else float(word) for word in line.split()] for line in text.split("\n")[1:5]]
    )
    assert krippendorff_alpha(ratings) == pytest.approx(0.849, abs=5e-4)
    assert krippendorff_alpha(np.array([[1, 2, 5], [1, 2, 5]])) == 1
    assert krippendorff_alpha(np.full((3, 4), 3)) is None
    assert krippendorff_alpha(np.array([[1, np.nan], [np.nan, 2]])) is None
    draw = np.random.RandomState(0).randint(1, 6, (10, 400))
    chance = krippendorff_alpha(draw)
    assert chance is not None and abs(chance) < 0.02


def test_the_interval_is_students_over_participants():
    found = opinion(np.array([3.0, 4.0, 5.0, 4.0]))
    assert found.mean == 4
    assert found.high is not None and found.high - 4 == pytest.approx(3.182446 * (2 / 3) ** 0.5 / 2, rel=1e-6)
    assert opinion(np.array([3.0])).low is None


def scored(tmp_path: Path, rows: list[list[str]], *more: Path, key: dict | None = None) -> int:
    key = key or {"study": "s", "methods": ["A", "B"], "videos": {"1": {"method": "A"}, "2": {"method": "B"}}}
    (tmp_path / "k.json").write_text(json.dumps(key))
    header = ["study", "participant", "position", "video", *opinions.QUESTIONS]
    with (tmp_path / "r.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return opinions.main([*map(str, (tmp_path / "r.csv", *more)), "--key", str(tmp_path / "k.json")])


def test_a_part_of_the_ratings_is_scored_and_marked(tmp_path, capsys):
    assert scored(tmp_path, [["s", "p", "1", "1", "3", "", "4"], ["s", "p", "2", "2", "5", "", ""]]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^A +3\.00² +- +4\.00$", out.replace("  \n", "\n"), re.MULTILINE), out
    assert re.search(r"^B +5\.00¹ +- +-", out, re.MULTILINE), out


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["t", "p", "1", "1", "3", "3", "3"], "not of the study"),
        (["s", "p", "1", "9", "3", "3", "3"], "not of the study"),
        (["s", "p", "1", "1", "6", "3", "3"], "'6' is not a rating from 1 to 5"),
    ],
)
def test_ratings_that_cannot_be_used_are_refused(tmp_path, capsys, row, message):
    assert scored(tmp_path, [row]) == 2
    assert message in capsys.readouterr().err


def test_two_files_of_one_participant_and_a_wrong_key_are_refused(tmp_path, capsys):
    row = ["s", "p", "1", "1", "3", "3", "3"]
    assert scored(tmp_path, [row], tmp_path / "r.csv") == 2
    assert "second file of p" in capsys.readouterr().err
    assert scored(tmp_path, [row], key={"study": "s"}) == 2
    assert "is not a key" in capsys.readouterr().err


def test_the_figure_has_a_row_a_method_and_one_crop(methods, tmp_path, capsys):
    arguments = [
        *("--reference", str(methods["truth"]), "--generated", f"Mine={methods['mine']}"),
        *("--generated", f"$x^$={methods['other']}", "--output", str(tmp_path / "all.png")),
    ]
    assert comparison.main([*arguments, "--clips", "b", "--frames", "2", "6"]) == 0
    assert "3 rows of 2 frames" in capsys.readouterr().out
    picture = cv2.imread(str(tmp_path / "all.png"))
    assert picture is not None and picture.shape[0] > 3 * 250 and picture.shape[1] > 2 * 250
    assert (tmp_path / "all.pdf").read_bytes().startswith(b"%PDF")
    assert comparison.main(arguments) == 0
    assert "3 rows of 6 frames" in capsys.readouterr().out


def test_every_row_shows_the_same_place(methods):
    from metrics.pairs import find_videos

    videos = {name: find_videos(folder, name) for name, folder in methods.items()}
    (heading, pictures), *_ = comparison.columns(videos, ["a"], [4], 1, False)
    assert heading == "a, frame 4" and len(pictures) == 3
    # The methods' videos are the truth with other colours, so the same place differs by them alone.
    assert np.abs(np.roll(pictures[0], 1, axis=-1).astype(int) - pictures[1]).mean() < 4
    assert comparison.frame_numbers([methods["truth"] / "a.mp4"], None, 3) == [2, 4, 6]


def test_whole_frames_of_an_odd_size_stand_beside_their_dubs_of_an_even_one(tmp_path):
    """A dub has one row or column more than an odd source: H.264 has even sides."""
    clips = {}
    for name, shape in (("truth", (45, 61, 3)), ("dub", (46, 62, 3)), ("other", (48, 62, 3))):
        clips[name] = {"a": tmp_path / f"{name}.gif"}
        Image.fromarray(np.full(shape, 90, np.uint8)).save(clips[name]["a"])
    both = {name: clips[name] for name in ("truth", "dub")}
    ((_, pictures),) = comparison.columns(both, ["a"], [0], 1, True)
    assert [picture.shape for picture in pictures] == [(45, 61, 3)] * 2
    ((_, pictures),) = comparison.columns(clips, ["a"], [0], 1, True)
    assert len({picture.shape for picture in pictures}) == 3  # a larger difference is refused


def test_a_figure_that_cannot_be_drawn_is_refused(methods, tmp_path, capsys):
    def complaint(*arguments) -> str:
        assert comparison.main([str(argument) for argument in arguments]) == 2
        return capsys.readouterr().err

    both = ("--reference", methods["truth"], "--generated", f"Mine={methods['mine']}")
    assert "must end in .png" in complaint(*both, "--output", "x.gif")
    assert "--clips c is not among" in complaint(*both, "--clips", "c")
    assert "--frames 99 is not in" in complaint(*both, "--frames", "99")
    assert "name of the true row" in complaint(*both, "--generated", f"GT={methods['mine']}")
    write_frames(tmp_path / "nobody" / "a.mp4", [empty()] * 3)
    assert "shows no face in frame 1" in complaint(
        "--reference", tmp_path / "nobody", "--generated", f"M={tmp_path / 'nobody'}", "--frames", "1"
    )


def test_a_studys_video_is_small_and_carries_no_metadata(methods, tmp_path):
    (tmp_path / "v.mp4").write_bytes(study.encode(methods["mine"] / "a.mp4", 0.2, 100))
    info = probe(tmp_path / "v.mp4")
    assert (info.width, info.height, info.has_sound) == (108, 100, True)
    assert info.duration == pytest.approx(0.2, abs=0.05)
    assert b"ynthesized" not in (tmp_path / "v.mp4").read_bytes()
    with pytest.raises(InputError, match="share 2 clips"):
        study.draw_items({"A": {"a": methods["mine"], "b": methods["mine"]}}, 3, 0)
