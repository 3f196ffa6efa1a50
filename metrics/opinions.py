"""Score a user study: mean opinion, its 95 % interval, and how far participants agree.

    python -m metrics.opinions ratings/*.csv --key out/study.key.json --output out/opinions

The CSV files are those that the page of `metrics.study` saves, one a participant. Printed for each method and question:
the mean of the participants' means, and Student's interval of it over participants. Agreement is Krippendorff's alpha
(interval data) over all videos: 1 if all agree, 0 as by chance. The paper's rows are other people's opinions of other
videos: they cannot be compared.
"""

import argparse
import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from media.errors import InputError, Parser, command, quick_help
from media.files import output_folder, replacing


@quick_help
def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("ratings", type=Path, nargs="+", metavar="CSV", help="files that participants sent back")
    parser.add_argument("--key", type=Path, required=True, metavar="FILE.key.json", help="written next to the page")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write opinions.md, .tex, .csv and .json")
    return parser.parse_args(arguments)


import numpy as np
from scipy import stats

from metrics.render import Cell, Grid, to_csv, to_latex, to_markdown, to_text
from metrics.tables import GROUND_TRUTH, OPINIONS, best_and_second

QUESTIONS = tuple(OPINIONS)


@dataclass(frozen=True)
class Opinion:
    """A method's opinion on one question: the mean of the participants' means, and its interval; None for one alone."""

    mean: float
    low: float | None = None
    high: float | None = None


def krippendorff_alpha(ratings: np.ndarray) -> float | None:
    """Krippendorff's alpha for interval data, 1 - observed over expected disagreement (Krippendorff, 2011).

    Args:
        ratings: (raters, units); NaN where a rater gave none. Units with fewer than two ratings do not count.

    Returns:
        None if no two ratings can be compared, or all are equal.
    """
    columns = [each[np.isfinite(each)] for each in np.asarray(ratings, np.float64).T]
    columns = [each for each in columns if len(each) > 1]
    if not columns:
        return None
    values = np.concatenate(columns)

    def squares(x: np.ndarray) -> float:
        """Sum of the squared differences of all ordered pairs."""
        return float(2 * len(x) * (x**2).sum() - 2 * x.sum() ** 2)

    observed = sum(squares(each) / (len(each) - 1) for each in columns) / len(values)
    expected = squares(values) / (len(values) * (len(values) - 1))
    return None if expected == 0 else 1 - observed / expected


def opinion(means: np.ndarray) -> Opinion:
    """The opinion of participants whose own means are `means` (n,)."""
    mean = float(means.mean())
    if len(means) < 2:
        return Opinion(mean)
    half = float(stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / len(means) ** 0.5)
    return Opinion(mean, mean - half, mean + half)


def read_key(path: Path) -> tuple[str, list[str], dict[str, str]]:
    """The study's name, its methods, and token -> method; InputError where the file is no key."""
    try:
        key = json.loads(path.read_text(encoding="utf-8"))
        methods = {token: str(video["method"]) for token, video in key["videos"].items()}
        return str(key["study"]), [str(name) for name in key["methods"]], methods
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"--key {path} is not a key that metrics.study wrote ({error}); give OUTPUT.key.json"
        ) from error


def read_ratings(path: Path, study: str, videos: dict[str, str]) -> tuple[str, dict[str, dict[str, float]]]:
    """The participant of a CSV file, and token -> question -> rating; unanswered questions are absent.

    Raises:
        InputError: the file is of another study, or a value is not a rating.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"ratings {path} cannot be read ({error}); ask the participant for the file again") from error
    found: dict[str, dict[str, float]] = {}
    for number, row in enumerate(rows, 2):
        if row.get("study") != study or row.get("video") not in videos:
            raise InputError(f"ratings {path}, line {number}: it is not of the study of the key; leave the file out")
        answers = {question: (row.get(question) or "").strip() for question in QUESTIONS}
        wrong = next((text for text in answers.values() if text not in ("", *"12345")), None)
        if wrong is not None:
            raise InputError(f"ratings {path}, line {number}: {wrong!r} is not a rating from 1 to 5; correct it")
        found[str(row["video"])] = {question: float(text) for question, text in answers.items() if text}
    if not found:
        raise InputError(f"ratings {path} has no line; leave the file out")
    return str(rows[0].get("participant") or path.stem), found


def opinions(
    answers: list[dict[str, dict[str, float]]], videos: dict[str, str], methods: list[str]
) -> dict[str, dict[str, Opinion]]:
    """Method -> question -> opinion; a question that nobody answered for a method is absent."""
    table: dict[str, dict[str, Opinion]] = {method: {} for method in methods}
    for method in methods:
        for question in QUESTIONS:
            means = []
            for given in answers:
                own = [
                    rated[question] for token, rated in given.items() if videos[token] == method and question in rated
                ]
                if own:
                    means.append(float(np.mean(own)))
            if means:
                table[method][question] = opinion(np.array(means))
    return table


def agreement(answers: list[dict[str, dict[str, float]]], videos: dict[str, str]) -> dict[str, float | None]:
    """Question -> Krippendorff's alpha over all videos."""
    return {
        question: krippendorff_alpha(
            np.array([[given.get(token, {}).get(question, np.nan) for token in videos] for given in answers])
        )
        for question in QUESTIONS
    }


def to_grid(table: dict[str, dict[str, Opinion]], alphas: dict[str, float | None], participants: int) -> Grid:
    """The table of opinions, the best and second best marked."""
    rows = [[Cell(method), *(_cell(table[method].get(question)) for question in QUESTIONS)] for method in table]
    for place, question in enumerate(QUESTIONS, 1):
        known = {row: each[question].mean for row, each in enumerate(table.values()) if question in each}
        ranked = {row: mean for row, mean in known.items() if list(table)[row] != GROUND_TRUTH}
        if len(ranked) > 1:
            for mark, chosen in zip(("best", "second"), best_and_second(ranked, True), strict=True):
                for row in chosen:
                    rows[row][place] = Cell(rows[row][place].text, mark)
    told = ", ".join(
        f"{OPINIONS[question].label} {'-' if alpha is None else f'{alpha:.2f}'}" for question, alpha in alphas.items()
    )
    notes = [
        f"{participants} participants; in brackets: half of Student's 95 % interval of the mean over participants",
        f"agreement, Krippendorff's alpha: {told}",
    ]
    header = ["Method", *(OPINIONS[question].heading for question in QUESTIONS)]
    return Grid("User study, mean opinion scores from 1 (poor) to 5 (excellent)", header, rows, notes=notes)


def _cell(found: Opinion | None) -> Cell:
    if found is None:
        return Cell("-")
    return Cell(f"{found.mean:.2f}" if found.high is None else f"{found.mean:.2f} (±{found.high - found.mean:.2f})")


@command
def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    study, methods, videos = read_key(args.key)
    answers: dict[str, dict[str, dict[str, float]]] = {}
    for path in args.ratings:
        participant, given = read_ratings(path, study, videos)
        if participant in answers:
            raise InputError(f"ratings {path} is the second file of {participant}; leave one out")
        answers[participant] = given
    table = opinions(list(answers.values()), videos, methods)
    alphas = agreement(list(answers.values()), videos)
    grid = to_grid(table, alphas, len(answers))
    print(to_text(grid))
    if args.output:
        folder = output_folder(args.output)
        content = {
            "participants": list(answers),
            "agreement": alphas,
            "methods": {
                method: {question: vars(each) for question, each in found.items()} for method, found in table.items()
            },
        }
        texts = {"md": to_markdown(grid), "tex": to_latex(grid), "csv": to_csv(grid)}
        texts["json"] = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        for suffix, text in texts.items():
            with replacing(folder / f"opinions.{suffix}") as temporary:
                temporary.write_text(text, encoding="utf-8")
        print(f"{folder}/opinions.md, .tex, .csv and .json written")


if __name__ == "__main__":
    sys.exit(main())
