"""What the engine asks of a part of your own, as checks that a test calls.

    from loopwright.testing import check_task

    def test_conformance() -> None:
        check_task(MyTaskConfig())

Each check builds the part, trains it for two short epochs on a CPU, and raises AssertionError with a line that says what
does not hold: same seed, same bits; a resume from the middle of an epoch is exact; evaluating moves nothing; a task holds
no changing state; what is measured is what was declared. Needs nothing but Loopwright; one check takes about a second.
"""

from __future__ import annotations

from loopwright.testing.autoencoders import check_encoder, check_latent
from loopwright.testing.parts import check_data, check_loss, check_model
from loopwright.testing.tasks import check_task

__all__ = ["check_data", "check_encoder", "check_latent", "check_loss", "check_model", "check_task"]
