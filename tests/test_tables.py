"""The papers' numbers, the marks, and the four forms in which a table is written."""

import csv
import io
import re
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from metrics.evaluation import MethodResult
from metrics.render import Cell, Grid, markdown, to_csv, to_latex, to_markdown, to_text
from metrics.results import Results, bootstrap_interval, number, published_grid, summarise
from metrics.scoring import ClipResult, Options
from metrics.tables import METRICS, TABLES, best_and_second


def paper_rows(text: str, start: str, end: str) -> list[tuple[str, list[str]]]:
    """Rows of a table in a paper's Markdown: the method as printed, and its numbers."""
    section = text[text.index(start) :]
    section = section[: section.index(end)]
    rows = []
    for line in section.splitlines():
        cells = [re.sub(r"</?b>|\[.*?\]", "", cell).strip() for cell in line.split("\t")]
        values = [cell for cell in cells[1:] if re.fullmatch(r"[\d.]+|N/A", cell)]
        if cells[0] and len(values) >= 3:
            rows.append((cells[0], values))
    return rows


@pytest.mark.parametrize(
    ("name", "paper", "start", "end", "part"),
    [
        ("stsa-lrs2", "stsa", "TABLE I QUANT", "GT Ours", slice(None)),
        ("stsa-cmlr", "stsa", "TABLE II QUANT", "test sets of LRS2", slice(None)),
        ("stsa-ablation", "stsa", "TABLE III", "Fig. 4", slice(None)),
        ("g4g-hdtf", "g4g", "Table 1. The quant", "Figure 2", slice(0, 5)),
        ("g4g-lrs2", "g4g", "Table 1. The quant", "Figure 2", slice(5, 10)),
        ("g4g-ablation", "g4g", "Table 2. The abl", "Figure 3", slice(None)),
        ("g4g-user-study", "g4g", "Table 3. User", "grounds, illum", slice(None)),
    ],
)
def test_every_published_number_is_the_papers(shared, name, paper, start, end, part):
    text = (shared / "papers" / f"{paper}.md").read_text(encoding="utf-8")
    printed = paper_rows(text, start, end)[part]
    assert [(method, tuple(values)) for method, values in printed] == list(TABLES[name].rows.items())


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_each_row_of_a_published_table_has_a_number_for_each_column(table):
    assert all(len(values) == len(table.metrics) for values in table.rows.values())


def test_best_and_second_best_follow_the_metrics_direction_and_share_ranks():
    values = {"a": 3.0, "b": 1.0, "c": 3.0, "d": 2.0}
    assert best_and_second(values, higher_is_better=True) == ({"a", "c"}, {"d"})
    assert best_and_second(values, higher_is_better=False) == ({"b"}, {"d"})
    assert best_and_second({"a": 1.0}, True) == ({"a"}, set())


def method(name: str, **values: Sequence[float | None]) -> MethodResult:
    count = len(next(iter(values.values())))
    clips = [ClipResult(f"clip{i}", {metric: each[i] for metric, each in values.items()}, 10, {}) for i in range(count)]
    return MethodResult(name, clips)


def test_own_rows_stand_beneath_the_papers_and_compete_for_the_marks():
    results = Results(
        [method("Ours", psnr=[40.0, 42.0], dme=[0.2, 0.2])],
        Options(("psnr", "dme"), protocol="authors"),
        {},
        TABLES["stsa-lrs2"],
    )
    grid = results.main()
    texts = [[cell.text for cell in row] for row in grid.rows]
    assert texts[:9] == [[name, *values] for name, values in TABLES["stsa-lrs2"].rows.items()]
    assert texts[9] == ["Ours (yours)", "41.00", "-", "-", "-", "-", "-", "-", "0.2000"]
    assert grid.rule == 9
    marks = {(row[0].text, column): cell.mark for row in grid.rows for column, cell in enumerate(row) if cell.mark}
    assert marks[("Ours (yours)", 1)] == "best"
    assert marks[("DiffTalk", 1)] == "second"
    assert marks[("Ours", 8)] == "best"
    assert not any(name == "GT" for name, _ in marks)


def test_rows_of_another_protocol_have_a_footnote_and_compete_among_themselves():
    methods = [method("A", psnr=[40.0]), method("B", psnr=[20.0]), method("C", psnr=[30.0])]
    for protocol in ("", "best"):
        grid = Results(methods, Options(("psnr",), protocol=protocol), {}, TABLES["stsa-lrs2"]).main()
        marks = {row[0].text: row[1].mark for row in grid.rows if row[1].mark}
        assert marks == {"DiffTalk": "best", "Ours": "second", "A*": "best", "C*": "second"}
        assert grid.notes[1].startswith("* Not comparable with the paper's rows")
        assert any(note.startswith("Protocol best") for note in grid.notes) == (protocol == "best")
    grid = Results(methods, Options(("psnr",), protocol="authors", bare=True), {}, TABLES["stsa-lrs2"]).main()
    assert {row[0].text: row[1].mark for row in grid.rows if row[1].mark} == {"A": "best", "DiffTalk": "second"}
    assert "Images compared: bare crops of 128x128 pixels (landmark_box)" in grid.notes
    alone = Results(methods, Options(("psnr",)), {}).main()
    assert [row[0].text for row in alone.rows] == ["A", "B", "C"]
    assert alone.notes == ["Images compared: face crops of 128x128 pixels (landmark_box) cut out of the frames"]


def test_a_metric_beyond_the_papers_columns_gets_its_own():
    results = Results([method("A", mse=[0.001, 0.003])], Options(("mse",)), {}, TABLES["stsa-cmlr"])
    grid = results.main()
    assert grid.header[-1] == "MSE↓"
    assert [row[-1].text for row in grid.rows][-2:] == ["", "0.0020"]


def test_identical_videos_give_the_ground_truth_row():
    exact = dict(psnr=[np.inf] * 2, ssim=[1.0] * 2, lpips=[0.0] * 2, liplmd=[0.0] * 2, dme=[0.0] * 2)
    same = method("same", **exact)
    same.sets["fid"] = 0.0
    table = TABLES["stsa-cmlr"]
    results = Results([same], Options(tuple(table.metrics)), {}, table)
    assert tuple(cell.text for cell in results.main().rows[-1][1:]) == table.rows["GT"]


def test_an_infinite_psnr_is_the_best_and_a_row_named_gt_has_no_marks():
    methods = [method("copy", psnr=[np.inf] * 2), method("other", psnr=[30.0] * 2), method("GT", psnr=[np.inf] * 2)]
    for table in (None, TABLES["stsa-cmlr"]):
        options = Options(("psnr",), protocol="authors")
        rows = {row[0].text: row[1] for row in Results(methods, options, {}, table).main().rows}
        assert rows["copy"] == Cell("N/A", "best")
        assert rows["GT (yours)" if table else "GT"] == Cell("N/A")
        assert rows["Ours" if table else "other"].mark == "second"
    assert not rows["GT"].mark


def test_a_column_that_was_not_asked_for_says_so():
    table = TABLES["stsa-cmlr"]
    results = Results([method("A", psnr=[30.0])], Options(("psnr", "dme")), {"dme": "DME: no weights"}, table)
    notes = results.main().notes
    assert notes[-2:] == ["DME: no weights", "SSIM, FID, LPIPS, LipLMD: not asked for (--metrics)"]
    assert published_grid(table).notes == [table.note]


def test_the_interval_agrees_with_scipys_bootstrap():
    values = np.random.RandomState(0).gamma(2, size=40)
    low, high = bootstrap_interval(values)
    expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=9999).confidence_interval
    assert (low, high) == pytest.approx(tuple(expected), abs=0.04)
    assert low < values.mean() < high
    assert bootstrap_interval(values) == (low, high)


def test_a_summary_leaves_clips_without_a_value_out_and_says_how_many_it_has():
    summary = summarise(method("A", psnr=[30.0, None, np.inf, 34.0]), "psnr")
    assert (summary.mean, summary.clips) == (32, 2)
    assert summary.low is not None and summary.high is not None
    assert 30 <= summary.low < summary.high <= 34
    alone = summarise(method("A", ssim=[0.5]), "ssim")
    assert (alone.mean, alone.low, alone.clips) == (0.5, None, 1)
    assert number(None, 2) == "-"


GRID = Grid(
    "50 % of A&B_c",
    ["Method", "PSNR↑"],
    [[Cell("a|b"), Cell("1.0", "second")], [Cell("c_d"), Cell("2.0", "best")]],
    rule=1,
    notes=["a note"],
)


def test_latex_escapes_what_latex_would_read_and_marks_with_bold_and_underline():
    text = to_latex(GRID)
    assert r"50 \% of A\&B\_c" in text
    assert r"c\_d & \textbf{2.0} \\" in text
    assert r"a|b & \underline{1.0} \\" in text
    assert r"PSNR$\uparrow$" in text
    assert text.count(r"\midrule") == 2
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_latex_rows_may_start_with_a_bracket_and_many_of_them_go_over_several_pages():
    short = Grid("Short", ["Method", "PSNR↑"], [[Cell("[a]"), Cell("1")]] * 40)
    assert r"{[}a{]} & 1 \\" in to_latex(short)
    assert "longtable" not in to_latex(short)
    long = Grid("Long", ["Method", "PSNR↑"], [[Cell("a"), Cell("1")]] * 41, notes=["a note"])
    lines = to_latex(long).splitlines()
    assert lines.count(r"a & 1 \\") == 41
    assert lines[:2] == ["% needs the packages booktabs and longtable", r"\begin{longtable}{lr}"]
    assert lines[2] == r"\caption{Long} \\"
    assert lines.index(r"\endhead") == lines.index(r"\midrule") + 1
    assert lines[-2:] == [r"\end{longtable}", r"\par\footnotesize a note"]


def test_markdown_has_one_cell_a_column_and_marks_with_bold_and_italic():
    lines = to_markdown(GRID).splitlines()
    assert lines[0] == r"## 50 % of A\&B\_c"
    assert r"| c\_d | **2.0** |" in lines
    assert r"| a\|b | *1.0* |" in lines
    assert lines[-1] == "- a note"
    assert markdown("<b> `x` [1] # $y$\n*z*") == r"\<b\> \`x\` \[1\] \# \$y\$ \*z\*"


def test_csv_reads_back_and_text_is_aligned():
    assert list(csv.reader(io.StringIO(to_csv(GRID)))) == [["Method", "PSNR↑"], ["a|b", "1.0"], ["c_d", "2.0"]]
    body = to_text(GRID).splitlines()
    assert "2.0¹" in body[6]
    assert "1.0²" in body[4]
    assert len(body[6]) == len(body[4])


def test_a_published_table_prints_alone():
    text = to_text(published_grid(TABLES["g4g-user-study"]))
    assert "4.26¹" in text
    assert set(METRICS) & set(TABLES["g4g-user-study"].metrics) == set()
