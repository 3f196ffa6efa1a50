"""Maps this project's tensor names to those in the STSA authors' `face_weight.pth`."""

import re
from collections.abc import Callable

import torch
from torch import Tensor

# (own name, their name) as regular expression and replacement; the first that matches a name's beginning applies.
_NETWORKS: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"audio_encoder\.layers\.(\d)\.conv\.", r"audio_encoder.w2v_encoder.\1.conv_block.0."),
    (r"audio_encoder\.layers\.(\d)\.norm\.", r"audio_encoder.w2v_encoder.\1.conv_block.1."),
    (r"spatial\.references\.scale_1\.1\.(\d)\.", lambda m: f"ref_imgs_encoder.conv1.{int(m[1]) + 1}."),
    (r"spatial\.references\.scale_([23])\.2\.(\d)\.", lambda m: f"ref_imgs_encoder.conv{m[1]}.{int(m[2]) + 2}."),
    (r"spatial\.references\.scale_(\d)\.(\d)\.", r"ref_imgs_encoder.conv\1.\2."),
    (r"spatial\.target_heatmap\.scale_(\d)\.", lambda m: f"heatmap_encoder_tar.heatmap_down.{int(m[1]) - 1}."),
    (r"spatial\.reference_heatmaps\.scale_(\d)\.", lambda m: f"heatmap_encoder_ref.heatmap_down.{int(m[1]) - 1}."),
    (r"spatial\.alignment\.0\.layers\.(\d)\.", r"spatial_module.alignment_encoder.\1."),
    (r"spatial\.adaat\.(\d)\.shared\.", r"spatial_module.adaAT.\1.commn_linear.0."),
    (r"spatial\.adaat\.(\d)\.(\w+)\.", r"spatial_module.adaAT.\1.\2.0."),
    (r"spatial\.before\.(\d)\.", r"spatial_module.appearance_conv_list.\1.0."),
    (r"spatial\.after\.(\d)\.", r"spatial_module.appearance_conv_list.\1.1."),
    (r"temporal\.encoder\.scale_(\d)\.conv\.", r"temporal_module.conv\1."),
    (r"temporal\.encoder\.scale_(\d)\.norm\.", r"temporal_module.conv\1_bn."),
    (r"temporal\.flow_predictor\.spade_([12])\.", r"temporal_module.spade_layer_\1."),
    (r"temporal\.flow_predictor\.spade_3\.", r"temporal_module.spade_layer_4."),
    (r"temporal\.flow_predictor\.flow\.", r"temporal_module.conv_4."),
    (r"temporal\.flow_predictor\.weight\.", r"temporal_module.conv_5."),
    (r"temporal\.flow_predictor\.", r"temporal_module."),
    (r"fusion\.(\d)\.", lambda m: f"fuse_{(128, 64, 32)[int(m[1])]}."),
    (r"mutual_information\.embed\.(\d)\.0\.", r"align_layers.\1.conv."),
    (r"mutual_information\.embed\.(\d)\.1\.", r"align_layers.\1.bn."),
    (r"mutual_information\.statistics\.(\d)\.", lambda m: f"mine.fc{int(m[1]) // 2 + 1}."),
    (r"generator\.encoder\.(\d)\.conv\.", lambda m: f"translation.conv{int(m[1]) + 1}."),
    (r"generator\.encoder\.(\d)\.norm\.", lambda m: f"translation.conv{int(m[1]) + 1}_bn."),
    (r"generator\.to_rgb\.", r"translation.conv_last."),
    (r"generator\.", r"translation."),
]
_PARTS = [
    (r"(spade_(?:layer_)?\d)\.norm_(\d)\.shared\.", r"\1.spade_layer_\2.conv1."),
    (r"(spade_(?:layer_)?\d)\.norm_(\d)\.", r"\1.spade_layer_\2."),
    (r"(adain_\d)\.norm_(\d)\.shared\.", r"\1.adain_layer_\2.mlp_shared.0."),
    (r"(adain_\d)\.norm_(\d)\.gamma_beta\.", r"\1.adain_layer_\2.mlp_gamma_beta."),
    (r"((?:ref_imgs_encoder|appearance_conv_list)\..*\.)(conv|norm)_(\d)\.", r"\1\2\3."),
]


def convert(state_dict: dict[str, Tensor], shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Select and concatenate the tensors that a network with tensors of `shapes` needs; others are dropped.

    Raises:
        ValueError: a tensor that is needed is missing or has another shape; the message names it.
    """
    return {name: _converted(state_dict, name, tuple(shape)) for name, shape in shapes.items()}


def _converted(state_dict: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    theirs = _their_name(name)
    if re.fullmatch(r"translation\.conv\d\.bias", theirs):
        return torch.zeros(shape)  # their generator's encoder has no biases
    if "gamma_beta." in theirs:
        half = (shape[0] // 2, *shape[1:])
        return torch.cat([_take(state_dict, theirs.replace("gamma_beta.", part), half) for part in ("gamma.", "beta.")])
    return _take(state_dict, theirs, shape)


def _their_name(name: str) -> str:
    for pattern, replacement in _NETWORKS:
        name, matched = re.subn(f"^{pattern}", replacement, name)
        if matched:
            break
    for pattern, replacement in _PARTS:
        name, matched = re.subn(pattern, replacement, name)
        if matched:
            break
    return name


def _take(state_dict: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    if name not in state_dict:
        raise ValueError(f"the tensor {name} is missing")
    if tuple(state_dict[name].shape) != shape:
        raise ValueError(f"the tensor {name} has shape {tuple(state_dict[name].shape)} instead of {shape}")
    return state_dict[name]
