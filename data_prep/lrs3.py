"""LRS3: `pretrain`, `trainval` and `test`, in each a folder an identity: `trainval/<identity>/<5 digits>.mp4`."""

from pathlib import Path

from data_prep.layout import Source, listed
from media.errors import InputError
from media.files import SOUND_SUFFIXES

_SPLITS = {"pretrain": "pretrain", "trainval": "train", "test": "test"}  # folder -> first part of the id


def sources(folder: Path) -> list[Source]:
    """The clips of the three folders, as `train/<identity>/<digits>`, `pretrain/...` and `test/...`.

    LRS3 has no validation list: `python -m data_prep.split` takes one out of `train`. The longer clips in `pretrain`
    show the same talks as those in `train`, so the clips of identities in `val` are left out of it. The sound is the
    file of the same name and another suffix next to the video, or the video's own.
    """
    root = next((place for place in (folder, *sorted(folder.glob("lrs3*"))) if (place / "trainval").is_dir()), None)
    if root is None and (folder / "test").is_dir():
        root = folder
    if root is None:
        raise InputError(f"input {folder} has no folder trainval; give the folder that LRS3 was unpacked in")
    found = []
    for name, split in _SPLITS.items():
        for video in sorted((root / name).glob("*/*.mp4")):
            sounds = (video.with_suffix(suffix) for suffix in sorted(SOUND_SUFFIXES))
            sound = next((path for path in sounds if path.is_file()), video)
            identity = video.parent.name
            found.append(Source(f"{split}/{identity}/{video.stem}", video, sound, speaker=identity))
    longer, rest = (
        [source for source in found if source.id.startswith("pretrain/") == longer] for longer in (True, False)
    )
    rest = listed(folder, rest)
    held = {source.speaker for source in rest if source.id.startswith("val/")}
    return [source for source in longer if source.speaker not in held] + rest
