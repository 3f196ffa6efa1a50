"""Tables of scores: means with their intervals, next to a paper's rows, as grids of text and as JSON."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from metrics.evaluation import MethodResult
from metrics.render import Cell, Grid
from metrics.scoring import ClipResult, FrameRanges, Options, clip_mean, count_frames
from metrics.tables import COLUMNS, GROUND_TRUTH, SETS, PublishedTable, best_and_second

RESAMPLES = 10_000
BOXES = {
    "mesh": "face boxes of MediaPipe's mesh in place of S3FD's, so not comparable digit by digit",
    "s3fd": "face boxes of S3FD, as in SyncNet's published pipeline",
    "frame": "whole frames, as in Wav2Lip's script for LRS2, LRS3 and LRW",
}
PROTOCOLS = {
    "authors": "the whole generated crop, upper half too, pasted inside the face's contour; no colour matching, no "
    "smoothing; references at truncated equal steps of lip opening",
    "best": "inference.py's own dubs: the hidden part pasted, colours matched, landmarks smoothed",
}
ABSENT = "-"
INFINITE = "N/A"


@dataclass(frozen=True)
class Summary:
    """A metric over a method's clips.

    Attributes:
        mean: mean of the clips' values with equal weights; for FID and FVD the value of all; None if there is none.
        low, high: 95 % bootstrap interval of the mean over clips; None for FID, FVD and for fewer than two clips.
        clips: how many clips have a finite value.
    """

    mean: float | None
    low: float | None = None
    high: float | None = None
    clips: int = 0


def bootstrap_interval(values: np.ndarray) -> tuple[float, float]:
    """Percentile bootstrap interval of 95 % of the mean of `values` (n,), n at least 2, with a fixed seed."""
    values = np.asarray(values, np.float64)
    generator = np.random.default_rng(0)
    # Multinomial counts draw the same resamples as an index matrix, in a tenth of its memory.
    counts = generator.multinomial(len(values), np.full(len(values), 1 / len(values)), RESAMPLES)
    low, high = np.quantile(counts @ values / len(values), [0.025, 0.975])
    return float(low), float(high)


def summarise(method: MethodResult, metric: str) -> Summary:
    """The metric's mean over the method's clips, with its interval."""
    if metric in SETS:
        value = method.sets.get(metric)
        return Summary(value, clips=len(method.clips) if value is not None else 0)
    known = [clip.values.get(metric) for clip in method.clips]
    values = np.array([value for value in known if value is not None])
    finite = values[np.isfinite(values)]
    if len(finite) < 2:
        return Summary(clip_mean(values), clips=len(finite))
    return Summary(clip_mean(values), *bootstrap_interval(finite), clips=len(finite))


def number(value: float | None, decimals: int) -> str:
    """`value` as the papers print it; "-" if there is none, "N/A" if it is infinite."""
    if value is None:
        return ABSENT
    return INFINITE if math.isinf(value) else f"{value:.{decimals}f}"


@dataclass(frozen=True)
class Results:
    """The results of an evaluation and their tables.

    Attributes:
        methods: one a folder of generated videos.
        options: what was computed.
        footnotes: metric -> why it has no value.
        table: the paper's table to show above, if any.
        notes: further lines below the table.
    """

    methods: list[MethodResult]
    options: Options
    footnotes: dict[str, str]
    table: PublishedTable | None = None
    notes: Sequence[str] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The paper's columns first, then the other computed metrics."""
        published = self.table.metrics if self.table else ()
        return (*published, *(metric for metric in self.options.metrics if metric not in published))

    def decimals(self, metric: str) -> int:
        return self.table.decimals(metric) if self.table else COLUMNS[metric].decimals

    def names(self) -> list[str]:
        """The methods' names; a name that the paper's table also has gets the suffix "(yours)"."""
        published = self.table.rows if self.table else {}
        return [f"{method.name} (yours)" if method.name in published else method.name for method in self.methods]

    def main(self) -> Grid:
        """The table: the paper's rows as published, then one row a method; best and second best marked."""
        columns = self.columns
        own_apart = bool(self.methods) and self.options.protocol != "authors"
        names, rows = [], []
        metrics = self.table.metrics if self.table else ()
        for name, values in (self.table.rows if self.table else {}).items():
            given = dict(zip(metrics, values, strict=True))
            names.append(name)
            rows.append([given.get(metric, "") for metric in columns])
        published = len(rows)
        for name, method in zip(self.names(), self.methods, strict=True):
            names.append(name)
            rows.append([number(summarise(method, metric).mean, self.decimals(metric)) for metric in columns])

        if published and own_apart:
            names[published:] = [f"{name}*" for name in names[published:]]

        own = [method.name for method in self.methods]
        truths = {row for row, name in enumerate([*names[:published], *own]) if name == GROUND_TRUTH}
        cells = [[Cell(text) for text in row] for row in rows]
        for place, metric in enumerate(columns):
            comparable = {
                row: math.inf if texts[place] == INFINITE else float(texts[place])
                for row, texts in enumerate(rows)
                if row not in truths and texts[place] not in ("", ABSENT)
            }
            above = {row: value for row, value in comparable.items() if row < published}
            below = {row: value for row, value in comparable.items() if row >= published}
            for rivals in (above, below) if own_apart else (comparable,):
                if len(rivals) > 1:
                    marks = best_and_second(rivals, COLUMNS[metric].higher_is_better)
                    for mark, chosen in zip(("best", "second"), marks, strict=True):
                        for row in chosen:
                            cells[row][place] = Cell(rows[row][place], mark)
        notes = [*([self.table.note] if self.table else []), *self._how(), *self.notes]
        notes += dict.fromkeys(self.footnotes.values())
        not_asked = [COLUMNS[metric].label for metric in columns if metric not in self.options.metrics]
        if not_asked and self.methods:
            notes.append(f"{', '.join(not_asked)}: not asked for (--metrics)")
        return Grid(
            title=self.table.title if self.table else f"Evaluation{', unpaired' if self.options.unpaired else ''}",
            header=["Method", *(COLUMNS[metric].heading for metric in columns)],
            rows=[[Cell(name), *row] for name, row in zip(names, cells, strict=True)],
            rule=published if 0 < published < len(rows) else None,
            notes=notes,
        )

    def _how(self) -> list[str]:
        """How the rows were made and compared, a line each."""
        if not self.methods:
            return []
        options, crop = self.options, self.options.crop
        lines = []
        if self.table and options.protocol != "authors":
            lines.append(
                "* Not comparable with the paper's rows, and marked apart from them: those are of whole generated "
                "crops, without colour matching or smoothing (metrics.reproduce --protocol authors)"
            )
        if options.protocol:
            lines.append(f"Protocol {options.protocol}: {PROTOCOLS[options.protocol]}")
        image = f"{crop.width}x{crop.height} pixels ({crop.framing})"
        what = f"bare crops of {image}" if options.bare else f"face crops of {image} cut out of the frames"
        if {"lse_d", "lse_c"} & set(options.metrics):
            lines.append(f"LSE: {BOXES[options.lse_boxes]}")
        lines.append(f"Images compared: {'whole frames' if options.region == 'frame' else what}")
        return lines

    def intervals(self) -> Grid:
        """Mean and 95 % bootstrap interval over clips of every metric and method."""
        rows = []
        for name, method in zip(self.names(), self.methods, strict=True):
            for metric in self.options.metrics:
                summary = summarise(method, metric)
                numbers = (number(each, self.decimals(metric)) for each in (summary.mean, summary.low, summary.high))
                rows.append([Cell(text) for text in (name, COLUMNS[metric].heading, *numbers, str(summary.clips))])
        note = (
            "95 % percentile bootstrap of the mean over clips. FID and FVD are one value of all frames and have none."
        )
        return Grid("Means and intervals", ["Method", "Metric", "Mean", "2.5 %", "97.5 %", "Clips"], rows, notes=[note])

    def per_clip(self) -> Grid:
        """Every clip's values, and how many of its frames were compared and left out."""
        metrics = [metric for metric in self.options.metrics if metric not in SETS]
        rows = []
        for name, method in zip(self.names(), self.methods, strict=True):
            for clip in method.clips:
                values = [number(clip.values[metric], self.decimals(metric)) for metric in metrics]
                frames = (str(clip.frames), str(count_frames(clip.left_out)))
                rows.append([Cell(text) for text in (name, clip.name, *frames, *values)])
        header = ["Method", "Clip", "Frames", "Left out", *(COLUMNS[metric].heading for metric in metrics)]
        return Grid("Clips", header, rows)

    def remarks(self) -> list[str]:
        """Clips and frames that were left out and why, a line each."""
        lines = []
        for name, method in zip(self.names(), self.methods, strict=True):
            for clip in method.clips:
                if clip.left_out or clip.without_lips or clip.notes:
                    lines.append(f"{name}, {clip.name}: {remark(clip)}")
            lines += [f"{name}, {clip} left out: {reason}" for clip, reason in method.left_out.items()]
            for where, clips in (
                ("only in the generated folder", method.only_generated),
                ("only in the reference folder", method.only_reference),
                ("in the list of clips, but in neither folder", method.in_neither),
            ):
                if clips:
                    listed = ", ".join(clips[:5]) + (f" and {len(clips) - 5} more" if len(clips) > 5 else "")
                    lines.append(f"{name}, {where}: {listed}")
        return lines

    def to_json(self) -> dict:
        """All results with all digits; an infinite value is the string "inf", frames are ranges of first and last."""

        def plain(value: float | None) -> float | str | None:
            return "inf" if value is not None and math.isinf(value) else value

        def frames(left_out: dict[str, FrameRanges]) -> dict[str, dict]:
            return {
                reason: {"frames": count_frames({reason: ranges}), "ranges": ranges}
                for reason, ranges in left_out.items()
            }

        methods = []
        for method in self.methods:
            paths: dict[str, dict[str, str | None]] = {
                name: {"generated": str(pair.generated), "reference": str(pair.reference) if pair.reference else None}
                for name, pair in method.pairs.items()
            }
            summaries = {metric: summarise(method, metric) for metric in self.options.metrics}
            methods.append(
                {
                    "name": method.name,
                    "metrics": {
                        metric: asdict(each) | {"mean": plain(each.mean)} for metric, each in summaries.items()
                    },
                    "clips": [
                        asdict(clip)
                        | {"values": {metric: plain(value) for metric, value in clip.values.items()}}
                        | {"left_out": frames(clip.left_out), "without_lips": frames(clip.without_lips)}
                        | paths.get(clip.name, {})
                        for clip in method.clips
                    ],
                    "left_out": {
                        name: {**paths.get(name, {}), "reason": reason} for name, reason in method.left_out.items()
                    },
                    "only_generated": method.only_generated,
                    "only_reference": method.only_reference,
                    "in_neither": method.in_neither,
                }
            )
        return {
            "options": asdict(self.options),
            "table": asdict(self.table) if self.table else None,
            "methods": methods,
            "footnotes": self.footnotes,
            "notes": list(self.notes),
        }


def remark(clip: ClipResult) -> str:
    """One line on a clip: how many frames were compared, how many were left out and why, and its notes."""
    reasons = [
        f"{count_frames({reason: ranges})} {what} ({reason})"
        for what, left_out in (("left out", clip.left_out), ("without LipLMD", clip.without_lips))
        for reason, ranges in left_out.items()
    ]
    return "; ".join([f"{clip.frames} frames compared", *reasons, *clip.notes])


def published_grid(table: PublishedTable) -> Grid:
    """A paper's table alone."""
    return Results([], Options(metrics=()), {}, table).main()
