"""Fully connected feature networks: a multilayer perceptron, one linear map, and none."""

import haiku as hk
import jax
from haiku.experimental import name_scope

from bilevel.types import Array
from src.models.layers import WeightsInit, batch_norm, initializer, refuse_sizes_below_one
from src.models.model import Model


def mlp(
    *,
    hidden_sizes: tuple[int, ...] = (256, 128, 64, 64),
    normalise: bool = True,
    weights_init: WeightsInit = "xavier_uniform",
) -> Model:
    """Images (n, height, width, channels) -> features (n, hidden_sizes[-1]).

    Each layer: linear, batch norm on the batch at hand (where `normalise`; then without a bias,
    which it would cancel), ReLU. The default sizes are those of MAML's Omniglot network without
    convolutions (Finn et al., ICML 2017).

    Raises ValueError where there is no layer or a size is below 1.
    """
    refuse_sizes_below_one(hidden_sizes=hidden_sizes)

    def forward(images: Array) -> Array:
        hidden = images.reshape(images.shape[0], -1)
        for layer, size in enumerate(hidden_sizes):
            linear_map = hk.Linear(
                size,
                with_bias=not normalise,
                w_init=initializer(weights_init),
                name=f"layer_{layer}",
            )
            hidden = linear_map(hidden)
            if normalise:
                with name_scope(f"layer_{layer}_norm"):
                    hidden = batch_norm(hidden)
            hidden = jax.nn.relu(hidden)
        return hidden

    network = hk.without_apply_rng(hk.transform(forward))
    return Model(init=network.init, apply=network.apply)


def flat() -> Model:
    """Images (n, height, width, channels) -> features (n, height width channels), no weights.

    With a softmax head on top this is multinomial logistic regression.
    """
    return Model(
        init=lambda key, images: {},
        apply=lambda weights, images: images.reshape(images.shape[0], -1),
    )


def linear(*, num_features: int = 64, weights_init: WeightsInit = "xavier_uniform") -> Model:
    """Images (n, height, width, channels) -> W image, features (n, num_features), no bias.

    With a linear head on top the whole is linear in the image: the simplest model to study.
    Raises ValueError where num_features is below 1.
    """
    refuse_sizes_below_one(num_features=num_features)

    def forward(images: Array) -> Array:
        flat = images.reshape(images.shape[0], -1)
        return hk.Linear(num_features, with_bias=False, w_init=initializer(weights_init))(flat)

    network = hk.without_apply_rng(hk.transform(forward))
    return Model(init=network.init, apply=network.apply)
