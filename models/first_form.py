"""Configs from before `form` was a key, when each quirk of the released networks was a key of its own."""

from typing import Any

from omegaconf import OmegaConf

from media.errors import InputError
from models.face_synthesizer import FaceSynthesizerConfig
from models.heatmap_predictor import HeatmapPredictorConfig

# The keys of then, their value in the paper's form, which was the default, and in the released one.
FIRST_KEYS = {
    HeatmapPredictorConfig: {"messages": ("separate", "shared"), "add_pose": (True, False)},
    FaceSynthesizerConfig: {
        "stacking": ("image_major", "colour_major"),
        "grid": ("centres", "corners"),
        "sampler": ("plain", "channel_blending"),
        "alignment": ("per_scale", "coarsest"),
        "fusion_kernel": (1, 3),
        "image_order": ("rgb", "bgr"),
        "heatmap_channels": (1, 3),
    },
}
# What the paper's form of then computed otherwise than today's.
_PAPER_THEN = {
    HeatmapPredictorConfig: {"keypoint_shortcut": True, "pose_messages": True},
    FaceSynthesizerConfig: {"spade_relu": False},
}


def from_first_form(kind: type, section: Any, source: str) -> Any:
    """A network's section of a config without `form`, in today's keys; it gives the same network.

    Args:
        kind: the network's config class; a section of one that has no `FIRST_KEYS`, or with `form`, stays as it is.
        section: of an OmegaConf config; the keys of then may be absent, and had defaults.
        source: names the file and the section in errors.

    Raises:
        InputError: the keys mix both forms.
    """
    if kind not in FIRST_KEYS or not OmegaConf.is_dict(section) or "form" in section:
        return section
    section, keys = OmegaConf.to_container(section), dict(FIRST_KEYS[kind])
    values = {name: section.pop(name, paper) for name, (paper, _) in keys.items()}
    stacking = ()
    if section.get("landmark_flow") or section.get("copy_references"):
        stacking = keys.pop("stacking")  # an option still, by another name
    if section.get("landmark_flow"):
        del keys["grid"]  # landmarks gave the points that a flow starts from
    if section.get("heatmaps") == "drawn":
        keys = {}  # both keys were a decoder's
    paper = [name for name in keys if values[name] == keys[name][0]]
    released = [name for name in keys if values[name] == keys[name][1]]
    if len(paper) == len(keys):
        section = {"form": "paper", **(_PAPER_THEN[kind] if keys else {}), **section}
    elif len(released) == len(keys):
        section = {"form": "released", **section}
    else:
        others = ", ".join(f"{name}: {values[name]}" for name in keys if name not in paper)
        raise InputError(
            f"{source} mixes two forms: {others}, but the paper's {', '.join(paper) or 'none'}; write form: paper or "
            f"form: released in their place, or use the version of the code that it was made with"
        )
    if stacking and values["stacking"] != stacking[section["form"] == "released"]:
        section["colour_major"] = values["stacking"] == "colour_major"
    return OmegaConf.create(section)
