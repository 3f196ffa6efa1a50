"""One self-contained report.html: the table, a plot a metric, the best and worst frames, and the videos."""

import base64
import html
import io
import os
from pathlib import Path

import numpy as np

from media.files import replacing
from metrics.gallery import PREVIEWS, SECONDS, Gallery, Shot
from metrics.plots import legend_label, plain_text
from metrics.render import Grid
from metrics.results import Results, number
from metrics.tables import COLUMNS

SHOTS = 6  # best and worst frames shown of each method

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --best: #1a7f37; --second: #9a6700; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.5rem; font-size: 1.2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead { border-bottom: 1px solid var(--line); } tbody tr.own { font-weight: 500; background: #8881; }
tr.own:first-of-type, tr.first-own { border-top: 2px solid var(--line); }
td.best { color: var(--best); font-weight: 700; } td.second { color: var(--second); text-decoration: underline; }
.note { font-size: .85rem; opacity: .8; } li { margin: .15rem 0; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: 1rem; }
.plots svg { width: 100%; height: auto; background: #fff; border-radius: 4px; }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; } figcaption { font-size: .85rem; }
.shot { display: flex; gap: 2px; } .shot img { height: 8.5rem; display: block; }
.shot div { font-size: .7rem; text-align: center; } video { max-width: 100%; display: block; background: #000; }
@media (prefers-color-scheme: dark) { :root { --best: #3fb950; --second: #d29922; } }
"""


def write_report(results: Results, gallery: Gallery, path: str | os.PathLike) -> None:
    """Write the report to `path`. It refers to nothing outside itself: images and videos are data URIs."""
    main = results.main()
    own = len(main.rows) - len(results.methods)
    sections = [
        f"<h1>{_safe(main.title)}</h1>",
        _table(main, own),
        f'<ul class="note">{"".join(f"<li>{_safe(line)}</li>" for line in main.footer("html"))}</ul>',
        _left_out(results),
        "<h2>Means with 95 % intervals</h2>" + _table(results.intervals(), 0),
        f'<h2>Clip by clip</h2><div class="plots">{"".join(_plots(results))}</div>',
        _shots("Worst frames", results, gallery.worst, worst=True),
        _shots("Best frames", results, gallery.best, worst=False),
        _videos(gallery),
        "<h2>Values of every clip</h2>" + _table(results.per_clip(), 0),
    ]
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_safe(main.title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body></html>\n"
    )
    with replacing(path) as temporary:
        Path(temporary).write_text(page, encoding="utf-8")


def _safe(text: str) -> str:
    return html.escape(text)


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _table(grid: Grid, own: int) -> str:
    """An HTML table; rows from `own` on are the user's, and a line separates them from published rows above."""
    head = "".join(f"<th>{_safe(text)}</th>" for text in grid.header)
    body = []
    for index, row in enumerate(grid.rows):
        cells = "".join(f'<td class="{cell.mark}">{_safe(cell.text)}</td>' for cell in row)
        kind = ("own first-own" if index == own else "own") if own and index >= own else ""
        body.append(f'<tr class="{kind}">{cells}</tr>')
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _left_out(results: Results) -> str:
    remarks = results.remarks()
    if not remarks:
        return '<p class="note">Every frame of every pair was compared.</p>'
    return f'<h2>Left out</h2><ul class="note">{"".join(f"<li>{_safe(line)}</li>" for line in remarks)}</ul>'


def _plots(results: Results) -> list[str]:
    """One SVG a metric: its value for every clip, a colour a method, with the mean as a line."""
    from matplotlib.figure import Figure

    clips = sorted({clip.name for method in results.methods for clip in method.clips})
    figures = []
    for metric in results.options.metrics:
        series = []
        for name, method in zip(results.names(), results.methods, strict=True):
            values = {clip.name: clip.values.get(metric) for clip in method.clips}
            heights = np.array([np.nan if values.get(clip) is None else values[clip] for clip in clips], np.float64)
            if np.isfinite(heights).any():
                series.append((name, np.where(np.isfinite(heights), heights, np.nan)))
        if not series:
            continue
        with plain_text(svg__fonttype="none", svg__hashsalt=metric, font__family="sans-serif"):
            figure = Figure(figsize=(5.2, 3.1), layout="constrained")
            axes = figure.subplots()
            for place, (name, heights) in enumerate(series):
                axes.plot(
                    np.arange(len(clips)), heights, "o", markersize=4, color=f"C{place % 10}", label=legend_label(name)
                )
                axes.axhline(float(np.nanmean(heights)), color=f"C{place % 10}", linewidth=1, alpha=0.6)
            axes.set_title(COLUMNS[metric].heading)
            axes.grid(axis="y", alpha=0.3)
            axes.margins(x=0.1)
            if len(clips) <= 12:
                axes.set_xticks(np.arange(len(clips)), clips, rotation=35, ha="right", fontsize=7)
            else:
                axes.set_xlabel(f"{len(clips)} clips by name")
            if len(series) > 1:
                axes.legend(fontsize=7)
            out = io.StringIO()
            figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        figures.append(out.getvalue()[out.getvalue().index("<svg") :])
    return figures


def _shots(title: str, results: Results, shots: list[Shot], worst: bool) -> str:
    cards = []
    for method in results.methods:
        mine = [shot for shot in shots if shot.method == method.name]
        if mine:
            better = COLUMNS[mine[0].metric].higher_is_better
            mine.sort(key=lambda shot: shot.value, reverse=better != worst)
        cards += [_shot(shot) for shot in mine[:SHOTS]]
    return f'<h2>{title}</h2><div class="cards">{"".join(cards)}</div>' if cards else ""


def _shot(shot: Shot) -> str:
    images = (
        ("truth", shot.truth),
        ("generated", shot.generated),
        ("truth's heatmap", shot.true_heatmap),
        ("generated's heatmap", shot.heatmap),
    )
    boxes = "".join(
        f'<div><img alt="{_safe(label)}" src="{_uri(content, "image/jpeg")}">{_safe(label)}</div>'
        for label, content in images
        if content is not None
    )
    column = COLUMNS[shot.metric]
    caption = f"{shot.method}, {shot.clip}, frame {shot.index}: {column.label} {number(shot.value, column.decimals)}"
    return f'<figure><div class="shot">{boxes}</div><figcaption>{_safe(caption)}</figcaption></figure>'


def _videos(gallery: Gallery) -> str:
    if not gallery.previews:
        return ""
    cards = "".join(
        f'<figure><video controls preload="metadata" width="{each.width}" height="{each.height}" '
        f'src="{_uri(each.video, "video/mp4")}"></video>'
        f"<figcaption>{_safe(f'{each.method}, {each.clip}')}</figcaption></figure>"
        for each in gallery.previews
    )
    note = f"Truth on the left, generated on the right; the first {SECONDS} s of {PREVIEWS} clips at most."
    return f'<h2>Videos</h2><p class="note">{note}</p><div class="cards">{cards}</div>'
