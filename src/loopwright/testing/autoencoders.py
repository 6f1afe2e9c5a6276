"""`check_encoder`, `check_latent` and token data: does a part of an autoencoder keep what the others rely on?

Letters of shapes as in `models/autoencoder/parts.py`; the tokens of the checks have 3 features, 4 types and a latent of 5.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from loopwright.engine.evaluate import evaluating
from loopwright.engine.task import Split
from loopwright.engine.weights import content_hash
from loopwright.models.autoencoder.parts import Coded, Encoder, Latent, Space, TokenShape
from loopwright.streams import Streams
from loopwright.tasks.autoencoder.data import TokenData
from loopwright.testing.samples import Tokens
from loopwright.testing.tasks import check_task, close, held, task_config

_STREAMS = Streams(0)
_SHAPE = TokenShape(num_tokens=6, num_features=3, num_types=4, num_globals=0)
_WIDTH = 5
_SPLITS: tuple[Split, ...] = ("train", "val", "test")


def check_encoder(encoder: Encoder) -> None:
    """Raise AssertionError unless an encoder gives z (B, T, L), leaves padding out of account, judges each sample by
    itself, and the autoencoder trains with it as `check_task` wants."""
    held(isinstance(encoder, Encoder), f"{type(encoder).__name__} does not derive from Encoder")
    with _STREAMS.fork("weights"):
        module = encoder.build(_SHAPE, _WIDTH)
    held(isinstance(module, nn.Module), f"build() should return an nn.Module, not {type(module).__name__}")
    tokens_BTF, types_BT = _tokens()
    shape = (*types_BT.shape, _WIDTH)
    z_BTL = module(tokens_BTF, types_BT, _STREAMS.generator)
    held(
        tuple(z_BTL.shape) == shape,
        f"in training tokens {tuple(tokens_BTF.shape)} give {tuple(z_BTL.shape)} instead of {shape}",
    )
    other_BTF = torch.where((types_BT == 0).unsqueeze(-1), torch.full_like(tokens_BTF, 9.0), tokens_BTF)
    with evaluating(module), torch.no_grad():
        z_BTL, again = module(tokens_BTF, types_BT), module(tokens_BTF, types_BT)
        padded, alone = module(other_BTF, types_BT), module(tokens_BTF[:1], types_BT[:1])
    real = types_BT != 0
    held(tuple(z_BTL.shape) == shape, f"in evaluation z is {tuple(z_BTL.shape)} instead of {shape}")
    held(torch.equal(z_BTL, again), "in evaluation the same tokens give two encodings; no noise where `noise` is None")
    held(bool(torch.isfinite(z_BTL[real]).all()), "the encoding of a real token is not finite")
    held(
        close(z_BTL[real], padded[real]), "the encoding of real tokens depends on what padding (type 0) holds; mask it"
    )
    held(close(z_BTL[0][real[0]], alone[0][real[0]]), "a sample's encoding depends on the rest of its batch")
    check_task(task_config("autoencoder", data=Tokens(), encoder=encoder))


def check_latent(latent: Latent) -> None:
    """Raise AssertionError unless a latent space keeps the shape of z, has a scalar penalty, changes nothing in forward,
    and the autoencoder trains with it as `check_task` wants."""
    held(isinstance(latent, Latent), f"{type(latent).__name__} does not derive from Latent")
    with _STREAMS.fork("weights"):
        space = latent.build(_WIDTH)
    held(isinstance(space, Space), f"build() should return a Space, not {type(space).__name__}")
    _, types_BT = _tokens()
    z_BTL = torch.randn(*types_BT.shape, _WIDTH, generator=_STREAMS.generator("z"), requires_grad=True)
    before = content_hash(space.state_dict())
    coded = space(z_BTL, types_BT, _STREAMS.generator)
    held(isinstance(coded, Coded), f"forward should return a Coded, not {type(coded).__name__}")
    held(coded.z_BTL.shape == z_BTL.shape, f"z {tuple(z_BTL.shape)} becomes {tuple(coded.z_BTL.shape)}; keep its shape")
    scalar = isinstance(coded.penalty, Tensor) and coded.penalty.ndim == 0
    held(scalar, "the penalty should be a scalar tensor, zero where there is none")
    held(
        content_hash(space.state_dict()) == before,
        "forward changes parameters or buffers; what is learnt goes to update()",
    )
    (gradient,) = torch.autograd.grad(coded.z_BTL.square().sum() + coded.penalty, z_BTL, allow_unused=True)
    held(gradient is not None and bool(gradient.any()), "no gradient reaches the encoder through this space")
    codes = coded.codes_BT
    held(
        (codes is None) == (space.num_codes == 0),
        f"num_codes is {space.num_codes} and codes_BT {'not ' * (codes is not None)}None",
    )
    if codes is not None:
        real = types_BT != 0
        inside = bool((codes[real] >= 0).all() and (codes[real] < space.num_codes).all())
        held(inside and bool((codes[~real] == -1).all()), "codes are 0 to num_codes - 1, and -1 for padding")
    with torch.no_grad():
        held(space.settle(z_BTL.detach()).shape == z_BTL.shape, "settle() should keep the shape of z")
    check_task(task_config("autoencoder", data=Tokens(), latent=latent))


def check_token_data(data: TokenData) -> None:
    """Raise AssertionError unless batches are (tokens, types, globals) of the shape that the data name, and an
    autoencoder trains on them as `check_task` wants."""
    samples = data.load(batch_size=4, streams=_STREAMS, device=torch.device("cpu"))
    shape = samples.shape
    held(
        data.has_globals == (shape.num_globals > 0),
        f"has_globals is {data.has_globals} with {shape.num_globals} globals",
    )
    for split in _SPLITS:
        loader = samples.loaders.get(split)
        if loader is None:
            held(split == "test", f"there is no loader for {split}")
            continue
        tokens_BTF, types_BT, globals_BG = next(iter(loader.epoch(0)))
        wanted = (len(types_BT), shape.num_tokens, shape.num_features)
        held(tuple(tokens_BTF.shape) == wanted, f"{split}: tokens are {tuple(tokens_BTF.shape)} instead of {wanted}")
        held(tuple(types_BT.shape) == wanted[:2], f"{split}: types are {tuple(types_BT.shape)} instead of {wanted[:2]}")
        given = (wanted[0], shape.num_globals)
        held(tuple(globals_BG.shape) == given, f"{split}: globals are {tuple(globals_BG.shape)} instead of {given}")
        held(types_BT.dtype == torch.int64, f"{split}: types are {types_BT.dtype}, not int64")
        known = bool((types_BT >= 0).all() and (types_BT < shape.num_types).all())
        held(known, f"{split}: a type lies outside 0 (padding) to {shape.num_types - 1}")
        held(bool(torch.isfinite(tokens_BTF).all()), f"{split}: a token holds a value that is not finite")
    check_task(task_config("autoencoder", data=data))


def _tokens() -> tuple[Tensor, Tensor]:
    """Four samples with 6, 5, 4 and 3 real tokens."""
    tokens_BTF = torch.randn(4, _SHAPE.num_tokens, _SHAPE.num_features, generator=_STREAMS.generator("tokens"))
    place_T = torch.arange(_SHAPE.num_tokens)
    real_BT = place_T < torch.arange(6, 2, -1).unsqueeze(1)
    return tokens_BTF, torch.where(real_BT, place_T % (_SHAPE.num_types - 1) + 1, 0)
