"""Reads training configs of earlier versions, in which some settings of extensions/ were among the papers'.

`models/first_form.py` does the same for the section `model`.
"""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from checkpoints import fetch
from losses.face import FaceLosses

_MOVED = ("l1", "gradient", "ssim", "mouth", "upper", "flow")  # from `losses` to `extra_losses`


def losses_of_first_form(layers: list[Any]) -> Any:
    """Merge the layers of a config for STSA's synthesizer, with `losses` in today's keys. The run computes the same.

    In earlier configs, `losses.without_vgg: l1` replaced the perceptual loss by an L1 loss of weight
    `losses.l1_without_vgg` if VGG-19's weights were absent.

    Args:
        layers: OmegaConf configs, of any version; a later one overrides an earlier one.
    """
    merged = OmegaConf.merge(*map(_with_moved, layers))
    losses = merged.get("losses") if isinstance(merged, DictConfig) else None
    if not isinstance(losses, DictConfig):
        return merged
    weight = losses.pop("l1_without_vgg", 1.0)
    if losses.get("without_vgg") == "l1":
        losses.without_vgg = "skip"
        if losses.get("perceptual", FaceLosses.perceptual) > 0 and not fetch.available("vgg19"):
            merged = OmegaConf.merge(merged, {"extra_losses": {"l1": weight}})
    return merged


def with_keypoints(layer: Any) -> Any:
    """The config `layer`, in which the weight of eq. 3's keypoint term is named `keypoints`, formerly `landmarks`."""
    for section in ("losses", "heatmap_losses"):
        losses = layer.get(section)
        if OmegaConf.is_dict(losses) and "landmarks" in losses:
            weight = losses.pop("landmarks")
            layer = OmegaConf.merge(layer, {section: {"keypoints": losses.get("keypoints", weight)}})
    return layer


def drop_idle_sections(settings: Any) -> None:
    """Remove `reading` and `speech`, which this version lacks, from an earlier config in which they train nothing."""
    for section, needed in (("reading", "steps"), ("speech", "data")):
        found = settings.get(section)
        if OmegaConf.is_dict(found) and not found.get(needed):
            settings.pop(section)


def _with_moved(layer: Any) -> Any:
    """The config `layer` with the weights of `_MOVED` in `extra_losses`, where a weight that is already there stays."""
    losses = layer.get("losses")
    if not OmegaConf.is_dict(losses):
        return layer
    settings: Any = OmegaConf.to_container(layer)
    moved = {name: settings["losses"].pop(name) for name in _MOVED if name in losses}
    if moved:
        settings["extra_losses"] = moved | settings.get("extra_losses", {})
    return OmegaConf.create(settings)
