"""Reads configs of earlier versions, with one key for each departure of the released networks and each addition."""

import dataclasses
from typing import Any

from omegaconf import OmegaConf

from media.crop import CropForm, named_crop
from media.errors import InputError
from models import face_synthesizer

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
# Keys that `form: landmarks` replaces, and keys that this form lacks.
_LANDMARK_KEYS = {"heatmap_predictor": {"heatmaps"}, "face_synthesizer": {"landmark_flow", "copy_references"}}
_DECODER_KEYS = ("form", "messages", "add_pose", "keypoint_shortcut", "pose_messages")


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
    keys = FIRST_KEYS.get(name, {}).keys() | _LANDMARK_KEYS.get(name, set())
    return OmegaConf.is_dict(section) and section.get("form") != "landmarks" and bool(keys & section.keys())


def from_first_form(name: str, section: Any, source: str) -> Any:
    """A network's section in today's keys; it gives the same network.

    Args:
        name: the network's name in checkpoints. The section of a network without `FIRST_KEYS` is returned unchanged.
        section: of an OmegaConf config, of any version; absent keys have the defaults of that version.
        source: names the file and the section in errors.

    Raises:
        InputError: the keys mix both forms.
    """
    if name not in FIRST_KEYS or not OmegaConf.is_dict(section) or section.get("form") == "landmarks":
        return section
    section = OmegaConf.to_container(section)
    translate = _predictor if name == "heatmap_predictor" else _synthesizer
    return OmegaConf.create(translate(section, source))


def _predictor(section: dict, source: str) -> dict:
    heatmaps = section.pop("heatmaps", "decoded")
    if heatmaps not in ("decoded", "drawn"):
        raise InputError(f"{source}: heatmaps is {heatmaps!r}; write form: paper or form: landmarks in its place")
    if heatmaps == "drawn":
        return {"form": "landmarks"} | {key: value for key, value in section.items() if key not in _DECODER_KEYS}
    return section if "form" in section else _with_form("heatmap_predictor", section, (), source)


def _synthesizer(section: dict, source: str) -> dict:
    guides = {key: bool(section.pop(key, False)) for key in ("landmark_flow", "copy_references")}
    guided = any(guides.values())
    if "form" not in section:
        # With a landmark warp, `grid` had no effect. In networks with landmarks, `stacking` was a free option.
        free = ("stacking",) * guided + ("grid",) * guides["landmark_flow"]
        section = _with_form("face_synthesizer", section, free, source)
    form = face_synthesizer.FORMS.get(section["form"])
    if section.get("colour_major") in (None, form and form.colour_major):
        section.pop("colour_major", None)
    if not guided:
        return section
    base = section.pop("form")
    return {"form": "landmarks", "base": base, **section, **guides}


def _with_form(name: str, section: dict, free: tuple[str, ...], source: str) -> dict:
    """Adds `form` to a section without it; the keys `free` may have any of their values."""
    values = {key: section.pop(key, paper) for key, (paper, _) in FIRST_KEYS[name].items()}
    keys = {key: value for key, value in FIRST_KEYS[name].items() if key not in free}
    paper = [key for key in keys if values[key] == keys[key][0]]
    released = [key for key in keys if values[key] == keys[key][1]]
    if len(paper) == len(keys):
        section = {"form": "paper", **_PAPER_THEN[name], **section}
    elif len(released) == len(keys):
        section = {"form": "released", **section}
    else:
        others = ", ".join(f"{key}: {values[key]}" for key in keys if key not in paper)
        raise InputError(
            f"{source} mixes two forms: {others}, but the paper's {', '.join(paper) or 'none'}; write form: paper or "
            f"form: released in their place, or use the version of the code that it was made with"
        )
    if "stacking" in free:
        section["colour_major"] = values["stacking"] == "colour_major"
    return section
