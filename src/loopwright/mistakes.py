"""What torch says when a training asks for something that it does not do, said in one line with the way out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from loopwright.building import Built
from loopwright.engine.finite import listed
from loopwright.errors import ConfigError, DataError


@contextmanager
def mistakes_explained(built: Built) -> Iterator[None]:
    """A block whose known errors of torch become a ConfigError or DataError; others go through."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        explained = _one_sample(built, error) or _sparse(built, error) or _not_deterministic(error)
        if explained is None:
            raise
        raise explained from error


def _not_deterministic(error: Exception) -> ConfigError | None:
    operation, found, _ = str(error).partition(" does not have a deterministic implementation")
    if not found:
        return None
    return ConfigError(
        f"`deterministic` is true, and {operation} has no deterministic form; use another operation, or "
        "--no-deterministic (deterministic=false), which promises no bits"
    )


def _one_sample(built: Built, error: Exception) -> DataError | None:
    if "Expected more than 1 value per channel when training" not in str(error):
        return None
    train, loader = built.recipe.train, built.task.loader("train")
    number = None if loader is None else loader.num_samples
    samples = "an unknown number of" if number is None else f"{number:,}"
    parts = f" cut into {train.accumulate} parts (train.accumulate)" if train.accumulate > 1 else ""
    return DataError(
        f"a batch of one sample came to a BatchNorm, which needs at least two in training: {samples} samples, "
        f"train.batch_size={train.batch_size}{parts}; use another train.batch_size, so that the last batch is not one sample, "
        "or give a DataLoader with drop_last=True"
    )


def _sparse(built: Built, error: Exception) -> ConfigError | None:
    text, name = str(error), built.recipe.optim.name
    graded = [(n, p.grad.is_sparse) for n, p in built.state.named_parameters() if p.grad is not None]
    sparse = [n for n, is_sparse in graded if is_sparse]
    if not sparse or "sparse" not in text.lower():
        return None
    ours = f"the gradient of {listed(sparse)} is sparse (Embedding(sparse=True))"
    if "dense gradients" in text:
        dense = [n for n, is_sparse in graded if not is_sparse]
        return ConfigError(
            f"`optim.name` is {name!r}, which takes sparse gradients only, and that of {listed(dense)} is dense; use sgd or "
            "Adagrad, which take both"
        )
    if "sparse gradients" in text and "weight_decay" not in text:
        return ConfigError(
            f"`optim.name` is {name!r}, which takes no sparse gradients, and {ours}; use sgd, Adagrad, or SparseAdam where "
            "all are sparse, or sparse=False"
        )
    if "norm" in text:
        return ConfigError(
            f"{ours}, and torch computes no norm of sparse gradients; leave out train.clip_norm and record.grad_norm, or use "
            "sparse=False"
        )
    return ConfigError(f"{ours}, and torch says: {text.splitlines()[0]}; use sparse=False")
