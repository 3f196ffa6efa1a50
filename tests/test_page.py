"""app.py: the page's server as its clients meet it, and the page in a real browser."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from conftest import ROOT
from faces import HEIGHT, WIDTH, empty, portraits, small_checkpoint, write_frames
from media_files import write_sound

import app
from media.errors import InputError
from media.video import read_frames

pytest.importorskip("gradio", reason="the page is an extra of the installation (web)")
from gradio_client import Client, handle_file

from dubbing import page as page_module
from dubbing.preview import face_at, preview

LIMIT = 1  # MB of an upload


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 3200)).astype(np.float32)
    pair = [np.concatenate([frame, frame[:, ::-1]], axis=1) for frame in portraits(6)]
    (folder / "text.mp4").write_text("this is no video\n")
    (folder / "large.wav").write_bytes(bytes(LIMIT * 2**20 + 1))
    return {
        "checkpoint": small_checkpoint(folder / "checkpoint"),
        "video": write_frames(folder / "person.mp4", portraits(6)),
        "pair": write_frames(folder / "pair.mp4", pair),
        "faceless": write_frames(folder / "faceless.mp4", [empty()] * 3),
        "text": folder / "text.mp4",
        "large": folder / "large.wav",
        "sound": write_sound(folder / "speech.wav", "pcm_s16le", 16000, sound=noise),
    }


@pytest.fixture(scope="module")
def page(files, tmp_path_factory):
    """A page that dubs with a small network, at `page.url`."""
    folder = tmp_path_factory.mktemp("uploads")
    opened = page_module.Page({"small": files["checkpoint"]}, torch.device("cpu"), folder)
    opened.open("127.0.0.1", None, None, LIMIT)
    yield opened
    opened.close()
    del os.environ["GRADIO_TEMP_DIR"]


@pytest.fixture
def client(page, tmp_path):
    with contextlib.closing(Client(page.url, verbose=False, download_files=tmp_path / "received")) as opened:
        yield opened


def given(files, video="video", sound="sound", **further):
    return {"video": handle_file(files[video]), "sound": handle_file(files[sound]), **further}


@pytest.mark.slow
def test_the_documented_client_runs_as_written(page, files, tmp_path, monkeypatch, capsys):
    example = next(code for code in _python(ROOT / "docs/dubbing.md") if "gradio_client" in code)
    monkeypatch.chdir(tmp_path)
    for name, key in {"VIDEO.mp4": "video", "SOUND.wav": "sound"}.items():
        shutil.copy(files[key], name)
    exec(example.replace("http://127.0.0.1:7860", page.url), {})
    path, _, summary = capsys.readouterr().out.partition(" ")
    assert summary == "VIDEO-dubbed.mp4: 0.20 s, 5 frames of 240x224, a face in every one\n"
    assert len(list(read_frames(path))) == 5
    with av.open(path) as container:
        assert "ynthesized" in container.metadata["comment"]


@pytest.mark.slow
def test_a_second_dub_of_an_upload_does_not_track_again(page, client, files, monkeypatch):
    asked = {**given(files, "pair"), "api_name": "/dub"}
    first = client.predict(**asked)
    monkeypatch.setattr("dubbing.first_pass.observe", lambda *_: pytest.fail("tracked again"))
    second = client.predict(**asked)
    dubs = [np.stack(list(read_frames(path))).astype(float) for path in (first[0], second[0])]
    assert np.abs(dubs[0] - dubs[1]).mean() < 1  # x264 does not write the same bytes twice on CPUs with AVX-512


def _python(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


@pytest.mark.slow
def test_the_options_of_the_page_are_those_of_the_command(client, files):
    options = {"person": "380,110", "start": 0.08, "length": "video", "keep_fps": True, "heatmaps": True}
    result, views, summary = client.predict(**given(files, "pair", **options), api_name="/dub")
    assert "0.16 s, 4 frames of 480x224" in summary
    dubbed = list(read_frames(result))
    source = list(read_frames(files["pair"]))[2:]
    changed = [np.abs(a.astype(int) - b).mean(axis=(0, 2)) for a, b in zip(source, dubbed, strict=True)]
    assert all(row[WIDTH:].max() > 8 > row[:WIDTH].max() for row in changed)  # the one at that pixel
    assert len(list(read_frames(views))) == 4


@pytest.mark.parametrize(
    ("video", "options", "line"),
    [
        ("text", {}, "video text.mp4 cannot be read"),
        ("faceless", {}, "video faceless.mp4 shows no face that can be dubbed"),
        ("video", {"person": "5,5"}, "--face-at 5,5: no face is ever there"),
        ("video", {"person": "nobody"}, "whom to dub: nobody is none of"),
        ("video", {"start": 9}, "--start 9: video person.mp4 is 0.24 s long"),
    ],
)
def test_an_error_is_the_commands_line_without_the_servers_folders(client, page, files, video, options, line):
    with pytest.raises(Exception) as error:
        client.predict(**given(files, video, **options), api_name="/dub")
    assert str(error.value).startswith(line)
    assert str(page.folder) not in str(error.value) and "\n" not in str(error.value)


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def call(page, video: str, sound: str) -> str:
    """The end of a dub that is asked for with bare HTTP, so with any path."""
    data: list[Any] = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in (video, sound)]
    data += ["largest", 0, 0, "sound", "small", "pass", False, False]
    address = f"{page.url}gradio_api/call/dub"
    body, kind = json.dumps({"data": data}).encode(), {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(address, body, kind)) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{address}/{event}") as answer:
        return answer.read().decode().strip().rpartition("event: ")[2]


def test_a_dub_may_be_asked_for_with_bare_http(page, client, files):
    uploads = [_made(page.folder / name) for name in ("given/person.mp4", "given/speech.wav")]
    for upload, key in zip(uploads, ("video", "sound"), strict=True):
        shutil.copy(files[key], upload)
    assert "person-dubbed.mp4: 0.20 s" in call(page, *map(str, uploads))


@pytest.mark.parametrize("path", ["/etc/passwd", str(ROOT / "assets/portrait.mp4"), "assets/portrait.mp4", "app.py"])
def test_no_file_of_the_server_can_be_asked_for(page, path):
    assert status(f"{page.url}gradio_api/file={path}") in (403, 404)
    answer = call(page, path, path)
    assert answer.startswith("error") and "dubbed" not in answer


def test_the_server_fetches_nothing_for_a_client(page):
    assert status(f"{page.url}gradio_api/file=http://127.0.0.1/secret.mp4") == 403
    assert "upload the file itself" in call(page, "http://127.0.0.1/secret.mp4", "http://127.0.0.1/secret.wav")


def test_a_large_upload_is_refused_and_leaves_nothing(client, page, files, tmp_path, monkeypatch):
    before = set(page.folder.rglob("*"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(Exception, match=r"exceeds the maximum file size"):  # the client's own check
        client.predict(**given(files, sound="large"), api_name="/dub")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(_upload(page, files["large"]))
    assert refused.value.code == 413
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    assert {path.name for path in set(page.folder.rglob("*")) - before if path.is_file()} <= {"person.mp4"}


def _upload(page, path: Path) -> urllib.request.Request:
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{path.name}"\r\n\r\n'
    body = head.encode() + path.read_bytes() + b"\r\n--x--\r\n"
    return urllib.request.Request(
        f"{page.url}gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=x"}
    )


class Endless:
    """Stands in for a `Dubber`: dubs until it is stopped, or for `seconds`."""

    def __init__(self, *_):
        self.begun, self.ended, self.seconds = 0, 0, 60.0
        self.most = 0

    def dub(self, video, sound, output, progress, **_):
        self.begun += 1
        self.most = max(self.most, self.begun - self.ended)
        try:
            end = time.monotonic() + self.seconds
            for _ in progress(iter(lambda: time.monotonic() < end, False), "dubbing", 1000):
                time.sleep(0.02)
        finally:
            self.ended += 1
        shutil.copy(video.video, _made(output))
        return f"{output}: done"


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture
def endless(page, monkeypatch):
    stand_in = Endless()
    monkeypatch.setattr(page, "_dubber", lambda checkpoint: stand_in)
    yield stand_in
    stand_in.seconds = 0


def _until(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.slow
def test_jobs_run_one_at_a_time_and_a_client_that_leaves_ends_its_own(page, files, endless, tmp_path):
    first, second = (Client(page.url, verbose=False, download_files=tmp_path / str(i)) for i in range(2))
    first.submit(**given(files), api_name="/dub")
    _until(lambda: endless.begun == 1)
    waiting = second.submit(**given(files), api_name="/dub")
    _until(lambda: waiting.status().rank == 0)
    assert endless.begun == 1 and not waiting.done()
    first.close()
    _until(lambda: endless.begun == 2)  # the first has ended
    endless.seconds = 0.5
    second.close()
    _until(lambda: endless.ended == 2)
    assert endless.most == 1


def test_uploads_and_results_are_removed_after_an_hour(page, client, files, monkeypatch):
    from gradio.route_utils import delete_files_created_by_app

    assert page.blocks.delete_cache == (60, 3600)
    client.predict(**given(files), api_name="/dub")
    made = [path for path in page.folder.rglob("*") if path.is_file()]
    assert any(path.name == "person-dubbed.mp4" for path in made) and any(path.name == "person.mp4" for path in made)
    delete_files_created_by_app(page.blocks, 3600)
    assert all(path.is_file() for path in made)
    monkeypatch.setattr("gradio.route_utils.datetime", _Later)
    delete_files_created_by_app(page.blocks, 3600)
    left = [path.name for path in made if path.is_file()]
    assert set(left) <= {"speaker.mp4", "speech.wav"}  # the example


class _Later:
    """`datetime`, an hour and a minute from now."""

    from datetime import datetime as _true
    from datetime import timedelta as _span

    @classmethod
    def now(cls):
        return cls._true.now() + cls._span(seconds=3660)

    fromtimestamp = _true.fromtimestamp


def test_the_first_frame_with_faces_is_shown(files, tmp_path):
    seen = preview(files["pair"], 0.08)
    assert len(seen.boxes) == 2 and seen.seconds == 0.08
    left, right = seen.boxes
    assert left[2] < WIDTH < right[0] and face_at(seen.boxes, right[0] + 5, right[1] + 5) == 1
    assert face_at(seen.boxes, 1, 1) is None
    assert preview(files["faceless"]).boxes == []

    late = write_frames(tmp_path / "late.mp4", [empty()] * 20 + portraits(10))
    seen = preview(late)
    assert len(seen.boxes) == 1 and 0.8 <= seen.seconds <= 1.2
    with pytest.raises(InputError, match=r"--start 3: video .*late.mp4 is 1.20 s long"):
        preview(late, 3)


@pytest.mark.parametrize("text", ["", "name\n", "name:\n", ":word\n"])
def test_a_file_without_accounts_is_refused(tmp_path, text):
    path = tmp_path / "accounts"
    path.write_text(text)
    with pytest.raises(InputError, match="accounts"):
        app.accounts(path)


def test_accounts_are_lines_of_name_and_password(tmp_path):
    path = tmp_path / "accounts"
    path.write_text("ann:a:b\n\nbob: c\n")
    assert app.accounts(path) == [("ann", "a:b"), ("bob", " c")] and app.accounts(None) is None


@pytest.mark.slow
def test_the_command_serves_with_a_password_until_it_is_ended(tmp_path, files):
    (tmp_path / "accounts").write_text("ann:secret\n")
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, "app.py", "--auth", tmp_path / "accounts", "--checkpoint", files["checkpoint"]]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    environment.pop("GRADIO_TEMP_DIR", None)
    with subprocess.Popen(
        [*map(str, command), "--device", "cpu"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
            assert found is not None
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"{found[0]}config")
            assert refused.value.code == 401
            client = Client(found[0], auth=("ann", "secret"), verbose=False, download_files=tmp_path / "received")
            assert "5 frames" in client.predict(**given(files), api_name="/dub")[2]
            assert any((tmp_path / "tmp").rglob("person-dubbed.mp4"))
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert [path for path in (tmp_path / "tmp").iterdir() if path.name.startswith("dubbing-")] == []


def test_a_voice_moves_the_mouth_once_the_video_is_prepared(page, files):
    session = SimpleNamespace(session_hash="voice")
    with pytest.raises(Exception, match="press Prepare first"):
        page.hear(str(files["sound"]), session)
    state = page.prepare(str(files["video"]), "largest", 0, 0, "small", session, lambda *_, **__: None)
    assert state.startswith("ready: the mouth follows the voice after 213 ms")
    pieces = [page.hear(str(files["sound"]), session) for _ in range(2)]  # 0.4 s
    assert pieces[1].shape == (HEIGHT, WIDTH, 3)
    page.leave(session)
    with pytest.raises(Exception, match="press Prepare first"):
        page.hear(str(files["sound"]), session)


def test_the_demo_opens_the_page_on_request(tmp_path):
    for name in ("demo.sh", "setup.sh"):
        shutil.copy(ROOT / "scripts" / name, _made(tmp_path / "scripts" / name))
    for name in ("requirements.txt", ".venv/installed-requirements.txt"):  # nothing to install
        shutil.copy(ROOT / "requirements.txt", _made(tmp_path / name))
    stand_in = _made(tmp_path / ".venv/bin/python")
    stand_in.write_text('#!/bin/sh\necho "$@"\n')
    stand_in.chmod(0o755)
    command = ["bash", str(tmp_path / "scripts/demo.sh"), "--page", "--port", "8000"]
    environment = {**os.environ, "PYTHON": sys.executable}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "app.py --port 8000\n"), result.stderr


def _browser() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
    if (path := _browser()) is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def tab(browser, page):
    """Opens the page in new tabs of the given width; every request must be one of this server's."""
    contexts, requests = [], []

    def open_tab(width: int = 1280):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, accept_downloads=True))
        opened = contexts[-1].new_page()
        opened.set_default_timeout(60_000)
        opened.on("request", lambda request: requests.append(request.url))
        opened.goto(page.url)
        opened.wait_for_selector("#dub")
        return opened

    yield open_tab
    for context in contexts:
        context.close()
    assert {url for url in requests if not url.startswith((page.url, "data:", f"blob:{page.url}"))} == set()


def choose_files(tab, video: Path, sound: Path) -> None:
    tab.locator("#video input[type=file]").set_input_files(video)
    tab.wait_for_selector("#faces img")
    tab.locator("#sound input[type=file]").set_input_files(sound)
    tab.wait_for_selector("#sound [aria-label=Clear]")


@pytest.mark.slow
def test_in_a_browser_one_uploads_clicks_a_face_dubs_and_plays(tab, files, tmp_path):
    opened = tab()
    assert "without their consent" in opened.inner_text("body")
    choose_files(opened, files["pair"], files["sound"])
    assert "2 faces: click the one to dub" in opened.inner_text("#note")
    place = opened.locator("#faces img").bounding_box()
    opened.mouse.click(place["x"] + 0.75 * place["width"], place["y"] + 0.5 * place["height"])
    opened.wait_for_function("/^3\\d\\d,\\d+$/.test(document.querySelector('#person input').value)")
    opened.click("#dub")
    opened.wait_for_selector("#result video")
    opened.wait_for_function("document.querySelector('#summary textarea').value.includes('5 frames of 480x224')")
    opened.get_by_text("Play both").click()
    opened.wait_for_function("document.querySelector('#result video').currentTime > 0.1")
    opened.wait_for_function("document.querySelector('#source video').currentTime > 0.1")
    with opened.expect_download() as download:
        opened.click("#result [aria-label=Download]")
    download.value.save_as(tmp_path / "received.mp4")
    dubbed, source = list(read_frames(tmp_path / "received.mp4")), list(read_frames(files["pair"]))
    changed = [np.abs(a.astype(int) - b).mean(axis=(0, 2)) for a, b in zip(source[:5], dubbed, strict=True)]
    assert all(row[WIDTH:].max() > 8 > row[:WIDTH].max() for row in changed)

    opened.locator("#video [aria-label=Clear]").click()
    opened.locator("#video input[type=file]").set_input_files(files["faceless"])
    opened.wait_for_function("document.querySelector('#note').innerText.includes('No face')")
    opened.click("#dub")
    opened.wait_for_selector("text=video faceless.mp4 shows no face that can be dubbed")


@pytest.mark.slow
def test_the_example_is_one_click_and_fits_a_phone(tab):
    opened = tab(390)
    opened.get_by_text("speech.wav").first.click()
    opened.wait_for_selector("#faces img")
    opened.wait_for_selector("#sound [aria-label=Clear]")
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.slow
def test_a_closed_tab_and_the_stop_button_end_their_jobs(tab, files, endless):
    first, second = tab(), tab()
    for opened in (first, second):
        choose_files(opened, files["video"], files["sound"])
    first.click("#dub")
    first.wait_for_selector("text=/Dubbing: [\\d.]+ frames.s, \\d+ s left/")
    second.click("#dub")
    second.wait_for_selector("text=/queue: 1.1/")
    first.close()
    second.wait_for_selector("text=/Dubbing: [\\d.]+ frames.s/")
    assert (endless.begun, endless.ended) == (2, 1)
    second.click("#stop")
    _until(lambda: endless.ended == 2)
    second.wait_for_function("document.querySelector('#summary textarea').value == 'stopped'")
