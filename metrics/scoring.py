"""The scores of one clip: every metric accumulated frame by frame, in constant memory."""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from media.audio import mfcc
from media.crop import STSA, CropForm
from media.errors import InputError
from media.face import Face
from media.heatmap import LIP_POINTS
from media.landmarks import select131
from media.pictures import to_tensor
from media.place import Place, crop_face
from media.sound import read_audio
from media.video import probe
from metrics.flicker import flicker
from metrics.identity import aligned, cosine_similarity
from metrics.image import mse, psnr, ssim
from metrics.landmarks import lip_landmark_distance
from metrics.lips import closures, lip_gap, lip_leak, silent_frames
from metrics.motion import dynamic_motion_error, optical_flow
from metrics.pairs import Batch, FrameCount, FramePair, Pair
from metrics.perceptual import lpips
from metrics.sets import ImageSets, VideoSets
from metrics.sync import DetectedBoxes, ExpertEmbeddings, SyncEmbeddings
from metrics.tables import METRICS, SETS
from metrics.truth import Truth, fingerprint
from models.arcface import ArcFace, embed
from models.chung_syncnet import ChungSyncNet
from models.i3d import I3D
from models.s3fd import S3FD
from models.sync_expert import SyncExpert

_OF_FACES = {"liplmd", "lse_d", "lse_c", "csim", "lipleak", "closures", "sync"}

SMALLEST = {"ssim": 11, "lpips": 31}  # px a side, of the images compared

NO_GENERATED_FACE = "no face in the generated frame"
NO_CROP = "no generated crop"
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
        protocol: how the videos were made, as the user says: "authors", "best" (see `metrics.reproduce`) or "".
        lse_boxes: what SyncNet sees of a frame: "mesh", the box of MediaPipe's landmarks; "s3fd", the published
            pipeline's detector; "frame", all of it, as Wav2Lip's script does for LRS2, LRS3 and LRW.
        bare: the images compared are the bare crops, and only the metrics of motion, lips and sound see whole frames.
    """

    metrics: tuple[str, ...] = tuple(METRICS)
    region: str = "face"
    crop: CropForm = STSA
    device: str = "cpu"
    unpaired: bool = False
    protocol: str = ""
    bare: bool = False
    lse_boxes: str = "mesh"

    @property
    def needs_faces(self) -> bool:
        return self.region == "face" or bool(_OF_FACES & set(self.metrics))


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
        values: metric -> value; None if it could not be computed. FID and FVD are absent: they belong to the whole set.
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
        networks: from `load_networks`, and "expert", a sync expert of this project.
        truth: what is known of the true video, shared by the scorers of all methods.
        crops: the true crops' video, if the bare crops are compared.
    """

    def __init__(
        self,
        options: Options,
        networks: dict[str, nn.Module],
        truth: Truth | None = None,
        crops: Path | None = None,
    ):
        self._options = options
        self._networks = networks
        self._per_frame: dict[str, list[np.ndarray]] = {name: [] for name in self._frame_metrics()}
        self._motion: list[np.ndarray] = []
        self._last: FramePair | None = None
        self._sync: SyncEmbeddings | None = None
        if "syncnet" in networks:
            self._sync = SyncEmbeddings(cast(ChungSyncNet, networks["syncnet"]), options.device)
        self._detected = DetectedBoxes(cast(S3FD, networks["s3fd"]), options.device) if "s3fd" in networks else None
        self._expert: ExpertEmbeddings | None = None
        if "expert" in networks:
            self._expert = ExpertEmbeddings(cast(SyncExpert, networks["expert"]), options.device)
        self._last_face: Face | None = None
        self._frames = self._faces = 0  # frames compared, and frames with a generated face
        self._faceless: dict[str, FrameRanges] = defaultdict(list)
        self._truth = truth or Truth(None)
        self._gaps: dict[int, tuple[float, float]] = {}  # frame -> lip gap, generated and true
        self._recent: list[FramePair] = []  # the last two frames, for flicker
        self._flicker: list[np.ndarray] = []
        self.sets: dict[str, ImageSets | VideoSets] = {}
        variant = "" if crops is None else f"-{fingerprint(crops)}"
        if "fid" in networks:
            self.sets["fid"] = ImageSets(networks["fid"], self._truth, variant)
        if "i3d" in networks:
            self.sets["fvd"] = VideoSets(cast(I3D, networks["i3d"]), self._truth, variant)

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
        if "arcface" in self._networks:
            wanted["csim"] = self._similarities
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
            for sets in self.sets.values():
                sets.update(batch)
        self._follow_lips(batch)
        if "raft" in self._networks:
            self._follow_motion(batch)
        if "flicker" in self._options.metrics:
            self._follow_flicker(batch)
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
            elif pair.crops is not None and not len(pair.crops):
                add_frame(self._faceless[NO_CROP], pair.index)

    def _follow_lips(self, batch: Batch) -> None:
        for pair in batch.pairs:
            both = (pair.generated_face, pair.reference_face)
            made, true = (float("nan") if face is None else float(lip_gap(face.landmarks)) for face in both)
            self._gaps[pair.index] = made, true
            # SyncNet and the expert need every frame: a hidden face keeps its last box.
            face = pair.generated_face or pair.reference_face
            self._last_face = face or self._last_face
            self._follow_sync(pair)
            if self._expert is not None and self._last_face is not None:
                self._expert.add(pair.index, pair.generated, self._last_face.landmarks)

    def _follow_sync(self, pair: FramePair) -> None:
        if self._sync is None:
            return
        if self._options.lse_boxes == "frame":
            self._sync.add(pair.index, pair.generated, None)
            return
        box = None if self._last_face is None else self._last_face.box
        if self._detected is not None:
            box = self._detected.box(pair.generated)
        if box is not None:
            self._sync.add(pair.index, pair.generated, box)

    def _similarities(self, batch: Batch) -> np.ndarray:
        """CSIM of each compared pair; NaN if a face is missing, as it may be in a whole frame."""
        values = np.full(len(batch.compared), np.nan)
        places, made, true = [], [], []
        for place, pair in enumerate(batch.compared):
            if pair.generated_face is not None and pair.reference_face is not None and pair.reference is not None:
                places.append(place)
                made.append(aligned(pair.generated, pair.generated_face.landmarks))
                true.append(aligned(pair.reference, pair.reference_face.landmarks))
        if places:
            network, device = cast(ArcFace, self._networks["arcface"]), self._options.device
            indices = [batch.compared[place].index for place in places]
            known = self._truth.rows(
                "csim", indices, lambda missing: embed(network, np.stack([true[i] for i in missing]), device)
            )
            values[places] = cosine_similarity(embed(network, np.stack(made), device), known)
        return values

    def _follow_flicker(self, batch: Batch) -> None:
        values = []
        for pair in batch.pairs:
            recent = [*self._recent, pair]
            if len(recent) == 3 and recent[0].index + 2 == pair.index:
                face = recent[1].reference_face or recent[1].generated_face
                if self._options.region == "frame" or face is not None:
                    place = None
                    if self._options.region == "face" and face is not None:  # one place for all: it must not move
                        place = self._options.crop.place(face.landmarks)
                    values.append(self._unsteadiness([each.generated for each in recent], place))
            self._recent = recent[-2:]
        self._flicker.append(np.array(values))

    def _unsteadiness(self, frames: list[np.ndarray], place: Place | None) -> float:
        if place is not None:
            frames = [crop_face(frame, place, self._options.crop.shape) for frame in frames]
        return float(flicker(*to_tensor(np.stack(frames), self._options.device)[:, None]))

    def _follow_motion(self, batch: Batch) -> None:
        for pair in batch.compared:
            if self._last is not None and self._last.index + 1 == pair.index:
                self._motion.append(self._motion_error(self._last, pair))
            self._last = pair

    def _motion_error(self, first: FramePair, second: FramePair) -> np.ndarray:
        assert first.reference is not None and second.reference is not None  # the batch compares no pair without it
        made, true = [first.generated, second.generated], [first.reference, second.reference]
        if self._options.region == "face":  # one box for all: the crop must not move
            assert first.reference_face is not None
            x1, y1, x2, y2 = first.reference_face.box
            made, true = ([frame[y1:y2, x1:x2] for frame in frames] for frames in (made, true))
        # The two flows are computed apart, so that a second method finds the same true one.
        reference = self._truth.rows("dme", [first.index], lambda missing: self._flow(true).cpu().numpy())
        return dynamic_motion_error(self._flow(made), torch.from_numpy(reference).to(self._options.device))

    def _flow(self, frames: list[np.ndarray]) -> torch.Tensor:
        images = to_tensor(np.stack(frames), self._options.device)
        return optical_flow(self._networks["raft"], images[:1], images[1:])

    def finish(self, pair: Pair, count: FrameCount) -> ClipResult:
        """The clip's scores, after its last batch.

        Raises:
            InputError: no frame could be compared.
        """
        scored = self._faces if self._options.unpaired else self._frames
        if not scored:
            which = "reference" if self._faceless[NO_REFERENCE_FACE] else "generated"
            raise InputError(f"no face was found in the {which} video in any frame")
        values: dict[str, float | None] = dict.fromkeys(
            metric for metric in self._options.metrics if metric not in SETS
        )
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
        if "flicker" in values and self._flicker:
            values["flicker"] = clip_mean(np.concatenate(self._flicker))
        if "closures" in values:
            self._finish_closures(result)
        if self._sync is not None or self._expert is not None or "lipleak" in values:
            self._finish_sound(pair, count.shared, result)
        return result

    def _finish_closures(self, result: ClipResult) -> None:
        made, true = np.array(list(self._gaps.values())).reshape(-1, 2).T
        met, total = closures(made, true)
        if total:
            result.values["closures"] = met / total
            result.notes.append(f"{met} of {total} lip closures met")
        else:
            result.notes.append("the reference closes its lips in no frame: no closures")

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

    def _finish_sound(self, pair: Pair, frames: int, result: ClipResult) -> None:
        """The metrics that need the sound: LSE, the expert's score and LipLeak."""
        wanted = [name for name, part in (("LSE", self._sync), ("Sync", self._expert)) if part is not None]
        wanted += ["LipLeak"] if "lipleak" in result.values else []
        names = " and ".join(wanted)
        if self._last_face is None:
            result.notes.append(f"no face in either video: no {names}")
            return
        others = [] if pair.reference is None or self._options.unpaired else [pair.reference]
        paths = [pair.generated, *others]
        source = next((path for path in paths if probe(path).has_sound), None)
        if source is None:
            which = "neither video has" if others else "the generated video has no"
            result.notes.append(f"{which} sound: no {names}")
            return
        try:
            sound = read_audio(source)
        except InputError as error:  # the other metrics need no sound
            result.notes.append(f"no {names}: {error}")
            return
        if source == pair.reference:
            result.notes.append(f"the generated video has no sound: {names} with the reference's")
        if self._sync is not None:
            self._finish_lse(self._sync, sound, result)
        if self._expert is not None:
            result.values["sync"] = self._expert.score(sound)
        if "lipleak" in result.values:
            gaps = np.full(frames, np.nan)
            gaps[list(self._gaps)] = [made for made, _ in self._gaps.values()]
            silent = silent_frames(sound, frames)
            result.values["lipleak"] = lip_leak(gaps, silent)
            result.notes.append(f"{int(silent.sum())} silent frames")

    def _finish_lse(self, sync: SyncEmbeddings, sound: np.ndarray, result: ClipResult) -> None:
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
