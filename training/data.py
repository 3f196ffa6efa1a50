"""The order of samples.

Which samples a step sees (`StepSampler`) and the random numbers it draws (`Run.progress`) are functions of the seed and
the step alone, so a resumed run needs no loader state, and every number of processes or workers sees the same global
batches.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from data_prep.windows import ClipDataset
from media.errors import InputError
from training.config import DataConfig, TrainConfig


class StepSampler(Sampler):
    """Batches of (index, seed) for the steps from `first` on, the share of one of several processes.

    The samples are drawn in epochs without replacement; the order of an epoch comes from (seed, epoch) and a sample's
    own seed from (seed, position), so step s sees the same samples however the run got there.
    """

    def __init__(self, length: int, config: TrainConfig, first: int = 0, process: int = 0, processes: int = 1):
        self.length, self.config, self.first = length, config, first
        self.process, self.share = process, config.batch_size // processes

    def __len__(self) -> int:
        return self.config.steps - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, []
        for step in range(self.first, self.config.steps):
            batch = []
            for position in range(step * self.config.batch_size, (step + 1) * self.config.batch_size):
                if position // self.length != epoch:
                    epoch = position // self.length
                    generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
                    order = torch.randperm(self.length, generator=generator).tolist()
                batch.append((order[position % self.length], self.config.seed * 1_000_000_007 + position))
            yield batch[self.process * self.share : (self.process + 1) * self.share]


def training_windows(data: DataConfig, shape: dict, **options) -> tuple[ClipDataset, ClipDataset]:
    """The windows to train on and those to validate on, both of `shape`; `options` are the former's alone."""
    shape = shape | {"holdout": data.holdout}
    options |= {"augment": data.augment, "decoded": data.decoded}
    options |= {"max_offset": data.max_offset, "correct_offsets": data.correct_offsets}
    return ClipDataset(data.train, **options, **shape), ClipDataset(data.val, held_out=data.holdout > 0, **shape)


def training_batches(dataset: Dataset, config: Any, accelerator: Accelerator, first: int) -> Iterator[dict]:
    """Yield this process's batches of the steps from `first` on, on its device."""
    sampler = StepSampler(
        len(dataset), config.train, first, accelerator.process_index, accelerator.num_processes
    )  # fmt: skip
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=config.data.workers,
        pin_memory=accelerator.device.type == "cuda",
        persistent_workers=False,
    )
    try:
        for batch in loader:
            yield move(batch, accelerator.device)
    except InputError as error:  # of a loader's worker the last line, below its traceback, says what is wrong
        raise InputError(str(error).splitlines()[-1].rpartition("InputError: ")[2]) from error


def move(batch: dict, device: torch.device) -> dict:
    """Move the tensors of a batch; what is not a tensor (clip ids) stays."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def validation_batch(dataset: Dataset, count: int) -> dict:
    """A fixed batch of `count` samples spread evenly over a validation set: the same people and frames every time.

    It stays in the CPU's memory, about 3 MB a window of five frames and five references; `parts` of it are moved.
    """
    positions = [round((i + 0.5) * len(dataset) / count - 0.5) for i in range(count)]
    return next(iter(DataLoader(dataset, batch_sampler=[[(position, position) for position in positions]])))


def mean_of_parts(scores: Sequence[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """Means over the samples of a batch, from the number of samples and the means of each of its parts."""
    total = sum(count for count, _ in scores)
    return {name: sum(count * values[name] for count, values in scores) / total for name in scores[0][1]}


def parts(batch: dict, size: int) -> Iterator[dict]:
    """Split a batch into batches of at most `size` samples: a validation takes no more memory than a training step."""
    for i in range(0, len(batch["clip"]), size):
        yield {name: value[i : i + size] for name, value in batch.items()}
