"""Files in LIBSVM's text format, for several tests."""

from src.data.libsvm import libsvm

OPTIONS = {
    "validation_path": None,
    "test_path": None,
    "split_sizes": None,
    "split_seed": None,
    "num_features": None,
    "max_features": None,
    "targets": "auto",
    "standardise": False,
}


def load(path, **options):
    return libsvm(path=str(path), **{**OPTIONS, **options})


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)
