"""Arrays on the devices that use them, and whole again on the host, in one process or several."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from bilevel.types import Tree
from src.settings.devices import AXIS, Sharing


def mesh_of(sharing: Sharing) -> Mesh:
    """The devices, as one axis: of several processes the same number from each, in their order."""
    if sharing.processes == 1:
        devices = jax.local_devices()[: sharing.number]
    else:
        each = sharing.number // sharing.processes
        devices = [device for own in devices_by_process() for device in own[:each]]
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def devices_by_process() -> list[list[Any]]:
    """The devices of each process."""
    found: dict[int, list[Any]] = {}
    for device in jax.devices():
        found.setdefault(device.process_index, []).append(device)
    return [found[index] for index in sorted(found)]


def spec_of(sharing: Sharing, of_seeds: bool) -> PartitionSpec:
    """How arrays lie on the mesh: those with an axis of seeds, and all others."""
    return PartitionSpec(AXIS) if of_seeds and sharing.what == "seeds" else PartitionSpec()


def placed(tree: Tree, sharing: Sharing, of_seeds: bool) -> Tree:
    """The arrays, which every process has whole, bound to the devices that use them."""
    if sharing.number == 1:
        return jax.device_put(tree, jax.local_devices()[0])
    where = NamedSharding(mesh_of(sharing), spec_of(sharing, of_seeds))
    if sharing.processes == 1:
        return jax.device_put(tree, where)
    return jax.tree.map(
        lambda leaf: leaf if is_spread(leaf) else _bound(plain(leaf), where, leaf), tree
    )


def placed_like(tree: Tree, like: Tree) -> Tree:
    """What `on_host` has made, as the arrays of `like`: on their devices, random keys as keys."""
    return jax.tree.map(lambda array, leaf: _bound(array, leaf.sharding, leaf), tree, like)


def on_host(tree: Tree) -> Tree:
    """The arrays whole, as numpy ones, in every process; of random keys their numbers."""
    return jax.device_get(jax.tree.map(lambda leaf: plain(_whole(leaf)), tree))


def own_copy(tree: Tree) -> Tree:
    """The arrays whole, as arrays of this process alone; all processes call this."""
    return jax.tree.map(_whole, tree)


def is_spread(leaf: Any) -> bool:
    """Whether other processes hold a part of this array, or a copy."""
    return isinstance(leaf, jax.Array) and not leaf.is_fully_addressable


def plain(leaf: Any) -> Any:
    """The numbers of a random key; any other array as it is."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _whole(leaf: Any) -> Any:
    if not is_spread(leaf):
        return leaf
    if not leaf.is_fully_replicated:
        everywhere = NamedSharding(leaf.sharding.mesh, PartitionSpec())
        leaf = jax.jit(_same, out_shardings=everywhere)(leaf)
        # One after the other: processes must not meet in different exchanges.
        jax.block_until_ready(leaf)
    return leaf.addressable_data(0)


def _same(leaf: jax.Array) -> jax.Array:
    return leaf


def _bound(array: Any, where: Sharding, like: Any) -> jax.Array:
    """`array`, whole in every process, with this sharding; a random key where `like` is one."""
    if where.is_fully_addressable:
        bound = jax.device_put(array, where)
    else:
        array = np.asarray(array)
        bound = jax.make_array_from_callback(array.shape, where, lambda index: array[index])
    if _is_key(like):
        return jax.random.wrap_key_data(bound, impl=jax.random.key_impl(like))
    return bound
