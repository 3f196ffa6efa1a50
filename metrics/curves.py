"""Draw the TensorBoard curves of several training runs side by side.

    python -m metrics.curves with=runs/a without=runs/b --scalars val/PSNR train/loss --output curves.png

The figure has one panel a scalar and one line a run. Scalars logged every few steps (`train/...`) are drawn as a moving
mean over 15 values; TensorBoard itself shows every value.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.ndimage import uniform_filter1d

from media.errors import InputError, Parser, command
from media.files import named_paths, replacing
from metrics.plots import add_figure, legend_label, plain_text

NEIGHBOURS = 15  # values of the moving mean


def scalar(run: Path, tag: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one scalar of the run in the folder `run`.

    Raises:
        InputError: the folder holds no run, or the run did not log that scalar.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = sorted(run.glob("tensorboard/**/events.out.tfevents.*"))
    if not files:
        raise InputError(f"{run} holds no TensorBoard curves; give the output folder of a training run")
    known: dict[int, float] = {}
    tags: set[str] = set()
    for file in files:  # a resumed run has several; a later value of a step replaces an earlier one
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        tags |= set(events.Tags()["scalars"])
        if tag in events.Tags()["scalars"]:
            known |= {event.step: event.value for event in events.Scalars(tag)}
    if not known:
        raise InputError(f"{run} has no scalar {tag}; it has {', '.join(sorted(tags))}")
    steps = np.array(sorted(known))
    return steps, np.array([known[step] for step in steps])


def draw(runs: dict[str, Path], tags: Sequence[str], path: Path) -> None:
    """Write the figure."""
    from matplotlib.figure import Figure

    with plain_text():
        figure = Figure(figsize=(4.2 * len(tags), 3.2), layout="constrained")
        for axes, tag in zip(figure.subplots(1, len(tags), squeeze=False)[0], tags, strict=True):
            for name, run in runs.items():
                steps, values = scalar(run, tag)
                if tag.startswith("train/"):
                    values = uniform_filter1d(values, NEIGHBOURS, mode="nearest")
                axes.plot(steps, values, linewidth=1.2, label=legend_label(name))
            axes.set_title(tag, fontsize=10)
            axes.set_xlabel("step")
            axes.grid(alpha=0.3)
        figure.axes[0].legend(fontsize=8)
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=110)


@command
def main(arguments: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="[NAME=]RUN", help="output folders of training runs")
    parser.add_argument("--scalars", nargs="+", default=["train/loss"], metavar="TAG", help="default: train/loss")
    add_figure(parser, "curves.png")
    options = parser.parse_args(arguments)
    runs = named_paths("RUN", options.runs)
    draw(runs, options.scalars, options.output)
    print(f"{len(options.scalars)} curves of {len(runs)} runs drawn in {options.output}")


if __name__ == "__main__":
    sys.exit(main())
