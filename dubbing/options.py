"""What a user chooses about a dub."""

from dataclasses import dataclass
from pathlib import Path


@dataclass
class DubOptions:
    """How one video is dubbed.

    Attributes:
        batch_size: faces that the networks make at once.
        missing_face: "pass" lets frames without a face through untouched, "error" refuses the video.
        face: "largest" (of each shot), "left", "right", an index from the left as digits, or "all".
        face_at: a point x, y in pixels inside the face to dub; overrides `face`.
        references: a video of the same person to take the reference frames from instead.
        reference_choice: "cover" takes those that are most like all frames (`covering_references`), "opening" those at
            equal steps of lip opening, as STSA's authors do (`choose_references`).
        keep_fps: keep the source's average frame rate instead of 25.
        smooth: steady the tracked landmarks over time.
        visualize: a video to write of source, heatmap, generated crop and result side by side.
        crop_output: a video to write of the bare generated face.
        heatmap_output: a video to write of its heatmaps, for `metrics.trajectories`.
        workers: face trackers that run at once.
        progress: show progress bars.
    """

    batch_size: int = 4
    missing_face: str = "pass"
    face: str = "largest"
    face_at: tuple[int, int] | None = None
    references: Path | None = None
    reference_choice: str = "cover"
    keep_fps: bool = False
    smooth: bool = True
    visualize: Path | None = None
    crop_output: Path | None = None
    heatmap_output: Path | None = None
    workers: int = 1
    progress: bool = True
