"""Files of the data that others take the place of, behind a run."""

import shutil

import numpy as np
import pytest

from src.data import contents
from src.data.contents import digest_of_data, stamp_of_files
from src.data.image_classes import SPLITS
from src.data.labelled import make_table
from src.running.run import run
from src.running.stored_run import stored_run, stored_state
from src.settings import build
from src.settings.errors import UserError
from tests.conftest import QUIET, config_of, message_of


def write_table(path, rows, seed=0):
    generator = np.random.default_rng(seed)
    inputs = generator.standard_normal(rows)
    lines = [[*row, int(row.sum() > 0)] for row in inputs]
    names = [*(f"c{i}" for i in range(rows[1])), "y"]
    path.write_text("\n".join(",".join(map(str, line)) for line in [names, *lines]) + "\n")


@pytest.fixture(scope="module")
def of_a_table(tmp_path_factory):
    """(overrides of a run, its file, its folder)"""
    place = tmp_path_factory.mktemp("table")
    write_table(place / "a.csv", (40, 4))
    overrides = ["problem=regularisation", "data=table", f"data.path={place / 'a.csv'}"]
    overrides += ["data.target=y", *QUIET, "num_iterations=2"]
    run(config_of(*overrides), place / "run")
    return overrides, place / "a.csv", place / "run"


@pytest.fixture
def table_run(of_a_table, tmp_path):
    """The same, whose file is put back afterwards."""
    overrides, path, folder = of_a_table
    content = path.read_bytes()
    yield overrides, path, shutil.copytree(folder, tmp_path / "run")
    path.write_bytes(content)


# rows and columns of the new file, and the seed of its numbers
@pytest.mark.parametrize("new", [((40, 4), 1), ((50, 4), 0), ((40, 5), 0)], ids=str)
def test_another_file_is_not_taken_for_the_data_of_the_run(new, table_run):
    overrides, path, folder = table_run
    write_table(path, *new)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for more in ([], ["num_iterations=3"]):  # finished, and one that would go on
        message = message_of(lambda more=more: run(config_of(*overrides, *more), folder))
        for fragment in (f"data.path={path}", str(folder), "put the old files", "hydra.run.dir"):
            assert fragment in message
    with pytest.raises(UserError, match="the data there are not those that the run"):
        stored_run(folder).__enter__()
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_a_file_that_was_only_written_again_is_the_same_data(table_run):
    overrides, path, folder = table_run
    content = path.read_text()
    path.write_text(content.replace("\n", "\r\n"))
    assert run(config_of(*overrides), folder)["iterations"] == 2
    with stored_run(folder) as stored:
        assert stored.checkpoints.latest() == 2
    path.unlink()
    assert run(config_of(*overrides), folder)["iterations"] == 2  # finished: nothing is read


def test_a_finished_run_does_not_read_files_that_nobody_has_written(table_run, monkeypatch):
    overrides, path, folder = table_run
    assert run(config_of(*overrides), folder)["iterations"] == 2  # of a copy: looked at, and noted
    read, looked_at = [], digest_of_data
    monkeypatch.setattr(build, "digest_of_data", lambda data: read.append(1) or looked_at(data))
    run(config_of(*overrides), folder)
    assert not read
    path.write_text(path.read_text().replace("\n", "\r\n"))
    run(config_of(*overrides), folder)
    run(config_of(*overrides), folder)
    assert len(read) == 1
    write_table(path, (40, 4), 1)
    assert "put the old files" in message_of(lambda: run(config_of(*overrides), folder))


def test_the_stamp_of_files(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("1", "b/2"):
        (tmp_path / "a" / name).write_text("old")
    stamps = [stamp_of_files([tmp_path / "a"])]
    assert stamps[0] == stamp_of_files([str(tmp_path / "a")])
    (tmp_path / "a" / "b" / "2").write_text("longer")
    stamps.append(stamp_of_files([tmp_path / "a"]))
    (tmp_path / "a" / "b" / "3").touch()
    stamps += [stamp_of_files([tmp_path / "a"]), stamp_of_files([tmp_path / "a" / "1"])]
    assert None not in stamps
    assert len(set(stamps)) == 4
    assert stamp_of_files([tmp_path / "none"]) is None
    with monkeypatch.context() as patch:
        patch.setattr(contents, "MANY", 2)
        assert stamp_of_files([tmp_path / "a"]) is None
    (tmp_path / "a" / "elsewhere").symlink_to(tmp_path)
    assert stamp_of_files([tmp_path / "a"]) is None


def test_the_way_out_where_the_data_have_changed(table_run):
    """Without the digest, as in folders of before, the data are taken as they are, and noted."""
    overrides, path, folder = table_run
    write_table(path, (40, 4), 1)
    digest = folder / "data_digest.json"
    old = digest.read_bytes()
    digest.write_text("{")
    assert "data_digest.json is damaged" in message_of(lambda: run(config_of(*overrides), folder))
    digest.unlink()
    assert run(config_of(*overrides, "num_iterations=3"), folder)["iterations"] == 3
    assert digest.read_bytes() != old


def test_a_checkpoint_of_other_sizes(table_run):
    overrides, path, folder = table_run
    write_table(path, (40, 5))
    (folder / "data_digest.json").unlink()
    longer = config_of(*overrides, "num_iterations=3")
    message = message_of(lambda: run(longer, folder))
    assert "checkpoints/2 does not fit the data as they are now" in message
    assert "4) there" in message
    assert "5) here" in message
    with stored_run(folder) as stored, pytest.raises(UserError, match="does not fit the data"):
        stored_state(stored, "last")


def test_x_goes_on_with_new_data(table_run, tmp_path):
    overrides, path, folder = table_run
    write_table(path, (40, 4), 1)
    started = config_of(*overrides, f"start_from={folder}")
    assert run(started, tmp_path / "new")["iterations"] == 2


def test_data_without_files_are_not_noted(tmp_path):
    run(config_of("problem=ridge", "method=darts", *QUIET, "num_iterations=1"), tmp_path)
    assert not (tmp_path / "data_digest.json").exists()


def test_the_digest_of_data_is_that_of_its_numbers():
    """On any machine, though the means by which it was standardised are rounded there."""
    generator = np.random.default_rng(0)
    rows, ints = generator.standard_normal((60, 7)), generator.integers(-1, 2, (60, 5))
    inputs = np.concatenate([rows, ints, rows[:, :1] > 0], axis=1)
    labels = (rows.sum(1) > 0).astype(float)

    def table(inputs=inputs, labels=labels, noise=0.0, **changed):
        made = make_table(
            dict.fromkeys(SPLITS, inputs), dict.fromkeys(SPLITS, labels), 2, True, ("no", "yes")
        )
        noisy = {
            split: np.asarray(of) + noise * generator.standard_normal(of.shape)
            for split, of in made.inputs.items()
        }
        return digest_of_data(made._replace(inputs=noisy, **changed))

    assert table() == table(noise=1e-15) == table(origins={"train": ("row 1",) * 60})
    other = inputs.copy()
    other[7, 3] += 0.01
    changes = {"labels": 1 - labels}, {"names": ("a", "b")}, {"features": ("a", "b")}
    assert len({table(), table(other), *(table(**change) for change in changes)}) == 5
    assert table(inputs) != table(inputs[::-1])
