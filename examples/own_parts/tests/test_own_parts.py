"""Both parts keep what Loopwright asks of them, and learn."""

from pathlib import Path

from loopwright import compose
from loopwright.experiment import run
from loopwright.testing import check_encoder, check_task

CONF = Path(__file__).parent.parent / "conf"


def test_the_encoder_keeps_the_agreements() -> None:
    check_encoder(compose("task=autoencoder", "task/encoder=attentive", config_dir=CONF).task.encoder)


def test_the_task_keeps_the_agreements() -> None:
    check_task(compose("task=quantiles", config_dir=CONF).task)


def test_four_in_five_lie_between_the_quantiles() -> None:
    recipe = compose("task=quantiles", "train.epochs=20", "optim.lr=0.01", "record.save=false", config_dir=CONF)
    last = run(recipe).last
    assert last is not None
    assert last["val_covered"] is not None
    assert abs(last["val_covered"] - 0.8) < 0.05
