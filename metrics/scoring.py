"""The scores of one clip: every metric accumulated frame by frame, in constant memory."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import nn

from checkpoints import fetch
from media.audio import mfcc
from media.crop import STSA, CropForm
from media.errors import InputError
from media.heatmap import LIP_POINTS
from media.landmarks import select131
from media.pictures import to_tensor
from media.sound import read_audio
from media.video import probe
from metrics.fid import FeatureStatistics, inception_features, load_inception
from metrics.image import mse, psnr, ssim
from metrics.landmarks import lip_landmark_distance
from metrics.motion import dynamic_motion_error, load_raft, optical_flow
from metrics.pairs import Batch, FrameCount, FramePair, Pair
from metrics.perceptual import load_lpips, lpips
from metrics.sync import SyncEmbeddings
from metrics.tables import METRICS
from models.checkpoint import load_syncnet
from models.chung_syncnet import ChungSyncNet

WEIGHTS = {"lpips": "lpips", "fid": "fid", "lse_d": "syncnet", "lse_c": "syncnet", "dme": "raft"}
_LOAD = {"lpips": load_lpips, "fid": load_inception, "syncnet": load_syncnet, "raft": load_raft}

SMALLEST = {"ssim": 11, "lpips": 31}  # px a side, of the images compared

NO_GENERATED_FACE = "no face in the generated frame"
NO_REFERENCE_FACE = "no face in the reference frame"
GENERATED_LONGER = "the generated video is longer"
REFERENCE_LONGER = "the reference video is longer"


@dataclass(frozen=True)
class Options:
    """The settings of an evaluation.

    Attributes:
        metrics: keys of `tables.METRICS`.
        region: "face", the crop of the reference's face box, or "frame", the whole frame.
        crop: the form of the face crops.
        device: "cpu" or a CUDA device.
        unpaired: the videos compared with are those that were dubbed, which say other words.
    """

    metrics: tuple[str, ...] = tuple(METRICS)
    region: str = "face"
    crop: CropForm = STSA
    device: str = "cpu"
    unpaired: bool = False

    @property
    def needs_faces(self) -> bool:
        return self.region == "face" or bool({"liplmd", "lse_d", "lse_c"} & set(self.metrics))


FrameRanges = list[list[int]]  # first and last index of runs of frames on the 25 fps timeline


def add_frame(ranges: FrameRanges, index: int) -> None:
    """Add the frame `index`, which is later than all frames in `ranges`."""
    if ranges and ranges[-1][1] + 1 == index:
        ranges[-1][1] = index
    else:
        ranges.append([index, index])


def count_frames(left_out: dict[str, FrameRanges]) -> int:
    """Number of frames in the ranges of all reasons together."""
    return sum(last - first + 1 for ranges in left_out.values() for first, last in ranges)


@dataclass
class ClipResult:
    """The scores of one pair of videos.

    Attributes:
        name: the videos' common name.
        values: metric -> value; None if it could not be computed. FID is absent, as it belongs to the whole set.
        frames: frames compared.
        left_out: reason -> frames that no metric compared.
        notes: further remarks on the numbers.
        sync_offset: frames by which the sound must move later to fit best; None if LSE was not computed.
        without_lips: reason -> frames that were compared, but not by LipLMD.
    """

    name: str
    values: dict[str, float | None]
    frames: int
    left_out: dict[str, FrameRanges]
    notes: list[str] = field(default_factory=list)
    sync_offset: int | None = None
    without_lips: dict[str, FrameRanges] = field(default_factory=dict)


def load_networks(metrics: Sequence[str], device: str = "cpu") -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Load the pretrained networks that `metrics` need.

    Returns:
        Networks by their name in the weights' manifest, and metric -> footnote for metrics that cannot be computed. The
        footnote names the missing file, its URL and the command that fetches it, or the missing package.

    Raises:
        InputError: a file does not hold the network that it should.
    """
    networks: dict[str, nn.Module] = {}
    absent: dict[str, str] = {}
    for name in dict.fromkeys(WEIGHTS[metric] for metric in metrics if metric in WEIGHTS):
        users = [metric for metric in metrics if WEIGHTS.get(metric) == name]
        try:
            path = fetch.require(name, ", ".join(METRICS[metric].label for metric in users))
        except InputError as missing:
            absent |= dict.fromkeys(users, str(missing))
            continue
        try:
            networks[name] = _LOAD[name](path).to(device)
        except ImportError as missing:
            absent |= dict.fromkeys(users, f"{missing}; run `pip install -r requirements.txt`")
    return networks, absent


def clip_mean(values: np.ndarray) -> float | None:
    """Mean of a clip's per-frame values, or of a set's per-clip values.

    NaN marks a frame without a value. The mean is over the finite values, as the infinite PSNR of identical frames
    would hide all others; it is infinite only if all values are. None if there is no value at all.
    """
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.inf


class ClipScorer:
    """Accumulates the metrics of one clip of one method.

    Args:
        options: what to compute.
        networks: from `load_networks`.
        known_features: a cache of FID's features of the true frames, by frame index, shared by the scorers of all
            methods; None if there is only one method.
    """

    def __init__(
        self,
        options: Options,
        networks: dict[str, nn.Module],
        known_features: dict[int, np.ndarray] | None = None,
    ):
        self._options = options
        self._networks = networks
        self._per_frame: dict[str, list[np.ndarray]] = {name: [] for name in self._frame_metrics()}
        self._motion: list[np.ndarray] = []
        self._last: FramePair | None = None
        self._sync: SyncEmbeddings | None = None
        if "syncnet" in networks:
            self._sync = SyncEmbeddings(cast(ChungSyncNet, networks["syncnet"]), options.device)
        self._sync_box: np.ndarray | None = None
        self._frames = self._faces = 0  # frames compared, and frames with a generated face
        self._faceless: dict[str, FrameRanges] = defaultdict(list)
        self._known_features = known_features
        self.sets = FrechetSets() if "fid" in networks else None

    def _frame_metrics(self) -> dict[str, Callable[[Batch], np.ndarray]]:
        functions: dict[str, Callable[[Batch], torch.Tensor]] = {
            "psnr": lambda batch: psnr(batch.generated, batch.reference),
            "ssim": lambda batch: ssim(batch.generated, batch.reference),
            "mse": lambda batch: mse(batch.generated, batch.reference),
        }
        if "lpips" in self._networks:
            functions["lpips"] = lambda batch: lpips(self._networks["lpips"], batch.generated, batch.reference)
        wanted: dict[str, Callable[[Batch], np.ndarray]] = {
            name: partial(_array, function) for name, function in functions.items() if name in self._options.metrics
        }
        if "liplmd" in self._options.metrics:
            wanted["liplmd"] = _lip_distances
        return wanted

    def update(self, batch: Batch) -> dict[str, np.ndarray]:
        """Score a batch; returns metric -> values, one for each of `batch.compared`.

        Raises:
            InputError: the images are too small for a metric.
        """
        self._check_size(batch)
        self._frames += len(batch.compared)
        self._faces += sum(pair.generated_face is not None for pair in batch.pairs)
        self._count_faces(batch)
        values = {}
        if batch.compared:
            values = {name: function(batch) for name, function in self._frame_metrics().items()}
            for name, each in values.items():
                self._per_frame[name].append(each)
        if batch.compared and self.sets is not None:
            self.sets.update(self._networks["fid"], batch, self._known_features)
        if self._sync is not None:
            self._follow_lips(self._sync, batch)
        if "raft" in self._networks:
            self._follow_motion(batch)
        return values

    def _check_size(self, batch: Batch) -> None:
        if not batch.compared:
            return
        height, width = batch.generated.shape[-2:]
        for metric, smallest in SMALLEST.items():
            if metric in self._per_frame and min(height, width) < smallest:
                label = METRICS[metric].label
                raise InputError(f"{width}x{height} pixels are too small for {label}, which needs {smallest} a side")

    def _count_faces(self, batch: Batch) -> None:
        if not self._options.needs_faces:
            return
        for pair in batch.pairs:
            if pair.reference_face is None and pair.reference is not None:
                add_frame(self._faceless[NO_REFERENCE_FACE], pair.index)
            elif pair.generated_face is None:
                add_frame(self._faceless[NO_GENERATED_FACE], pair.index)

    def _follow_lips(self, sync: SyncEmbeddings, batch: Batch) -> None:
        for pair in batch.pairs:
            # SyncNet needs every frame: a hidden face keeps its last box.
            face = pair.generated_face or pair.reference_face
            self._sync_box = self._sync_box if face is None else face.box
            if self._sync_box is not None:
                sync.add(pair.index, pair.generated, self._sync_box)

    def _follow_motion(self, batch: Batch) -> None:
        for pair in batch.compared:
            if self._last is not None and self._last.index + 1 == pair.index:
                self._motion.append(self._motion_error(self._last, pair))
            self._last = pair

    def _motion_error(self, first: FramePair, second: FramePair) -> np.ndarray:
        assert first.reference is not None and second.reference is not None  # the batch compares no pair without it
        frames = [first.generated, first.reference, second.generated, second.reference]
        if self._options.region == "face":  # one box for all: the crop must not move
            assert first.reference_face is not None
            x1, y1, x2, y2 = first.reference_face.box
            frames = [frame[y1:y2, x1:x2] for frame in frames]
        images = to_tensor(np.stack(frames), self._options.device)
        generated, reference = optical_flow(self._networks["raft"], images[:2], images[2:]).split(1)
        return dynamic_motion_error(generated, reference)

    def finish(self, pair: Pair, count: FrameCount) -> ClipResult:
        """The clip's scores, after its last batch.

        Raises:
            InputError: no frame could be compared.
        """
        scored = self._faces if self._options.unpaired else self._frames
        if not scored:
            which = "reference" if self._faceless[NO_REFERENCE_FACE] else "generated"
            raise InputError(f"no face was found in the {which} video in any frame")
        values: dict[str, float | None] = {metric: None for metric in self._options.metrics if metric != "fid"}
        result = ClipResult(pair.name, values, scored, {})
        if self._options.region == "face":
            result.left_out |= self._faceless
        elif "liplmd" in self._options.metrics:
            result.without_lips |= self._faceless
        for reason, frames in ((GENERATED_LONGER, count.only_generated), (REFERENCE_LONGER, count.only_reference)):
            if frames and not self._options.unpaired:
                result.left_out[reason] = [[count.shared, count.shared + frames - 1]]
        for name, each in self._per_frame.items():
            joined = np.concatenate(each)
            values[name] = clip_mean(joined)
            identical = int(np.isinf(joined).sum())
            if 0 < identical < len(joined):
                result.notes.append(f"{identical} frames are identical; PSNR is the mean over the others")
        if "raft" in self._networks:
            self._finish_motion(count.shared - 1, result)
        if self._sync is not None:
            self._finish_sync(self._sync, pair, result)
        return result

    def _finish_motion(self, pairs: int, result: ClipResult) -> None:
        errors = np.concatenate(self._motion) if self._motion else np.zeros(0)
        result.values["dme"] = clip_mean(errors)
        still, faceless = int(np.isnan(errors).sum()), pairs - len(errors)
        reasons = [f"in {still} nothing of the reference moves by more than a pixel"] if still else []
        reasons += [f"{faceless} lack a face"] if faceless else []
        if reasons:
            found = f"DME over {pairs - still - faceless} of" if still + faceless < pairs else "no DME in"
            result.notes.append(f"{found} {pairs} frame pairs: {', '.join(reasons)}")
        elif not pairs:
            result.notes.append("one frame alone: no DME")

    def _finish_sync(self, sync: SyncEmbeddings, pair: Pair, result: ClipResult) -> None:
        if self._sync_box is None:
            result.notes.append("no face in either video: no LSE")
            return
        paths = (
            [pair.generated] if pair.reference is None or self._options.unpaired else [pair.generated, pair.reference]
        )
        source = next((path for path in paths if probe(path).has_sound), None)
        if source is None:
            which = "neither video has" if len(paths) > 1 else "the generated video has no"
            result.notes.append(f"{which} sound: no LSE")
            return
        try:
            sound = read_audio(source)
        except InputError as error:  # the other metrics need no sound
            result.notes.append(f"no LSE: {error}")
            return
        if source == pair.reference:
            result.notes.append("the generated video has no sound: LSE with the reference's")
        score = sync.score(mfcc(sound))
        if score is None:
            result.notes.append("less than 0.2 s of picture and sound: no LSE")
            return
        result.sync_offset = score.offset
        for name, value in (("lse_d", score.distance), ("lse_c", score.confidence)):
            if name in result.values:
                result.values[name] = value


def _array(metric: Callable[[Batch], torch.Tensor], batch: Batch) -> np.ndarray:
    return metric(batch).double().cpu().numpy()


def _lip_distances(batch: Batch) -> np.ndarray:
    """LipLMD of each compared pair; NaN if a face is missing, as it may be in a whole frame."""
    values = np.full(len(batch.compared), np.nan)
    for place, pair in enumerate(batch.compared):
        if pair.generated_face is not None and pair.reference_face is not None:
            made, true = (select131(face.landmarks)[LIP_POINTS] for face in (pair.generated_face, pair.reference_face))
            values[place] = lip_landmark_distance(made, true, pair.reference_face.box)
    return values


class FrechetSets:
    """FID's statistics of generated frames and of the true frames compared with them."""

    def __init__(self):
        self.generated = FeatureStatistics()
        self.reference = FeatureStatistics()

    def update(self, network: nn.Module, batch: Batch, known: dict[int, np.ndarray] | None = None) -> None:
        """Add the compared frames of `batch`; `known` caches the features of true frames by index."""
        self.generated.update(inception_features(network, batch.generated).cpu().numpy())
        indices = [pair.index for pair in batch.compared]
        if known is not None and all(index in known for index in indices):
            features = np.stack([known[index] for index in indices])
        else:
            features = inception_features(network, batch.reference).cpu().numpy()
            if known is not None:
                known.update(zip(indices, features, strict=True))
        self.reference.update(features)

    def merge(self, other: "FrechetSets") -> None:
        """Add all frames of `other`."""
        self.generated.merge(other.generated)
        self.reference.merge(other.reference)
