"""Compiled programs kept on disk between processes."""

import jax
from jax.experimental.compilation_cache import compilation_cache

from src.data.array_cache import default_folder


def use_compilation_cache(wanted: bool) -> None:
    """Keep compiled programs in the user's cache folder, or stop doing so.

    Set per run, since the jobs of a sweep share a process. A cache that somebody else has set is
    not touched.
    """
    folder = default_folder("jax")
    current = jax.config.values["jax_compilation_cache_dir"]
    if folder is None or (not wanted and current != str(folder)):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder) if wanted else None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    compilation_cache.reset_cache()
