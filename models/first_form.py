"""Reads configs of earlier versions, with one key for each departure of the released networks."""

import dataclasses
from typing import Any

from omegaconf import OmegaConf

from media.crop import CropForm, named_crop
from media.errors import InputError
from models.face_synthesizer import FORMS

# Keys of configs without `form`: their value in the paper's form (the default) and in the released form.
FIRST_KEYS = {
    "heatmap_predictor": {"messages": ("separate", "shared"), "add_pose": (True, False)},
    "face_synthesizer": {
        "stacking": ("image_major", "colour_major"),
        "grid": ("centres", "corners"),
        "sampler": ("plain", "channel_blending"),
        "alignment": ("per_scale", "coarsest"),
        "fusion_kernel": (1, 3),
        "image_order": ("rgb", "bgr"),
        "heatmap_channels": (1, 3),
    },
}
# Options by which the paper's form of those configs differs from today's.
_PAPER_THEN = {
    "heatmap_predictor": {"keypoint_shortcut": True, "pose_messages": True},
    "face_synthesizer": {"spade_relu": False},
}
# Keys of networks that this version lacks, and each key's value in those that it has.
_OF_OTHERS: dict[str, dict[str, Any]] = {
    "heatmap_predictor": {"heatmaps": "decoded"},
    "face_synthesizer": {"landmark_flow": False, "copy_references": False},
}


def with_crop(name: str, section: Any, source: str) -> Any:
    """A network's section with all fields of `crop`, which may be given as a name or, in older configs, as `size`.

    Args:
        name: the network's name in checkpoints.
        section: of an OmegaConf config.
        source: names the file and the section in errors.

    Raises:
        InputError: the name is none of `media.crop.CROPS`, or the size is no number of pixels.
    """
    if not OmegaConf.is_dict(section):
        return section
    sized = name in ("face_synthesizer", "g4g_synthesizer") and section.get("size") is not None
    if not sized and not isinstance(section.get("crop"), str):
        return section
    section = OmegaConf.to_container(section)
    try:
        crop = CropForm.square(section.pop("size")) if sized else named_crop(section["crop"])
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    return OmegaConf.create(section | {"crop": dataclasses.asdict(crop)})


def is_earlier(name: str, section: Any) -> bool:
    """Whether a network's section has keys of an earlier version; `name` is the network's name in checkpoints."""
    keys = FIRST_KEYS.get(name, {}).keys() | _OF_OTHERS.get(name, {}).keys()
    return OmegaConf.is_dict(section) and bool(keys & section.keys())


def from_first_form(name: str, section: Any, source: str) -> Any:
    """A network's section in today's keys; it gives the same network, or has a form that this version lacks.

    Args:
        name: the network's name in checkpoints. The section of a network without `FIRST_KEYS` is returned unchanged.
        section: of an OmegaConf config, of any version; absent keys have the defaults of that version.
        source: names the file and the section in errors.

    Raises:
        InputError: the keys mix both forms.
    """
    if name not in FIRST_KEYS or not OmegaConf.is_dict(section):
        return section
    section = OmegaConf.to_container(section)
    for key, value in _OF_OTHERS[name].items():
        if section.pop(key, value) != value:
            section["form"] = "landmarks"  # which `check_known` of models/checkpoint.py refuses
    if "form" not in section:
        section = _with_form(name, section, source)
    form = FORMS.get(section["form"])
    if section.get("colour_major") in (None, form and form.colour_major):
        section.pop("colour_major", None)
    return OmegaConf.create(section)


def _with_form(name: str, section: dict, source: str) -> dict:
    """Adds `form` to a section without it."""
    keys = FIRST_KEYS[name]
    values = {key: section.pop(key, paper) for key, (paper, _) in keys.items()}
    paper = [key for key in keys if values[key] == keys[key][0]]
    released = [key for key in keys if values[key] == keys[key][1]]
    if len(paper) == len(keys):
        return {"form": "paper", **_PAPER_THEN[name], **section}
    if len(released) == len(keys):
        return {"form": "released", **section}
    others = ", ".join(f"{key}: {values[key]}" for key in keys if key not in paper)
    raise InputError(
        f"{source} mixes two forms: {others}, but the paper's {', '.join(paper) or 'none'}; write form: paper or "
        f"form: released in their place, or use the version of the code that it was made with"
    )
