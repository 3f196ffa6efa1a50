"""Draw a dataset's validation and test clips, and write the lists that the layouts read.

    python -m data_prep.split FOLDER --by-speaker --test 20 --seed 0
    python -m data_prep.split HDTF --dataset hdtf --by-speaker --test 20 --val 10
    python -m data_prep.split LRS3 --dataset lrs3 --by-speaker --val 50
    python -m data_prep.split LRS2_8_2 --dataset lrs2 --by-speaker --test 20% --val 250

Writes train.txt, val.txt and test.txt into FOLDER, a clip a line. `data_prep.preprocess` then writes the clip files of
each list into a folder of its own, and `metrics.reproduce` draws from the test list alone. A dataset that has a test
list of its own keeps it: of such a dataset, --val is drawn out of the training clips.

--by-speaker draws whole people: all their clips go into one list, until it has as many clips as asked for, or more. The
layout says who speaks: the folder of an identity, the name of a video, the subfolder of a folder of videos.
"""

import argparse
import math
import random
import sys
from collections import defaultdict
from pathlib import Path

from data_prep.layout import MARK, SPLITS, Source, has_lists
from data_prep.layouts import LAYOUTS
from media.errors import InputError, Parser, command
from media.files import replacing


def amount(text: str) -> float:
    """A number of clips, N, or a share of them, "P%": 0.2 for "20%"."""
    share = text.endswith("%")
    value = float(text[:-1]) / 100 if share else int(text)
    if not 0 <= value < (1 if share else math.inf):
        raise ValueError
    return value


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the dataset's folder")
    parser.add_argument("--dataset", choices=sorted(LAYOUTS), default="folder", help="its layout (default: folder)")
    parser.add_argument("--by-speaker", action="store_true", help="no person is in two lists")
    of = "a number, or a share of the clips, as 20%% (default: 0)"
    parser.add_argument("--test", type=amount, default=0, metavar="N|P%", help=f"test clips: {of}")
    parser.add_argument("--val", type=amount, default=0, metavar="N|P%", help=f"validation clips: {of}")
    parser.add_argument("--seed", type=int, default=0, help="draws the clips (default: 0)")
    return parser.parse_args(arguments)


def draw(sources: list[Source], counts: dict[str, int], by_speaker: bool, seed: int) -> dict[str, list[Source]]:
    """Draw the lists: split -> sources, sorted; "train" is the rest.

    Args:
        counts: split -> number of clips to draw.
        by_speaker: draw all clips of a speaker together, until there are `counts` of them or more.

    Raises:
        InputError: there are too few clips or speakers to leave any to train on.
    """
    groups = defaultdict(list)
    for source in sorted(sources, key=lambda source: source.id):
        groups[source.speaker if by_speaker else source.id].append(source)
    names = sorted(groups)
    random.Random(seed).shuffle(names)
    lists: dict[str, list[Source]] = {}
    for split, count in counts.items():
        drawn: list[Source] = []
        while len(drawn) < count and names:
            drawn += groups[names.pop()]
        if len(drawn) < count or not names:
            of = f" of {len(groups)} speakers" if by_speaker else ""
            raise InputError(
                f"the dataset's {len(sources)} clips{of} are too few for {count} {split} clips and others to train "
                f"on; give a smaller --{split}"
            )
        lists[split] = sorted(drawn, key=lambda source: source.id)
    lists["train"] = sorted((each for name in names for each in groups[name]), key=lambda source: source.id)
    return lists


@command
def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    amounts = {split: count for split, count in (("test", args.test), ("val", args.val)) if count}
    if not amounts:
        raise InputError("nothing to draw; give --test N, --val N or both, 1 or more")
    if not args.folder.is_dir():
        raise InputError(f"folder {args.folder} does not exist; give the dataset's")
    if has_lists(args.folder):
        raise InputError(f"folder {args.folder} has lists of data_prep.split already; remove them to draw others")
    suffix = "csv" if args.dataset == "cmlr" else "txt"
    sources = LAYOUTS[args.dataset](args.folder)
    usable = [source for source in sources if not source.problem and not source.id.startswith("pretrain/")]
    own = sorted({source.id.split("/")[0] for source in usable if source.base != source.id})
    taken = [name for name in (f"{split}.{suffix}" for split in SPLITS) if (args.folder / name).exists()]
    if taken or set(own) & set(amounts):
        found = ", ".join(taken or own)
        raise InputError(f"folder {args.folder} has a split of its own ({found}); draw only what it lacks, or keep it")
    pool = [source for source in usable if not own or source.id.startswith("train/")]
    if not pool:
        raise InputError(f"folder {args.folder} has no clip in the layout {args.dataset}; check --dataset")
    if args.by_speaker and not all(source.speaker for source in pool):
        raise InputError(f"the layout {args.dataset} does not say who speaks; leave --by-speaker out")

    counts = {split: max(1, round(n * len(pool))) if n < 1 else int(n) for split, n in amounts.items()}
    lists = draw(pool, counts, args.by_speaker, args.seed)
    how = f"--dataset {args.dataset}{' --by-speaker' if args.by_speaker else ''} --seed {args.seed}"
    for split in SPLITS:
        if split not in lists or (own and split == "train"):
            continue
        text = f"{MARK} {how}\n" + "".join(f"{source.base}\n" for source in lists[split])
        with replacing(args.folder / f"{split}.{suffix}") as temporary:
            temporary.write_text(text, encoding="utf-8")
    parts = [
        f"{split} {len(lists[split])} clips of {len({source.speaker for source in lists[split]})} speakers"
        for split in SPLITS
        if split in lists
    ]
    print(f"{', '.join(parts)}; {args.folder} has the lists")


if __name__ == "__main__":
    sys.exit(main())
