"""The order of samples.

A step's samples (`StepSampler`) and its random numbers (`Run.progress`) depend on the seed and the step only. A resumed
run therefore needs no loader state. The global batches are the same for every number of processes and workers.
"""

from collections.abc import Iterator, Sequence, Sized
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from data_prep.windows import ClipDataset
from media.errors import InputError
from training.config import DataConfig, TrainConfig


class StepSampler(Sampler):
    """Yields one process's share of each batch, as a list of (index, seed), from step `first` on.

    Samples are drawn in epochs without replacement. The order of an epoch depends on (seed, epoch), a sample's own seed
    on (seed, position). A resumed run therefore gets the same samples.
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
    """The training and the validation dataset, both of `shape`; only the training dataset takes `options`."""
    shape = shape | {"holdout": data.holdout}
    options |= {"augment": data.augment, "decoded": data.decoded}
    options |= {"max_offset": data.max_offset, "correct_offsets": data.correct_offsets}
    options |= {"smallest_face": data.smallest_face}
    return ClipDataset(data.train, **options, **shape), ClipDataset(data.val, held_out=data.holdout > 0, **shape)


def training_batches(dataset: Dataset, config: Any, accelerator: Accelerator, first: int) -> Iterator[dict]:
    """Yield this process's batches, on its device, from step `first` on."""
    assert isinstance(dataset, Sized)  # as every dataset that is read by index
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
    except InputError as error:  # a loader worker's message is a traceback, whose last line is the error's own
        raise InputError(str(error).splitlines()[-1].rpartition("InputError: ")[2]) from error


def move(batch: dict, device: torch.device) -> dict:
    """Move the tensors of a batch to `device`; other values (clip ids) stay."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def validation_batch(dataset: Dataset, count: int) -> dict:
    """A batch of `count` samples, spread evenly over a validation set; every call gives the same samples.

    The batch stays in CPU memory, about 3 MB for a window of five frames and five references at 128x128. Its `parts`
    are moved.
    """
    assert isinstance(dataset, Sized)  # as every dataset that is read by index
    positions = [round((i + 0.5) * len(dataset) / count - 0.5) for i in range(count)]
    return next(iter(DataLoader(dataset, batch_sampler=[[(position, position) for position in positions]])))


def mean_of_parts(scores: Sequence[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """Means over the samples of a batch; `scores` holds the number of samples and the means of each part."""
    total = sum(count for count, _ in scores)
    return {name: sum(count * values[name] for count, values in scores) / total for name in scores[0][1]}


def parts(batch: dict, size: int) -> Iterator[dict]:
    """Split a batch into batches of at most `size` samples, so that validation needs no more memory than training."""
    for i in range(0, len(batch["clip"]), size):
        yield {name: value[i : i + size] for name, value in batch.items()}
