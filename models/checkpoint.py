"""Checkpoint folders, and the STSA authors' released files.

A checkpoint folder holds `config.yaml`, whose sections named after a network are that network's config, and one
`.safetensors` file a network.
"""

import dataclasses
import hashlib
import importlib
import os
import pickle
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from media import hama
from media.crop import CropForm, check_same_crop
from media.errors import InputError, first_line
from media.files import existing_file, output_folder, replacing
from models import chung_syncnet, face_synthesizer, heatmap_predictor, sync_expert
from models.chung_syncnet import ChungSyncNet
from models.discriminator import PatchDiscriminator
from models.face_synthesizer import FaceSynthesizer
from models.first_form import FIRST_KEYS, from_first_form, with_crop
from models.g4g import G4GSynthesizer
from models.heatmap_predictor import HeatmapPredictor, HeatmapPredictorConfig, WindowEncoder
from models.sync_expert import SyncExpert, SyncExpertConfig

# The class of each network by its form, imported on demand. A network without forms has the form "".
NETWORKS: dict[str, dict[str, str]] = {
    "heatmap_predictor": {
        "paper": "models.heatmap_predictor:HeatmapPredictor",
        "released": "models.heatmap_predictor:HeatmapPredictor",
        "speech": "extensions.speech_predictor:SpeechPredictor",
    },
    "face_synthesizer": {
        "paper": "models.face_synthesizer:FaceSynthesizer",
        "released": "models.face_synthesizer:FaceSynthesizer",
        "region": "extensions.region_synthesizer:RegionSynthesizer",
    },
    "g4g_synthesizer": {"": "models.g4g:G4GSynthesizer"},
    "sync_expert": {
        "wav2lip": "models.sync_expert:SyncExpert",
        "features": "extensions.feature_expert:FeatureExpert",
    },
    "discriminator": {"": "models.discriminator:PatchDiscriminator"},
}
Network = TypeVar("Network", bound=nn.Module)
_STATISTICS = ("running_mean", "running_var")


def save_checkpoint(
    folder: str | os.PathLike,
    networks: Mapping[str, nn.Module],
    sections: dict[str, Any],
    half: bool = False,
    ears: Sequence[str | os.PathLike] = (),
) -> None:
    """Write `networks` and their configs into `folder`, each file under a temporary name first.

    Args:
        networks: by checkpoint name, a key of `NETWORKS`.
        sections: of `config.yaml`: each network's config dataclass under the network's name, and further sections.
        half: store floating-point weights as float16; loading makes them float32 again. Batch norm's statistics stay
            float32, because they may exceed float16's range.
        ears: folders that may hold the speech encoder, in place of the downloads. Networks that take its features
            (`hama`) are saved with it.

    Raises:
        InputError: a weight is too large for float16, or the speech encoder is missing.
    """
    folder = output_folder(folder)
    ear = speech_encoder(networks, (folder, *ears))
    if ear is not None and ear.parent != folder:
        with replacing(folder / ear.name) as temporary:
            shutil.copyfile(ear, temporary)
    for name, network in networks.items():
        state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
        if half:
            state = {key: value if key.endswith(_STATISTICS) else _halved(value, key) for key, value in state.items()}
        with replacing(folder / f"{name}.safetensors") as temporary:
            save_file(state, temporary)
    with replacing(folder / "config.yaml") as temporary:
        OmegaConf.save(OmegaConf.create(sections), temporary)


def speech_encoder(networks: Mapping[str, Any], folders: Sequence[str | os.PathLike] = ()) -> Path | None:
    """The file of the encoder whose features `networks` take, in one of `folders` or the downloads; None if they don't.

    Raises:
        InputError: it is missing.
    """
    kinds = {getattr(getattr(network, "config", None), "audio", None) for network in networks.values()}
    return hama.encoder_file(*folders) if "hama" in kinds else None


def _halved(tensor: Tensor, name: str) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    if bool(tensor.isfinite().all()) and not bool(half.isfinite().all()):
        raise InputError(f"the tensor {name} is too large for float16; store it without --half")
    return half


def network_class(name: str, form: str = "") -> Any:
    """The class of the network `name`, a key of `NETWORKS`; its config's class is `network_class(...).Config`.

    Raises:
        InputError: the network has no such form, or the form needs the folder extensions/, which is absent.
    """
    forms = NETWORKS[name]
    if form not in forms:
        raise InputError(f"{name} has no form {form!r}; set form to {' or '.join(forms)}")
    module, kind = forms[form].split(":")
    try:
        return getattr(importlib.import_module(module), kind)
    except ModuleNotFoundError as error:
        if error.name not in (module, module.partition(".")[0]):
            raise
        raise InputError(
            f"form {form} of {name} is defined in {module.replace('.', '/')}.py, which is not here; "
            f"restore the folder extensions/, or use form paper or released"
        ) from error


def build_network(name: str, config: Any) -> Any:
    """The network `name` with fresh weights; InputError where its config cannot be built."""
    kind = network_class(name, getattr(config, "form", ""))
    try:
        return kind(config)
    except ValueError as error:
        raise InputError(f"the config of {name} cannot be built: {error}") from error


@overload
def load_network(folder: str | os.PathLike, name: Literal["heatmap_predictor"]) -> WindowEncoder: ...
@overload
def load_network(folder: str | os.PathLike, name: Literal["face_synthesizer"]) -> FaceSynthesizer: ...
@overload
def load_network(folder: str | os.PathLike, name: Literal["g4g_synthesizer"]) -> G4GSynthesizer: ...
@overload
def load_network(folder: str | os.PathLike, name: Literal["sync_expert"]) -> SyncExpert: ...
@overload
def load_network(folder: str | os.PathLike, name: Literal["discriminator"]) -> PatchDiscriminator: ...
@overload
def load_network(folder: str | os.PathLike, name: str) -> nn.Module: ...
def load_network(folder: str | os.PathLike, name: str) -> nn.Module:
    """Load the network `name` of a checkpoint folder, in eval mode on the CPU.

    Raises:
        InputError: the folder, a file, the config's section or a tensor is missing or wrong.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"checkpoint {folder} is not a folder; give one with config.yaml and {name}.safetensors")
    if name != "g4g_synthesizer" and is_g4g(folder):
        raise InputError(f"checkpoint {folder} holds G4G's network, and no {name}; give one of STSA's")
    config = network_config(folder / "config.yaml", name)
    weights = existing_file(folder / f"{name}.safetensors", "checkpoint file")
    network = build_network(name, config)
    try:
        state = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{weights} is not a complete safetensors file ({error}); copy it again") from error
    load_state(network, state, str(weights))
    return network.eval()


def network_config(path: str | os.PathLike, name: str) -> Any:
    """The config of the network `name` in a checkpoint's `config.yaml`; InputError where it is missing or wrong."""
    path = existing_file(path, "checkpoint file")
    try:
        sections = OmegaConf.load(path)
    except Exception as error:  # the YAML library's own errors have many types and many lines
        raise InputError(f"{path} is not YAML ({first_line(error)})") from error
    if not isinstance(sections, DictConfig) or name not in sections:
        raise InputError(f"{path} has no section {name}; take the config.yaml saved with {name}.safetensors")
    source = f"{path}: section {name}"
    section = from_first_form(name, with_crop(name, sections[name], source), source)
    first = next(iter(NETWORKS[name]))
    form = str(section.get("form", first)) if OmegaConf.is_dict(section) else first
    check_known(name, form, source)
    kind = network_class(name, form).Config
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), section))
    except InputError as error:  # of the section `crop`
        raise InputError(f"{source}: {error}") from error
    except OmegaConfBaseException as error:
        raise InputError(
            f"{source} is of another version of the code ({first_line(error)}); use that version"
        ) from error


def check_known(name: str, form: str, source: str) -> None:
    """InputError naming `source` where this version has no such form of the network `name`."""
    forms = NETWORKS[name]
    if form not in forms:
        raise InputError(
            f"{source} has form {form!r}, this version knows {', '.join(forms)}; use one of these, or the version of "
            f"the code that it was made with"
        )


def checkpoint_crop(folder: str | os.PathLike) -> CropForm:
    """The form of the crops of a checkpoint's synthesizer; InputError where it has none."""
    for name in ("face_synthesizer", "g4g_synthesizer"):
        if Path(folder, f"{name}.safetensors").is_file():
            return network_config(Path(folder, "config.yaml"), name).crop
    raise InputError(f"checkpoint {folder} has no synthesizer; give the folder of one")


def check_form(folder: str | os.PathLike, networks: Mapping[str, nn.Module]) -> None:
    """InputError where weights in `folder` are of another form or crop than `networks`, by checkpoint name.

    Two forms can have the same tensor names and shapes, but compute different outputs.
    """
    path = Path(folder) / "config.yaml"
    for name, network in networks.items() if path.is_file() else ():
        ours: Any = getattr(network, "config", None)
        if name not in FIRST_KEYS and not hasattr(ours, "crop"):
            continue
        saved = network_config(path, name)
        if hasattr(ours, "crop"):
            remedy = "set it to that to go on, or choose another output"
            check_same_crop(ours.crop, f"this config's {name}", saved.crop, f"the one in {folder}", remedy)
        if name not in FIRST_KEYS:
            continue
        saved = saved.resolved()
        for option in dataclasses.fields(ours):
            if option.name != "form" and option.default is not None:
                continue
            old, new = getattr(saved, option.name, None), getattr(ours, option.name)
            if old != new:
                raise InputError(
                    f"{folder} holds a {name} trained with model.{option.name}={str(old).lower()}, this config says "
                    f"{str(new).lower()}; set it to {str(old).lower()} to go on, or choose another output"
                )


def load_checkpoint(folder: str | os.PathLike) -> tuple[WindowEncoder, FaceSynthesizer]:
    """Load the two networks that dubbing needs, in eval mode on the CPU; InputError if one is missing or wrong."""
    missing = {"heatmap_predictor", "face_synthesizer"} - {path.stem for path in Path(folder).glob("*.safetensors")}
    if len(missing) == 1:
        raise InputError(
            f"checkpoint {folder} lacks {missing.pop()}.safetensors, one of the two networks that dubbing takes; join "
            f"it with the folder of that one: python -m checkpoints.combine {folder} OTHER --output DIR"
        )
    predictor, synthesizer = load_network(folder, "heatmap_predictor"), load_network(folder, "face_synthesizer")
    check_crops(predictor, synthesizer, folder, folder)
    return predictor, synthesizer


def check_crops(
    predictor: WindowEncoder,
    synthesizer: FaceSynthesizer,
    predictor_folder: str | os.PathLike,
    synthesizer_folder: str | os.PathLike,
) -> None:
    """InputError where two networks that work together were trained on crops of different forms."""
    holders = f"the heatmap_predictor of {predictor_folder}", f"the face_synthesizer of {synthesizer_folder}"
    remedy = "give two networks that were trained with the same crop"
    check_same_crop(predictor.config.crop, holders[0], synthesizer.config.crop, holders[1], remedy)


def is_g4g(folder: str | os.PathLike) -> bool:
    """Whether a checkpoint folder holds G4G's network and none of the two of STSA."""
    held = {path.stem for path in Path(folder).glob("*.safetensors")}
    return "g4g_synthesizer" in held and not held & {"heatmap_predictor", "face_synthesizer"}


def digest(checkpoint: str | os.PathLike) -> str:
    """A digest of the content of a checkpoint, which is a folder or a single file."""
    path, whole = Path(checkpoint), hashlib.sha256()
    files = [path / "config.yaml", *sorted(path.glob("*.safetensors"))] if path.is_dir() else [path]
    for file in files:
        try:
            with open(file, "rb") as content:
                whole.update(f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
        except OSError as error:
            raise InputError(
                f"checkpoint {path}: {file.name} cannot be read ({error.strerror}); give a checkpoint folder"
            ) from error
    return whole.hexdigest()[:16]


def load_state(network: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Copy `state` into `network`; InputError naming `source` and a tensor that does not fit."""
    own = network.state_dict()
    for name, tensor in own.items():
        if name not in state:
            raise InputError(f"{source} lacks the tensor {name}; it is not a checkpoint of this network")
        if state[name].shape != tensor.shape:
            found, needed = tuple(state[name].shape), tuple(tensor.shape)
            raise InputError(f"{source}: the tensor {name} has shape {found}, the network needs {needed}")
    extra = next((name for name in state if name not in own), None)
    if extra is not None:
        raise InputError(f"{source} holds the tensor {extra}, which the network of its config does not have")
    network.load_state_dict({name: value.to(own[name].dtype) for name, value in state.items()})


def with_batch_counts(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` with the batch norms' counters, which files of older PyTorch versions lack; eval mode needs none."""
    counters = {name: each for name, each in network.state_dict().items() if name.endswith("num_batches_tracked")}
    return counters | state


def read_foreign(path: str | os.PathLike) -> dict[str, Tensor]:
    """Read the tensors of a foreign `.pth` file, without executing code that its pickle may contain.

    Accepts a plain state dict or one under "state_dict"; drops a leading "module." of the keys.
    """
    path = existing_file(path, "checkpoint file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is damaged, or holds more than tensors, and is refused; get it from its authors again"
        ) from error
    except Exception as error:  # a damaged file leads the unpickler to nearly every type of error
        raise InputError(f"{path} is not a complete PyTorch file ({first_line(error)}); download it again") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    named = isinstance(state, dict) and all(isinstance(name, str) for name in state)
    if not named or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} does not hold a state dict of tensors; give a checkpoint of the network's weights")
    return {name.removeprefix("module."): value for name, value in state.items()}


def load_sync_expert(path: str | os.PathLike) -> SyncExpert:
    """The lip-sync expert of a checkpoint folder, or Wav2Lip's `lipsync_expert.pth`; in eval mode on the CPU.

    Raises:
        InputError: it is neither.
    """
    if Path(path).is_dir():
        return _expert_of(Path(path))
    return _released_expert(read_foreign(path), path)


def _expert_of(folder: Path) -> SyncExpert:
    expert = load_network(folder, "sync_expert")
    ear = folder / hama.NAME
    expert.ear = ear if ear.is_file() else None
    return expert


def expert_audio(path: str | os.PathLike) -> str:
    """The kind of sound features that the sync expert at `path` takes: "mel" for a file, and where there is none."""
    config = Path(path) / "config.yaml"
    return network_config(config, "sync_expert").audio if path and config.is_file() else "mel"


def load_any_sync_expert(path: str | os.PathLike) -> SyncExpert | ChungSyncNet:
    """As `load_sync_expert`; also accepts Chung's `syncnet_v2.model`, recognised by its tensors."""
    if Path(path).is_dir():
        return _expert_of(Path(path))
    state = read_foreign(path)
    return _syncnet(state, path) if "netcnnaud.0.weight" in state else _released_expert(state, path)


def load_syncnet(path: str | os.PathLike) -> ChungSyncNet:
    """The network of LSE-D and LSE-C, from the authors' `syncnet_v2.model`; in eval mode on the CPU.

    Raises:
        InputError: the file does not hold that network.
    """
    return _syncnet(read_foreign(path), path)


def _syncnet(state: dict[str, Tensor], path: str | os.PathLike) -> ChungSyncNet:
    return _released(ChungSyncNet(), lambda: chung_syncnet.released_state(state), path, "Chung's SyncNet")


def _released_expert(state: dict[str, Tensor], path: str | os.PathLike) -> SyncExpert:
    expert = SyncExpert(SyncExpertConfig.released())
    return _released(expert, lambda: sync_expert.released_state(state), path, "Wav2Lip's expert")


def _released(
    network: Network, convert: Callable[[], dict[str, Tensor]], path: str | os.PathLike, name: str
) -> Network:
    """`network` in eval mode with the tensors of the file `path`, renamed by `convert`; `name` is for errors."""
    try:
        state = convert()
    except ValueError as error:
        raise InputError(f"{path} is not {name}: {error}; fetch it again") from error
    load_state(network, state, str(path))
    return network.eval()


def load_released(
    heatmap_file: str | os.PathLike, face_file: str | os.PathLike
) -> tuple[HeatmapPredictor, FaceSynthesizer]:
    """Load the STSA authors' `heatmap_weight.pth` and `face_weight.pth`, in eval mode on the CPU.

    Raises:
        InputError: a file is not such a checkpoint; the message names the tensor or another fault.
    """
    heatmap, face = read_foreign(heatmap_file), read_foreign(face_file)
    predictor = HeatmapPredictor(HeatmapPredictorConfig.released())
    form = face_synthesizer.released_form(face)
    return (
        _released(predictor, lambda: heatmap_predictor.released_state(heatmap), heatmap_file, "STSA's heatmap network"),
        _released(
            FaceSynthesizer(form), lambda: face_synthesizer.released_state(face, form), face_file, "STSA's face network"
        ),
    )
