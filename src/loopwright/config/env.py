"""The part of a recipe that names a site: where its runs, data and cache are. No part of a run's identity."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from loopwright.config.node import Node, located, setting


def _absolute(path: str) -> str:
    return located(path)


# A directory of the site: never below `data`, as a file of data may be.
Directory = Annotated[str, AfterValidator(_absolute)]


class EnvSettings(Node):
    """A machine or a cluster: `env=NAME` chooses the file `env/NAME.yaml` of `--config-dir`.

    Such a file may also have a mapping `launcher`, the site's defaults for that part of a recipe.
    """

    name: str = setting("local", "what the site is called", trajectory=False, min_length=1)
    runs: Directory | None = setting(
        None, "root of the runs where neither --out nor LOOPWRIGHT_RUNS says one; null is `runs`", trajectory=False
    )
    data: Directory | None = setting(
        None,
        "where a relative path of a data file is looked for that is not in the current directory",
        trajectory=False,
    )
    cache: Directory | None = setting(
        None, "root of the cache where LOOPWRIGHT_CACHE does not say one; null is ~/.cache/loopwright", trajectory=False
    )
