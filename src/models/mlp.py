"""Fully connected feature networks: a multilayer perceptron, one linear map, and none."""

import haiku as hk
import jax
from haiku.experimental import name_scope

from bilevel.types import Array
from src.models import layers
from src.models.layers import WeightsInit, initializer, refuse_sizes_below_one
from src.models.model import BatchNorm, Model, as_model


def mlp(
    *,
    hidden_sizes: tuple[int, ...] = (256, 128, 64, 64),
    normalise: bool = True,
    centre: bool = False,
    batch_norm: BatchNorm = "batch",
    weights_init: WeightsInit = "xavier_uniform",
) -> Model:
    """Images (n, height, width, channels) -> features (n, hidden_sizes[-1]).

    Each layer: linear, batch norm (where `normalise`; then without a bias, which it would cancel;
    `batch_norm`: on whose statistics), ReLU. `centre`: the last less their mean over the batch of
    which these statistics are. The default sizes are those of MAML's Omniglot network
    without convolutions (Finn et al., ICML 2017).

    Raises ValueError where there is no layer, a size is below 1, or the statistics are chosen of a
    batch norm that is not there.
    """
    refuse_sizes_below_one(hidden_sizes=hidden_sizes)
    if batch_norm != "batch" and not (normalise or centre):
        raise ValueError(
            f"batch_norm={batch_norm} chooses the statistics of batch norm, and normalise=false "
            "leaves none; choose normalise=true, or batch_norm=batch"
        )

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
                    hidden = layers.batch_norm(hidden)
            hidden = jax.nn.relu(hidden)
        return layers.centred(hidden) if centre else hidden

    return as_model(forward, batch_norm if normalise or centre else None)


def flat() -> Model:
    """Images (n, height, width, channels) -> features (n, height width channels), no weights.

    With a softmax head on top this is multinomial logistic regression.
    """
    return as_model(lambda images: images.reshape(images.shape[0], -1), None)


def linear(*, num_features: int = 64, weights_init: WeightsInit = "xavier_uniform") -> Model:
    """Images (n, height, width, channels) -> W image, features (n, num_features), no bias.

    With a linear head on top the whole is linear in the image: the simplest model to study.
    Raises ValueError where num_features is below 1.
    """
    refuse_sizes_below_one(num_features=num_features)

    def forward(images: Array) -> Array:
        flat = images.reshape(images.shape[0], -1)
        return hk.Linear(num_features, with_bias=False, w_init=initializer(weights_init))(flat)

    return as_model(forward, None)
