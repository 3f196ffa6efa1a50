"""The page of app.py: its layout, and the jobs that it runs."""

import argparse
import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # Gradio reads this when it is imported
import gradio as gr
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from dubbing.dubber import Dubber
from dubbing.live import Live
from dubbing.options import DubOptions, parse_face, parse_point
from dubbing.prepared import Prepared
from dubbing.preview import boxed, face_at, preview
from media.audio import SAMPLE_RATE
from media.errors import InputError, explanation
from media.files import short_stem
from media.sound import read_audio
from media.video import probe

KEPT = 3600  # seconds after which uploads and results are removed
WAITING = 20  # most jobs that wait
REMEMBERED = 8  # videos whose faces are not tracked again
ASSETS = Path(__file__).resolve().parent.parent / "assets"

CONSENT = """\
# Visual dubbing
Make the mouth in a video say another recording. **Do not make a person seem to say something without their consent. Do
not deceive anyone about the origin of a video.** The metadata of every result says that it is synthesized. Uploads and
results are removed after an hour.
"""
PEOPLE = [("largest face of each shot", "largest"), ("left", "left"), ("right", "right"), ("everyone", "all")]
LENGTHS = [("sound", "sound"), ("video", "video"), ("shorter of both", "shorter")]
GAPS = [("leave them as they are", "pass"), ("refuse the video", "error")]
STAGES = {"tracking": "Tracking faces", "references": "Tracking the references", "dubbing": "Dubbing"}
PLAY_BOTH = """(start) => [['#source video', start || 0], ['#result video', 0]].forEach(([place, time]) => {
    const player = document.querySelector(place);
    if (player) { player.currentTime = time; player.muted = place != '#result video'; player.play(); }
})"""

# The component's own cutting loads a program from another server.
STYLE = "video, #faces img { max-height: 360px !important; } #video [aria-label^=Trim] { display: none; }"

Box = tuple[int, int, int, int]


class Page:
    """A server whose page dubs videos, one at a time.

    Args:
        checkpoints: folders of networks by the names to choose them by; each is loaded when it is first used.
        device: where the networks run.
        folder: for uploads and results; its owner removes it.
    """

    def __init__(self, checkpoints: dict[str, Path], device: torch.device, folder: str | os.PathLike):
        os.environ["GRADIO_TEMP_DIR"] = os.fspath(folder)  # Gradio has no argument for it
        self.checkpoints, self.device, self.folder = checkpoints, device, Path(folder)
        self._dubbers: dict[tuple[str, int | None], Dubber] = {}
        self._lives: dict[str, Live] = {}  # by session
        self._hearing = threading.Lock()
        self._known: dict[tuple, Prepared] = {}  # the latest last
        self._turn = threading.Lock()  # a stopped job may still run when the queue starts the next
        self._running: dict[str, threading.Event] = {}  # by session; set to stop the job
        self.blocks = self._layout()
        self.url = ""  # known when it is open

    def open(self, host: str, port: int | None, accounts: list[tuple[str, str]] | None, max_upload: int) -> str:
        """Serve the page in the background and return its address.

        Args:
            port: None is the first free one from 7860 on.
            accounts: names and passwords, one of which is asked for; None asks for none.
            max_upload: size of the largest upload in MB.

        Raises:
            InputError: the address cannot be used.
        """
        self.blocks.queue(max_size=WAITING, default_concurrency_limit=1)
        try:
            _, self.url, _ = self.blocks.launch(
                server_name=host,
                server_port=port,
                auth=accounts,
                max_file_size=f"{max_upload}mb",
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
                enable_monitoring=False,
                run_history=False,
                footer_links=["api"],
                css=STYLE,
                app_kwargs={"middleware": [Middleware(_NoProxy)]},
            )
        except OSError as error:
            where = f"port {port}" if port else "a port from 7860 to 7959"
            raise InputError(f"--host {host}: {where} cannot be used; give another --port or --host") from error
        return self.url

    def close(self) -> None:
        """Stop the running job and the server."""
        for stopped in list(self._running.values()):
            stopped.set()
        self.blocks.close(verbose=False)
        self._lives.clear()
        with self._turn, self._hearing:  # a job that it stopped has removed its files
            pass

    def look(self, video: str | None, start: float | None) -> tuple[np.ndarray | None, list[Box], str, str]:
        """The first frame with its faces boxed, the boxes, whom to dub, and a note."""
        if video is None:
            return None, [], "largest", ""
        with _one_line(video):
            seen = preview(video, start or 0.0)
        if not seen.boxes:
            return seen.picture, [], "largest", "No face in the first seconds. Faces are searched for in every frame."
        count = len(seen.boxes)
        note = "1 face" if count == 1 else f"{count} faces: click the one to dub"
        return boxed(seen.picture, seen.boxes), seen.boxes, "largest", f"{note} (at {seen.seconds:.2f} s)"

    def pick(self, picture: np.ndarray, boxes: list[Box], click: gr.SelectData) -> tuple[np.ndarray, str]:
        """The picture with the clicked face marked, and a point in that face for `--face-at`."""
        chosen = face_at(boxes, *click.index)
        if chosen is None:
            return boxed(picture, boxes), "largest"
        x1, y1, x2, y2 = boxes[chosen]
        return boxed(picture, boxes, chosen), f"{(x1 + x2) // 2},{(y1 + y2) // 2}"

    def dub(
        self,
        video: str | None,
        sound: str | None,
        person: str,
        start: float | None,
        end: float | None,
        length: str,
        checkpoint: str,
        missing_face: str,
        keep_fps: bool,
        heatmaps: bool,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio looks for it there)
    ) -> tuple[str, str | None, str]:
        """Dub a video: the result, the heatmap view if `heatmaps`, and the summary.

        `person` is largest, left, right, all, a number from the left, or X,Y: a pixel in the face. `start` and `end`
        are seconds of the video; an `end` of 0 is the video's. `length` is sound, video or shorter.
        """
        with self._job(request.session_hash) as stopped, _one_line(video, sound, self.folder):
            if video is None or sound is None:
                raise InputError("give a video and a sound")
            progress(0, desc="Loading the networks")
            dubber = self._dubber(checkpoint)
            folder = self.folder / uuid.uuid4().hex
            output, views = folder / f"{short_stem(Path(video))}-dubbed.mp4", folder / "heatmaps.mp4"
            summary = dubber.dub(
                self._prepared(video, start or 0.0, end or None, keep_fps),
                sound,
                output,
                **_whom(person),
                length=length,
                missing_face=missing_face,
                visualize=views if heatmaps else None,
                progress=_shown(progress, stopped),
            )
            return str(output), str(views) if heatmaps else None, str(summary).replace(str(folder) + os.sep, "")

    def stop(self, request: gr.Request) -> None:
        """Stop the session's job."""
        stopped = self._running.get(request.session_hash or "")
        if stopped is not None:
            stopped.set()

    def leave(self, request: gr.Request) -> None:
        """Stop the job of a session whose tab is closed, and forget its voice."""
        self.stop(request)
        self._lives.pop(request.session_hash or "", None)

    def prepare(
        self,
        video: str | None,
        person: str,
        start: float | None,
        end: float | None,
        checkpoint: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio looks for it there)
    ) -> str:
        """Make the session's live voice."""
        with self._job(request.session_hash) as stopped, _one_line(video, self.folder):
            if video is None:
                raise InputError("give a video")
            progress(0, desc="Loading the networks")
            prepared = self._prepared(video, start or 0.0, end or None, False)
            dubber = self._dubber(checkpoint, 1)
            options = {**_whom(person), "progress": _shown(progress, stopped)}
            live = dubber.live(prepared, **options)
            silence = np.zeros(round((live.latency + 0.1) * SAMPLE_RATE), np.float32)
            list(live.hear(silence))  # the first pictures take longer
            live = dubber.live(prepared, **options)
            self._lives[request.session_hash or ""] = live
            return f"ready: the mouth follows the voice after {1000 * live.latency:.0f} ms and the time to compute it"

    def hear(self, piece: str | None, request: gr.Request) -> Any:
        """The latest picture that a piece of the session's voice completes."""
        live = self._lives.get(request.session_hash or "")
        if live is None:
            raise gr.Error("press Prepare first", print_exception=False)
        if piece is None:
            return gr.skip()
        with self._hearing, _one_line(piece):
            pictures = list(live.hear(read_audio(piece)))
        return pictures[-1] if pictures else gr.skip()

    @contextlib.contextmanager
    def _job(self, session: str | None) -> Iterator[threading.Event]:
        with self._turn:
            stopped = self._running[session or ""] = threading.Event()
            try:
                yield stopped
            except _Stopped:
                raise gr.Error("stopped", print_exception=False) from None
            finally:
                del self._running[session or ""]

    def _prepared(self, video: str, start: float, end: float | None, keep_fps: bool) -> Prepared:
        """The part of the upload, with what earlier dubs of it have found. An upload's path names its content."""
        key = (video, start, end, keep_fps)
        if key not in self._known:
            options = DubOptions(start=start, end=end, keep_fps=keep_fps)
            self._known[key] = Prepared.of(video, probe(video), options)
        self._known[key] = self._known.pop(key)
        while len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        return self._known[key]

    def _dubber(self, checkpoint: str, batch_size: int | None = None) -> Dubber:
        """The networks of a checkpoint; on the CPU the same for every batch size."""
        if self.device.type == "cpu":
            batch_size = None
        key = checkpoint, batch_size
        if key not in self._dubbers:
            self._dubbers[key] = Dubber(self.checkpoints[checkpoint], self.device, batch_size=batch_size)
        return self._dubbers[key]

    def _layout(self) -> gr.Blocks:
        with gr.Blocks(title="Visual dubbing", analytics_enabled=False, delete_cache=(60, KEPT)) as blocks:
            gr.Markdown(CONSENT)
            inputs = self._inputs()
            with gr.Tabs():
                with gr.Tab("Dub"):
                    self._results(inputs)
                with gr.Tab("Live voice"):
                    self._live_voice(inputs)
            blocks.unload(self.leave)
        return blocks

    def _inputs(self) -> list[gr.components.Component]:
        """The upper part of the page; returns the inputs of `dub`."""
        with gr.Row():
            camera = gr.WebcamOptions(mirror=False)  # mirroring needs an ffmpeg binary
            video = gr.Video(label="Video", sources=["upload", "webcam"], webcam_options=camera, elem_id="video")
            faces = gr.Image(label="Faces", interactive=False, format="jpeg", buttons=[], elem_id="faces")
        with gr.Row():
            with gr.Column():
                sound = gr.Audio(
                    label="Sound",
                    sources=["upload", "microphone"],
                    type="filepath",
                    editable=False,
                    buttons=[],
                    elem_id="sound",
                )
                bundled = [ASSETS / "speaker.mp4", ASSETS / "speech.wav"]
                if all(path.is_file() for path in bundled):
                    gr.Examples([bundled], [video, sound], label="Example", api_visibility="private")
            with gr.Column():
                note = gr.Markdown(elem_id="note")
                person = gr.Dropdown(
                    PEOPLE, value="largest", allow_custom_value=True, label="Whom to dub", elem_id="person"
                )
                with gr.Row():
                    start = gr.Number(0, label="Start of the video (s)", minimum=0, min_width=80)
                    end = gr.Number(0, label="End (s; 0: its end)", minimum=0, min_width=80)
                length = gr.Radio(LENGTHS, value="sound", label="Length of the output")
        with gr.Accordion("Options", open=False):
            names = list(self.checkpoints)
            checkpoint = gr.Dropdown(names, value=names[0], label="Checkpoint")
            missing_face = gr.Radio(GAPS, value="pass", label="Frames without a face")
            keep_fps = gr.Checkbox(label="Keep the video's frame rate (otherwise 25 a second)")
            heatmaps = gr.Checkbox(label="Show the heatmaps and generated crops too")
        for component in (video, sound):
            _refuse_addresses(component)
        boxes = gr.State([])
        looks = [video.change, start.submit, start.blur]
        gr.on(looks, self.look, [video, start], [faces, boxes, person, note], api_visibility="private")
        faces.select(self.pick, [faces, boxes], [faces, person], show_progress="hidden", api_visibility="private")
        return [video, sound, person, start, end, length, checkpoint, missing_face, keep_fps, heatmaps]

    def _results(self, inputs: list[gr.components.Component]) -> None:
        """The lower part of the page: what runs `dub`, and what it returns."""
        with gr.Row():
            button = gr.Button("Dub", variant="primary", elem_id="dub")
            stop = gr.Button("Stop", variant="stop", elem_id="stop")
        summary = gr.Textbox(label="Summary", interactive=False, lines=2, elem_id="summary")
        with gr.Row():
            source = gr.Video(label="Source", interactive=False, buttons=[], elem_id="source")
            result = gr.Video(label="Dub", interactive=False, buttons=["download"], elem_id="result")
        both = gr.Button("Play both", size="sm")
        views = gr.Video(label="Source, heatmap, generated crop, dub", visible=False, elem_id="views")
        video, start, heatmaps = inputs[0], inputs[3], cast(gr.Checkbox, inputs[-1])
        shown: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        job = button.click(
            self.dub, inputs, [result, views, summary], show_progress_on=summary, concurrency_id="dub", api_name="dub"
        )
        halt = stop.click(self.stop, cancels=job, queue=False, api_visibility="private")
        halt.then(lambda: "stopped", None, summary, **shown)
        button.click(lambda video: video, video, source, **shown)
        heatmaps.change(lambda wanted: gr.Video(visible=wanted), heatmaps, views, **shown)
        both.click(None, start, None, js=PLAY_BOTH, api_visibility="private")

    def _live_voice(self, inputs: list[gr.components.Component]) -> None:
        """The tab that speaks into the microphone and shows the mouth."""
        gr.Markdown("Prepare the video above, then record: the mouth follows the voice.")
        button = gr.Button("Prepare", variant="primary", elem_id="prepare")
        ready = gr.Textbox(label="State", interactive=False, elem_id="ready")
        with gr.Row():
            voice = gr.Audio(
                label="Voice",
                sources=["microphone"],
                streaming=True,
                type="filepath",
                editable=False,
                buttons=[],
                elem_id="voice",
            )
            picture = gr.Image(label="Live", interactive=False, format="jpeg", buttons=[], elem_id="live")
        _refuse_addresses(voice)
        video, _, person, start, end, _, checkpoint, *_ = inputs
        given = [video, person, start, end, checkpoint]
        button.click(self.prepare, given, ready, concurrency_id="dub", api_visibility="private")
        voice.stream(
            self.hear,
            voice,
            picture,
            stream_every=0.1,
            show_progress="hidden",
            api_visibility="private",
        )


class _Stopped(Exception):
    """Raised in the pipeline when its job is to stop."""


def _shown(progress: gr.Progress, stopped: threading.Event) -> Callable[..., Iterable]:
    """The `DubOptions.progress` that shows stage, rate and time left on the page."""

    def shown(frames: Iterable, stage: str, total: int | None, **_: Any) -> Iterator:
        begun = time.monotonic()
        for done, frame in enumerate(frames, 1):
            if stopped.is_set():
                raise _Stopped
            yield frame
            rate = done / max(time.monotonic() - begun, 1e-3)
            left = "" if total is None else f", {max(0, total - done) / rate:.0f} s left"
            progress((done, total), desc=f"{STAGES.get(stage, stage)}: {rate:.1f} frames/s{left}", unit="frames")

    return shown


def _whom(person: str) -> dict[str, Any]:
    """The options of `dub` for a choice of "Whom to dub": as `--face`, or X,Y as `--face-at`."""
    try:
        return {"face_at": parse_point(person)} if "," in person else {"face": parse_face(person)}
    except argparse.ArgumentTypeError as error:
        raise InputError(f"whom to dub: {error}") from error


@contextlib.contextmanager
def _one_line(*paths: str | Path | None) -> Iterator[None]:
    """Show an error as the command's line, with files named as the user knows them, without the server's folders."""
    try:
        yield
    except Exception as error:
        line = explanation(error)
        if line is None:
            raise
        for path in paths:
            if path is not None:
                line = line.replace(str(path), Path(path).name)
        raise gr.Error(line, duration=None, print_exception=False) from error


def _refuse_addresses(component: gr.components.Component) -> None:
    """Keep a client from making the server download a file: inputs are uploads."""
    move = component.async_move_resource_to_block_cache

    async def move_upload(path: str | Path | None) -> str | None:
        if path is not None and "://" in str(path):
            raise gr.Error(f"{component.label}: upload the file itself, not its address", print_exception=False)
        return await move(path)

    component.async_move_resource_to_block_cache = move_upload  # type: ignore[assignment]


class _NoProxy:
    """Middleware: refuses Gradio's route that passes on other servers' files."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and "/file=http" in scope["path"]:
            await PlainTextResponse("not a file of this server", 403)(scope, receive, send)
            return
        await self.app(scope, receive, send)
