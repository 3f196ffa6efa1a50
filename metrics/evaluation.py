"""Score folders of generated videos against the true ones, clip by clip."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from media import crop, face, place
from media.errors import InputError
from metrics import fid as fid_module
from metrics import fvd, identity, motion
from metrics.fid import fid
from metrics.pairs import Batch, FrameCount, FramePair, Pair, pair_videos, read_pairs, with_crops
from metrics.scoring import ClipResult, ClipScorer, Options
from metrics.sets import FrechetSets
from metrics.truth import Truth, fingerprint

_LARGEST_BATCH = 16
_BATCH_PIXELS = 2**20  # of a batch of whole frames


@dataclass
class MethodResult:
    """The scores of one folder of generated videos.

    Attributes:
        name: the method.
        clips: one result a compared pair.
        left_out: name of a pair -> why it was not compared.
        only_generated, only_reference: videos without a partner.
        sets: "fid" and "fvd", over all compared frames together; None if one cannot be computed.
        pairs: name -> the two files of every pair, compared or left out.
        in_neither: listed clips that neither folder holds.
    """

    name: str
    clips: list[ClipResult] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    only_generated: list[str] = field(default_factory=list)
    only_reference: list[str] = field(default_factory=list)
    sets: dict[str, float | None] = field(default_factory=dict)
    pairs: dict[str, Pair] = field(default_factory=dict)
    in_neither: list[str] = field(default_factory=list)


class Observer(Protocol):
    """Receives the frames of every clip while they are scored, as the report's gallery does."""

    def start(self, method: str, pair: Pair) -> None: ...

    def update(self, batch: Batch, values: dict[str, np.ndarray]) -> None: ...

    def finish(self, result: ClipResult | None) -> None: ...


class Evaluation:
    """Scores each method on the clips that it shares with the true videos.

    Args:
        folders: method -> folder of generated videos.
        reference: folder of the true videos; in an unpaired evaluation, of the dubbed videos, or None.
        options: what to compute.
        networks: from `scoring.load_networks`.
        only: clips to score: listed name -> names that the clip's videos may have; None scores all.
        observer: receives every scored frame.
        cache: folder that keeps what depends on the true videos alone for later evaluations.
        crops: method -> folder of its bare crops (`pairs.with_crops`), which are compared in place of the videos.

    Raises:
        InputError: a folder has no video, or no video with a partner.
    """

    def __init__(
        self,
        folders: dict[str, Path],
        reference: Path | None,
        options: Options,
        networks: dict[str, nn.Module],
        only: Mapping[str, Collection[str]] | None = None,
        observer: Observer | None = None,
        cache: Path | None = None,
        crops: Mapping[str, Path] | None = None,
    ):
        self._options = options
        self._networks = networks
        self._observer = observer
        self.methods: list[MethodResult] = []
        self._sets: dict[str, dict[str, FrechetSets]] = {name: defaultdict(FrechetSets) for name in folders}
        self._cache = cache
        self._kinds = _kinds(options, networks) if cache is not None else {}
        for name, folder in folders.items():
            pairs, only_generated, only_reference = pair_videos(
                folder, reference, "--source" if options.unpaired else "--reference"
            )
            in_neither = []
            if only is not None:
                there = {*only_generated, *only_reference, *(pair.name for pair in pairs)}
                in_neither = [clip for clip, names in only.items() if there.isdisjoint(names)]
                wanted = {name for names in only.values() for name in names}
                pairs = [pair for pair in pairs if pair.name in wanted]
                only_generated, only_reference = (
                    [clip for clip in clips if clip in wanted] for clips in (only_generated, only_reference)
                )
            if not pairs:
                both = f"{folder} and {reference} share" if reference else f"{folder} has"
                raise InputError(f"{name}: {both} no clip of the list; check its names")
            if crops is not None and name in crops:
                pairs = [with_crops(pair, crops[name]) for pair in pairs]
            named = {pair.name: pair for pair in pairs}
            self.methods.append(
                MethodResult(name, [], {}, only_generated, only_reference, pairs=named, in_neither=in_neither)
            )
        self.clips = sorted({clip for method in self.methods for clip in method.pairs})

    def run(self, progress: Callable[[str, int], None] = lambda clip, frames: None) -> list[MethodResult]:
        """Score every pair; `progress(clip, frames)` is called after every batch.

        Raises:
            InputError: no pair could be compared; the message names the first one and the reason.
        """
        with torch.inference_mode():
            for clip in self.clips:
                methods = [method for method in self.methods if clip in method.pairs]
                video = methods[0].pairs[clip].reference
                truth = Truth(video, self._kinds, len(methods) > 1, self._cache)
                for method in methods:
                    self._score(method, method.pairs[clip], truth, progress)
                truth.save()
        for method in self.methods:
            sets = self._sets[method.name]
            method.sets = {metric: fid(each.generated, each.reference) for metric, each in sets.items()}
        if not any(method.clips for method in self.methods):
            method = self.methods[0]
            clip, reason = next(iter(method.left_out.items()))
            raise InputError(f"no pair of videos could be compared; {clip} of {method.name}: {reason}")
        return self.methods

    def _score(self, method: MethodResult, pair: Pair, truth: Truth, progress: Callable) -> None:
        if self._observer:
            self._observer.start(method.name, pair)
        result = None
        try:
            scorer = ClipScorer(self._options, self._networks, truth, pair.crops[1] if pair.crops else None)
            count = FrameCount()
            track = self._options.needs_faces
            frames = read_pairs(pair, count, track, track, truth.faces, self._options.unpaired)
            for pairs in _batches(frames, self._options.region):
                batch = Batch(pairs, self._options.region, self._options.crop, self._options.device)
                values = scorer.update(batch)
                if self._observer:
                    self._observer.update(batch, values)
                progress(pair.name, len(pairs))
            result = scorer.finish(pair, count)
        except InputError as reason:
            method.left_out[pair.name] = str(reason)
        else:
            method.clips.append(result)
            for metric, sets in scorer.sets.items():
                self._sets[method.name][metric].merge(sets)
        finally:
            if self._observer:
                self._observer.finish(result)


def _kinds(options: Options, networks: dict[str, nn.Module]) -> dict[str, str]:
    """What the true videos' values depend on apart from the videos: kind -> fingerprint (see `Truth`)."""
    of = {"fid": ("fid", fid_module), "fvd": ("i3d", fvd), "csim": ("arcface", identity), "dme": ("raft", motion)}
    shared = (options.region, options.crop, face, crop, place)
    return {
        kind: fingerprint(kind, networks[name], module, *shared)
        for kind, (name, module) in of.items()
        if name in networks
    }


def _batches(frames: Iterator[FramePair], region: str) -> Iterator[list[FramePair]]:
    """Consecutive frame pairs in batches; large whole frames come in smaller batches."""
    pairs: list[FramePair] = []
    for pair in frames:
        pairs.append(pair)
        height, width = pair.generated.shape[:2]
        limit = _LARGEST_BATCH if region == "face" else max(1, min(_LARGEST_BATCH, _BATCH_PIXELS // (height * width)))
        if len(pairs) >= limit:
            yield pairs
            pairs = []
    if pairs:
        yield pairs
