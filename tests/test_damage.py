"""Nothing that was changed behind a run's back is taken for the run: each kind is named."""

import errno
import json
import os
import shutil

import jax
import orbax.checkpoint as ocp
import pytest

from src.output.writers import jsonl_writer, read_rows
from src.running.checkpoint import PLAIN_PATH
from src.running.failures import memory_as_message
from src.running.run import run
from src.running.stored_run import stored_run
from src.settings.errors import UserError
from tests.conftest import QUIET, config_of, message_of, python
from tests.damage import flips

TINY = ["problem=ridge", "method=darts", *QUIET, "num_iterations=4", "checkpoint_every=2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(config_of(*TINY), folder)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def test_a_flipped_bit_changes_nothing_or_is_refused(folder):
    counts = flips(folder, number=60, seed=0)
    assert counts["refused"] > 10
    assert set(counts) <= {"refused", "same numbers"}, counts


@pytest.mark.parametrize(
    ("old", "new"), [('"step": 4', '"step": 5'), ('"best_step": [', '"best_step": [ 9,')]
)
def test_progress_that_was_edited(folder, old, new):
    path = folder / "checkpoints/4/progress/metadata"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    message = message_of(lambda: run(config_of(*TINY, "num_iterations=6"), folder))
    assert "checkpoints/4 is damaged" in message
    assert (
        "delete that folder to go on from iteration 2 (to look at that one: checkpoint=2)"
        in message
    )
    # The step itself says so too, where the list of digests is lost.
    (folder / "checkpoint_digests.json").unlink()
    message = message_of(lambda: run(config_of(*TINY, "num_iterations=6"), folder))
    assert "checkpoints/4 is damaged: it does not hold what was written" in message
    shutil.rmtree(folder / "checkpoints/4")
    assert run(config_of(*TINY, "num_iterations=6"), folder)["iterations"] == 6


def test_a_checkpoint_under_another_number(folder):
    shutil.move(folder / "checkpoints/4", folder / "checkpoints/5")
    message = message_of(lambda: run(config_of(*TINY, "num_iterations=6"), folder))
    assert "checkpoints/5 is damaged" in message


def test_a_configuration_that_was_edited(folder):
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"noise": 1.0', '"noise": 9.0'))
    wanted = r"config.json was changed.*data.noise was 1.0, now 9.0"
    with pytest.raises(UserError, match=wanted), stored_run(folder):
        pass


ODD = ("a[b]", "a\\b", "a?b", "a:b", "a*b")
PLAIN = ("a b", "ä=1,b")


def test_which_names_orbax_gets_another_name_for():
    assert not any(PLAIN_PATH.fullmatch(f"/{name}") for name in ODD)
    assert all(PLAIN_PATH.fullmatch(f"/{name}") for name in PLAIN)


# With another name for orbax, and without.
@pytest.mark.parametrize("name", ["".join(ODD), PLAIN[1]])
def test_any_name_of_a_folder(name, tmp_path):
    folder = tmp_path / name / "run"
    run(config_of(*TINY, "num_iterations=2"), folder)
    run(config_of(*TINY), folder)
    with stored_run(folder) as stored:
        assert stored.checkpoints.latest() == 4
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert [path.name for path in (tmp_path / name).iterdir()] == ["run"]


NAMES = ("config.json", "result.json", "metrics.jsonl", "checkpoints/1", "failure.txt", "mine.png")


@pytest.mark.parametrize("name", NAMES)
def test_files_of_somebody_else(name, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    (tmp_path / ".lock").write_text("mine")
    message = message_of(lambda: run(config_of(*TINY), tmp_path))
    assert (tmp_path / ".lock").read_text() == "mine"
    assert f"holds {name.partition('/')[0]} but no identity.json" in message
    assert path.read_text() == "mine"
    assert {p.name for p in tmp_path.iterdir()} == {path.relative_to(tmp_path).parts[0], ".lock"}


def test_a_refused_command_writes_nothing_into_the_folder_of_a_run(folder, tmp_path):
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for overrides in (["aggregation.alpha=7"], ["method=bda", "seed=3"]):
        done = python("-m", "src.train", *TINY, *overrides, f"hydra.run.dir={folder}")
        assert done.returncode == 1
        assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    done = python("-m", "src.train", *TINY, "seed=-1", f"hydra.run.dir={tmp_path / 'new'}")
    assert done.returncode == 1
    assert not (tmp_path / "new").exists()


def test_what_a_killed_run_left_is_removed(folder):
    left = folder / f".result.json.{'0' * 32}.tmp"
    others = folder / ".mine.tmp"
    for path in (left, others):
        path.write_text("half")
    run(config_of(*TINY, "num_iterations=6"), folder)
    assert not left.exists()
    assert others.exists()


ROWS = [{"step": n, "train/upper_loss": 0.5} for n in (2, 4, 6)]


@pytest.mark.parametrize("damage", ["{not json", "7", "[1, 2]", '{"upper_loss": 1.0}', "\x00\x00"])
def test_metrics_damaged_in_the_middle(damage, tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps(row) for row in ROWS]
    path.write_text("\n".join([lines[0], damage, *lines[1:]]) + "\n")
    before = path.read_bytes()
    assert read_rows(path) == ROWS
    writer = jsonl_writer(path, resume_step=6)
    writer.close(None, [])
    assert read_rows(path) == ROWS
    message = capsys.readouterr().err
    assert "is damaged in line 2: its other rows are kept" in message
    (copy,) = tmp_path.glob("metrics-damaged-*.jsonl")
    assert copy.name in message
    assert copy.read_bytes() == before


def test_metrics_removed_during_the_run(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    writer = jsonl_writer(path, resume_step=0)
    writer.log(ROWS[0])
    path.unlink()
    writer.log(ROWS[1])
    writer.log(ROWS[2])
    writer.close(None, [])
    assert read_rows(path) == ROWS[1:]
    assert capsys.readouterr().err.count("begun again at iteration 4") == 1


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    save = ocp.CheckpointManager.save

    def full(self, step, **options):
        if step == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return save(self, step, **options)

    monkeypatch.setattr(ocp.CheckpointManager, "save", full)
    message = message_of(lambda: run(config_of(*TINY), tmp_path))
    assert "iteration 4 cannot be written" in message
    assert "No space left on device" in message
    assert "the checkpoint of iteration 2 is kept" in message
    monkeypatch.undo()
    assert run(config_of(*TINY), tmp_path)["iterations"] == 4


@pytest.mark.parametrize(
    ("error", "fragment"),
    [
        (MemoryError(), "(allocation failed)"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nat"),
            "(Out of memory allocating 9 bytes.)",
        ),
    ],
)
def test_too_little_memory(error, fragment):
    def train():
        with memory_as_message():
            raise error

    message = message_of(train)
    assert message.startswith(f"there is not enough memory {fragment}")
    assert "tasks_at_once=1" in message


def test_other_errors_of_jax_are_not_called_memory():
    with pytest.raises(jax.errors.JaxRuntimeError), memory_as_message():
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")
