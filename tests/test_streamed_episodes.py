"""Streamed episodes are those of the device; support and query may share images."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from src.certification.cases import tiny_images
from src.data.episodes import episodes


def sources(**options):
    classes = tiny_images()
    options = {"ways": 3, "shots": 1, "queries": 2, **options}
    return [episodes(classes._replace(streamed=s), **options) for s in (False, True)]


def assert_same(*trees):
    for a, b in zip(*map(jax.tree.leaves, trees), strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)


@pytest.mark.parametrize(("split", "overlap"), [("train", False), ("test", True)])
def test_streamed_tasks_are_the_same_bit_by_bit(split, overlap):
    plain, streamed = sources(overlap=overlap)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(streamed.data)) < 200
    keys = jax.random.split(jax.random.key(4), 5)

    def by_jit(source):
        return jax.jit(source.sample, static_argnums=(2, 3))(source.data, keys[0], split, 7)

    def by_scan(source):
        def body(carry, key):
            return carry, source.sample(source.data, key, split, 2)

        return jax.jit(lambda keys: jax.lax.scan(body, 0, keys)[1])(keys)

    def by_groups(source):
        """A map over groups of a vmap, as src/running/evaluation.py has it."""

        def one(key):
            return source.sample(source.data, key, split, 1)

        return jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=2))(keys)

    for draw in (by_jit, by_scan, by_groups):
        assert_same(draw(plain), draw(streamed))


def test_streamed_in_float32_and_one_callback_for_all_tasks():
    plain, streamed = sources()
    with jax.enable_x64(False):
        jaxpr = str(
            jax.make_jaxpr(lambda k: streamed.sample(streamed.data, k, "test", 9))(
                jax.random.key(0)
            )
        )
        assert len(re.findall(r"= pure_callback\[", jaxpr)) == 1
        draw = [jax.jit(s.sample, static_argnums=(2, 3)) for s in (plain, streamed)]
        tasks = [
            d(s.data, jax.random.key(1), "test", 9)
            for d, s in zip(draw, (plain, streamed), strict=True)
        ]
    assert_same(*tasks)
    assert tasks[1]["query"]["images"].dtype == jnp.float32


def identities(images):
    """Which of the (different) images each one is."""
    flat = np.asarray(images).reshape(-1, *images.shape[-3:])
    return [image.tobytes() for image in flat]


def test_overlap_draws_support_and_query_on_their_own():
    """One of 6 for support and 3 of 6 for query: a share of 1/2 of the classes has it in both."""
    tasks = 400
    for overlap, expected in ((False, 0.0), (True, 0.5)):
        source, _ = sources(ways=2, shots=1, queries=3, overlap=overlap)
        draw = jax.jit(source.sample, static_argnums=(2, 3))
        drawn = draw(source.data, jax.random.key(2), "train", tasks)
        support = identities(drawn["support"]["images"].reshape(tasks * 2, 1, 8, 8, 1))
        query = drawn["query"]["images"].reshape(tasks * 2, 3, 8, 8, 1)
        shared = np.mean([s in identities(q) for s, q in zip(support, query, strict=True)])
        assert abs(shared - expected) < 0.08  # standard deviation below 0.018
        assert all(len(set(identities(q))) == 3 for q in query)  # each without replacement


def test_overlap_needs_fewer_images():
    plain, _ = sources(shots=6, queries=6, overlap=True)
    drawn = jax.jit(plain.sample, static_argnums=(2, 3))(plain.data, jax.random.key(0), "test", 1)
    assert set(identities(drawn["support"]["images"])) == set(identities(drawn["query"]["images"]))
    with pytest.raises(ValueError, match=r"shots=1 and queries=7 need 7 .* which has 6; choose 6"):
        sources(queries=7, overlap=True)
    with pytest.raises(ValueError, match="need 7 different images"):
        sources(shots=1, queries=6)
