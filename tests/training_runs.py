"""Small clip files that are drawn rather than recorded, and training runs on them in processes of their own."""

import contextlib
import importlib
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import cv2
import numpy as np

from data_prep.clips import ClipData, encode_face, write_clip
from data_prep.manifest import Manifest
from media.heatmap import LIP_POINTS
from media.landmarks import edges_of, positions_of

# A clean process that has imported what a run needs, from which the runs are forked: an import takes longer than a run.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["train_heatmap", "train_face", "train_sync", "finetune_e2e", "training_runs"])

TINY = {
    "train_heatmap": ["model.width=0.03", "model.layers=1", "train.batch_size=2"],
    "train_face": ["model.width=0.03", "train.batch_size=2"],
    "train_sync": ["model.width=0.03", "train.batch_size=4", "negatives=2"],
    "finetune_e2e": ["train.batch_size=2"],
}
# The demo's networks take "upright" crops, and have their own forms; these tests take the smaller crops of the drawn
# clips, networks with all of STSA's parts, and Wav2Lip's expert.
FORMS = {
    "train_heatmap": ["model.crop=stsa", "model.form=paper", "model.audio=mel"],
    "train_face": ["model.crop=stsa", "model.form=paper"],
    "train_sync": ["model.form=wav2lip", "model.audio=mel", "loss=shifted"],
}
STEPS = ["train.steps=2", "train.save_every=1", "train.validate_every=2"]
COMMON = ["data.workers=0", "data.augment=false", "train.validation_windows=2", "train.warmup=0", "train.log_every=1"]


FRAMING = positions_of(edges_of("left_eyebrow"))[:2]  # landmarks at the corners of the tests' faces


def write_clips(folder: Path, count: int = 2, frames: int = 24, first: int = 0) -> Path:
    """Faces whose mouths open and close with a tone's loudness, different in each clip."""
    for number in range(first, first + count):
        random = np.random.default_rng(number)
        loud = 0.5 + 0.5 * np.sin(np.arange(frames + 10) / 2 + random.uniform(0, 6))
        points = random.uniform(0.2, 0.8, (132, 2)).astype(np.float32)
        points[FRAMING] = [[5 / 128, 5 / 128], [123 / 128, 123 / 128]]  # so that STSA's crop is the whole picture
        skin, faces, landmarks = int(random.integers(120, 180)), [], []
        for i in range(frames):
            opening = 0.02 + 0.08 * loud[i]
            angle = np.linspace(0, 2 * np.pi, len(LIP_POINTS), endpoint=False)
            moved = points.copy()
            moved[LIP_POINTS] = np.stack([0.5 + 0.15 * np.cos(angle), 0.75 + opening * np.sin(angle)], axis=1)
            face = np.full((128, 128, 3), skin, np.uint8)
            cv2.ellipse(face, (64, 96), (19, int(128 * opening)), 0, 0, 360, (120, 20, 20), -1)
            faces.append(encode_face(face, np.array([0, 0, 128, 128]), 95, 128))
            landmarks.append(moved * 128 + 10)
        samples = np.arange(frames * 640) / 16000
        envelope = np.interp(samples * 25, np.arange(frames + 10), loud)
        wav = (0.4 * envelope * np.sin(2 * np.pi * 220 * samples)).astype(np.float32)
        # Tests of training need no spectrogram of the tone: bands as loud as it is.
        level = np.interp(np.arange(len(wav) // 200 + 1) / 3.2, np.arange(frames + 10), loud)
        mel = np.clip(8 * level[:, None] - 4 + random.normal(0, 0.1, (len(level), 80)), -4, 4).astype(np.float32)
        boxes = [np.array([10, 10, 138, 138], np.int32)] * frames
        data = ClipData(faces, landmarks, boxes, list(range(frames)), wav, {"mel": mel})
        write_clip(folder / f"clip_{number}.safetensors", data)
        Manifest(folder).add([{"id": f"clip_{number}", "outcome": "ok"}])
    return folder


def arguments(script: str, clips: Path, output: Path, *settings: str, config: str | None = None) -> list[str]:
    """The command line of a tiny run of `script` on `clips`, with its demo config's settings or another config."""
    name = config or ("demo_speech.yaml" if script == "train_heatmap" else f"demo_{script.split('_')[1]}.yaml")
    path = Path(__file__).resolve().parent.parent / "configs" / name
    data = [f"data.train={clips}", f"data.val={clips}", f"output={output}"]
    form = FORMS.get(script, []) if config is None else []
    return ["--config", str(path), *data, *form, *TINY[script], *COMMON, *settings]


def run(script: str, arguments: list[str], before: Callable[[], None] | None = None, **environment: str) -> int:
    """Run a script's main in a process of its own; returns its exit code, -9 where it was killed."""
    process = launch(script, arguments, before, **environment)
    process.join()
    return process.exitcode


def launch(script: str, arguments: list[str], before: Callable[[], None] | None = None, **environment: str):
    process = _SERVER.Process(target=_child, args=(script, arguments, before, environment))
    process.start()
    return process


def run_group(script: str, arguments: list[str], befores: Sequence[Callable[[], None] | None], **environment: str):
    """Run a script in one process for each of `befores`, as `accelerate launch` would; returns their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    group = {"WORLD_SIZE": str(len(befores)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} | environment
    processes = [
        launch(script, arguments, before, RANK=str(rank), LOCAL_RANK=str(rank), **group)
        for rank, before in enumerate(befores)
    ]
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def write_checkpoints(folder: Path, mutual_information: bool = False, demo: bool = False) -> list[str]:
    """Fresh small networks, as `finetune_e2e` starts from them, in the demo's forms or the paper's; their settings."""
    from networks import built, spoken

    from models.checkpoint import save_checkpoint

    networks = {
        "heatmap_predictor": spoken() if demo else built("heatmap_predictor", width=0.03, layers=1),
        "face_synthesizer": built(
            "face_synthesizer", "region" if demo else "paper", width=0.03, mutual_information=mutual_information
        ),
    }
    save_checkpoint(folder, networks, {name: network.config for name, network in networks.items()})
    return [f"heatmap_predictor={folder}", f"face_synthesizer={folder}"]


def scalars_and_images(output: Path) -> tuple[dict[str, list[float]], set[str]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(output / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()
    scalars = {tag: [event.value for event in events.Scalars(tag)] for tag in tags["scalars"]}
    return scalars, set(tags["images"])


def last_error(log: Path) -> str:
    """The one line that a failed run wrote; progress bars may precede it."""
    text = log.read_text()
    assert "Traceback" not in text
    errors = [line for line in text.replace("\r", "\n").splitlines() if "error:" in line]
    assert len(errors) == 1 and errors[0] == text.splitlines()[-1].split("\r")[-1]
    return errors[0]


def _child(script: str, arguments: list[str], before: Callable[[], None] | None, environment: dict) -> None:
    import torch

    os.environ.update({"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"} | environment)
    torch.set_num_threads(1)
    sys.argv = [f"{script}.py", *arguments]
    log = os.environ.get("RUN_LOG")
    with contextlib.ExitStack() as stack:
        if log:
            stream = stack.enter_context(Path(log).open("w"))
            stack.enter_context(contextlib.redirect_stdout(stream))
            stack.enter_context(contextlib.redirect_stderr(stream))
        if before is not None:
            before()
        sys.exit(importlib.import_module(script).main())


class InFloat64:
    """Has the process compute in float64, then does `before`: another order of sums is then no more than 1e-12 off.

    In float32, Adam magnifies the rounding, which differs between processors: where a gradient is next to nothing, its
    first steps go by the sign alone.
    """

    def __init__(self, before: Callable[[], None] | None = None):
        self.before = before

    def __call__(self) -> None:
        import torch

        from data_prep.windows import ClipDataset

        def doubled(value: object) -> object:
            return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

        read = ClipDataset.__getitem__

        def read_doubled(*args) -> dict:
            return {name: doubled(value) for name, value in read(*args).items()}

        mock.patch.object(ClipDataset, "__getitem__", read_doubled).start()
        torch.set_default_dtype(torch.float64)
        if self.before is not None:
            self.before()


class Kill:
    """Kills the process with SIGKILL at the `count`th call of a function, before or after the function has worked.

    Calls with a path that has `other` in it do not count.
    """

    def __init__(self, module: str, name: str, count: int, after: bool = False, other: str | None = None):
        self.module, self.name, self.count, self.after, self.other = module, name, count, after, other

    def __call__(self) -> None:
        owner = importlib.import_module(self.module)
        *parents, name = self.name.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        function = getattr(owner, name)

        def wrapped(*args, **kwargs):
            if any(isinstance(path, Path) and self.other in path.parts for path in args):
                return function(*args, **kwargs)
            self.count -= 1
            if self.count == 0 and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args, **kwargs)
            if self.count == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, name, wrapped)
