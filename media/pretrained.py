"""Loads networks of the library transformers from files that are on this machine."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import logging

from media.errors import InputError, first_line
from media.files import DOWNLOADS


def load_pretrained(network: type[PreTrainedModel], model: str, name: str, remedy: str) -> tuple[Any, str, list[str]]:
    """Load `network` from the folder `model`, from the downloads of that name, or from the Hugging Face cache.

    Args:
        name, remedy: what the message of a fault begins and ends with.

    Returns:
        The network, the folder or name that it was loaded from, and the names of the weights that the files lack.

    Raises:
        InputError: the files are missing, or hold another kind of network.
    """
    downloaded = DOWNLOADS / model.rsplit("/", 1)[-1]
    source = next((str(place) for place in (Path(model), downloaded) if (place / "config.json").is_file()), model)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        loaded, info = network.from_pretrained(
            source, local_files_only=True, weights_only=True, output_loading_info=True
        )
    except Exception as error:  # transformers raises a different exception for each fault of the files
        fault = f"cannot be loaded from {source} ({first_line(error)})"
        if source == model and not Path(model).is_dir():
            fault = f"is not in {downloaded}"
        raise InputError(f"{name} {fault}; {remedy}") from error
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
    return loaded, source, sorted(info["missing_keys"])
