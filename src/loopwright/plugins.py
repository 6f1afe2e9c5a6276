"""What a recipe can name: our own parts, declared here, and those that installed packages add by entry point.

A package registers its parts by importing the module that holds them:

    [project.entry-points."loopwright.plugins"]
    mine = "my_package.parts"
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from importlib.metadata import entry_points

log = logging.getLogger("loopwright")

# Group -> module -> the names it registers. A module is imported when one of its names is asked for.
_BUILTIN: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "task": {
        "tasks.autoencoder.task": ("autoencoder",),
        "tasks.python": ("python",),
        "tasks.regex.task": ("regex",),
        "tasks.regression.task": ("regression",),
        "tasks.set_prediction.task": ("set_prediction",),
        "tasks.walks.task": ("walks",),
    },
    "task/data": {
        "tasks.autoencoder.digits": ("digits",),
        "tasks.autoencoder.events": ("events",),
        "tasks.regression.data": ("csv", "diabetes", "linear", "parquet", "wave"),
    },
    "task/loss": {"tasks.regression.losses": ("bce_with_logits", "cross_entropy", "huber", "l1", "mse")},
    "task/encoder": {
        "models.autoencoder.diffusion": ("diffusion",),
        "models.autoencoder.gan": ("gan",),
        "models.autoencoder.gnn": ("gnn",),
        "models.autoencoder.mlp": ("mlp",),
    },
    "task/decoder": {
        "models.autoencoder.diffusion": ("diffusion",),
        "models.autoencoder.gan": ("gan",),
        "models.autoencoder.gnn": ("gnn",),
        "models.autoencoder.mlp": ("mlp",),
    },
    "task/latent": {
        "models.autoencoder.latents": ("linear", "none"),
        "models.autoencoder.vq": ("vq",),
    },
    "task/loop": {
        "tasks.autoencoder.adversarial": ("gan",),
        "tasks.autoencoder.denoising": ("diffusion",),
        "tasks.autoencoder.reconstruction": ("ae",),
    },
    "model": {
        "models.frequency": ("frequency",),
        "models.gru": ("gru",),
        "models.mlp": ("mlp",),
        "models.spiking_mlp": ("spiking_mlp",),
        "models.spiking_transformer": ("spiking_transformer",),
        "models.transformer": ("transformer",),
    },
    "optim": {"optim.optimizers": ("adam", "adamw", "sgd")},
    "schedule": {
        "optim.hyperbolic": ("exp_hyperbolic", "hyperbolic"),
        "optim.schedules": ("constant", "cosine", "plateau", "step", "warmup_cosine", "warmup_linear"),
    },
    "launcher": {
        "sweeps.launchers.condor": ("condor",),
        "sweeps.launchers.inline": ("inline",),
        "sweeps.launchers.local": ("local",),
        "sweeps.launchers.ray": ("ray",),
        "sweeps.launchers.slurm": ("slurm",),
    },
    "sampler": {"searches.samplers": ("cmaes", "gp", "grid", "nsgaii", "random", "tpe")},
    "pruner": {"searches.pruners": ("hyperband", "median", "none", "pfl", "wilcoxon")},
    "plots": {"report.settings": ("full", "minimal", "none", "standard")},
}


def declared() -> dict[str, dict[str, str]]:
    """Our own names, each with the module that registers it: group -> name -> module."""
    return {
        group: {name: f"loopwright.{module}" for module, names in modules.items() for name in names}
        for group, modules in _BUILTIN.items()
    }


class _Installed:
    """Whether the plug-ins have been imported. The lock makes a second thread wait for all of them; the thread that
    imports them may ask for names on the way, since a plug-in composes recipes if it likes."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.begun = self.ended = False


_installed = _Installed()


def load_installed() -> None:
    """Import what plug-ins register, once in a process; one that fails to is reported and left out."""
    if _installed.ended:
        return
    with _installed.lock:
        if _installed.begun:
            return
        _installed.begun = True
        for entry in entry_points(group="loopwright.plugins"):
            try:
                entry.load()
            except Exception as error:
                log.warning("plug-in %s failed to load and is left out: %s", entry.name, error)
        _installed.ended = True
