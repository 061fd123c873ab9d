"""Files in LIBSVM's text format that are refused: the message names the file and the line."""

import os
import re

import pytest

from src.data.libsvm import libsvm
from tests.libsvm_files import OPTIONS, load, write


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("one 1:2", "starts with 'one', but a row starts with its label, a finite number"),
        ("1:2 2:3", "starts with '1:2'"),
        ("1,2 1:2", "starts with '1,2'"),
        ("nan 1:2", "starts with 'nan'"),
        ("1e999 1:2", "starts with '1e999'"),
        ("1_0 1:2", "starts with '1_0'"),
        ("1 qid:3 1:2", "has 'qid:3': groups of a ranking are not read"),
        ("1 1:2 3", "has '3', but index:value is needed"),
        ("1 1: 2", "has '1:', but index:value is needed"),
        ("1 1:2,5", "has '1:2,5', but index:value is needed"),
        ("1 1:inf", "has '1:inf', but index:value is needed, with a finite number"),
        ("1 1:1e999", "has '1:1e999', but index:value is needed, with a finite number"),
        ("1 -1:2", "has '-1:2', but index:value is needed"),
        ("1 1.0:2", "has '1.0:2', but index:value is needed"),
        ("1 0:2 1:3", "has '0:2', but indices start at 1; write the file anew by scikit-learn"),
        ("1 1:3 0:2", "has '0:2', but indices start at 1"),
        ("1 2:3 2:4", "has '2:4', the index 2 a second time; remove one of the two"),
        ("1 3:3 2:4 3:1", "has '3:1', the index 3 a second time"),
        ("1 1:2\u00a02:3", "has '1:2\\xa02:3', but index:value is needed"),
        ("1 \u0661:2", "has '\u0661:2', but index:value is needed"),
        ("1 " + "9" * 500 + ":1", "has '" + "9" * 40 + "', but index:value is needed"),
    ],
)
def test_an_unreadable_line_is_named(tmp_path, line, message):
    path = write(tmp_path / "a", "# first", "1 1:1", "", line, "-1 1:1")
    with pytest.raises(ValueError, match=re.escape(f"path={path}: line 4 {message}")) as refused:
        load(path)
    assert str(refused.value).startswith("path=")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x1f\x8b\xff\xfe\0", "PATH is damaged .*; get the file again"),
        (b"1 1:2\n1 \xe9:2\n", "line 2 of PATH is not UTF-8 .byte 0xe9 at 3.; save the file"),
        (b"\x89PNG\r\n", "line 1 of PATH is not UTF-8 .* at 1.: it is a PNG image; save"),
        (b"<!doctype html>\n<p>", ".*line 1 starts with '<!doctype'.*: the file is a web page"),
    ],
)
def test_a_file_that_is_something_else(tmp_path, content, message):
    (tmp_path / "a").write_bytes(content)
    message = message.replace("PATH", re.escape(str(tmp_path / "a")))
    with pytest.raises(ValueError, match=rf"^path[:=].*{message}"):
        load(tmp_path / "a")


def test_what_might_never_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "a named pipe"), ("/dev/zero", "a device")):
        with pytest.raises(ValueError, match=f"^path: {path} is {kind}, but a file is needed$"):
            load(path)


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"path": None}, {}, "path: PATH cannot be read: No such file"),
        ({"path": "# nothing"}, {}, "path=PATH: the file holds no row; a row is for example"),
        ({"path": "1\n2\n3"}, {}, "path=PATH: no row has a feature"),
        ({"path": "1 1:1\n1 1:2\n1 1:3"}, {}, "path=PATH: every label is 1, but at least two"),
        ({"path": "1 1:1\n2 1:2"}, {}, "split_sizes=null asks for at least 3 rows"),
        (
            {"path": "1 1:1\n2 1:2\n.5 1:3"},
            {"targets": "classes"},
            "targets=classes: path=PATH has the label 0.5 in line 3, but classes are whole",
        ),
        (
            {"path": "1 1:1\n2 1:2\n1 1:3 7:1"},
            {"num_features": 5},
            "num_features=5: path=PATH has an index up to 7, first past it in line 3; choose "
            "num_features=7, or null",
        ),
        (
            {"path": "2 1:1\n2 1:2\n2 1:3"},
            {"targets": "numbers"},
            "targets: the training rows (1) all have the number 2, so there is",
        ),
        (
            {"path": "1\n2\n1 1:1"},
            {"max_features": 1},
            "max_features=1: no training row has an entry, so there is no feature to keep",
        ),
        ({"path": "1 1:1\n2 1:1"}, {"num_features": 0}, "num_features=0 must be at least 1"),
        (
            {"path": "1 1:1\n2 999999999:2\n1 1:2"},
            {"sparse": False},
            "path=PATH: 3 rows of 999999999 features would fill 22.4 GiB as a dense table, over "
            "the limit of 4 GiB; choose data.sparse=true with data.standardise=false, or keep the "
            "most common features alone, data.max_features=178956970",
        ),
        (
            {"path": "1 1:1\n2 999999999:2\n1 1:2"},
            {"standardise": True},
            "standardise=true: 3 rows of 999999999 features are kept sparse, and to centre them "
            "would fill in every 0 (22.4 GiB); choose data.standardise=false, or dense rows of the "
            "most common features, data.max_features=178956970",
        ),
        (
            {"path": "1 1:1\n2 9999999999:2\n1 1:2"},
            {},
            "path=PATH: 3 sparse rows of 9999999999 features, each as long as the longest (of 1 "
            "entries), would fill",
        ),
        (
            {"path": "1 1:1\n2 1:2\n1 1:3", "test_path": "1 1:1\n3 1:2"},
            {},
            "test_path=TEST_PATH has the class 3 in line 2, but path=PATH, from which is learned, "
            "has only 1, 2: move some of its rows there",
        ),
        (
            {"path": "1 1:1\n2 1:2", "validation_path": "1 1:1\n2 x"},
            {},
            "validation_path=VALIDATION_PATH: line 2 has 'x'",
        ),
        *(
            (
                {"path": f"1 1:{value}\n2 1:-{value}\n1 1:3\n2 1:1"},
                {"split_sizes": (2, 1, 1), "standardise": True},
                "standardise=true: some values are too large or too small",
            )
            for value in ("1e308", "1e-300")
        ),
    ],
)
def test_what_is_wrong_with_files_is_named(tmp_path, files, options, message):
    paths = {option: str(tmp_path / option) for option in files}
    for option, text in files.items():
        if text is not None:
            write(tmp_path / option, text)
        message = re.sub(rf"\b{option.upper()}\b", paths[option], message)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        libsvm(**{**OPTIONS, **paths, **options})


def test_no_path_and_a_file_for_two_splits(tmp_path):
    with pytest.raises(ValueError, match=r"^path=null: name a file .* data.path=FILE"):
        libsvm(path=None, **OPTIONS)
    path = write(tmp_path / "a", "1 1:1", "2 1:1")
    with pytest.raises(ValueError, match=f"^test_path={path} is the file of path too"):
        load(path, test_path=path)
