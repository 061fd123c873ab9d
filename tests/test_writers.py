"""What is written beside the numbers: wandb, JSONL, the console, pictures, whole files."""

import importlib
import json
import struct
import sys
import warnings
from types import SimpleNamespace

import pytest

from src.files import write_atomically, write_json
from src.output.plots import learning_curves
from src.output.wandb_writer import Label, wandb_mode, wandb_writer
from src.output.writer import Writer, together
from src.output.writers import console_writer, jsonl_writer, read_rows
from src.running.run import run
from src.settings.checked import WandbOptions
from src.settings.errors import UserError
from tests.conftest import config_of, python, read_metrics

COUNTEREXAMPLE = ["problem=counterexample", "compilation_cache=false", "num_iterations=12"]
CADENCES = ["log_every=3", "eval_every=5", "checkpoint_every=4"]
OPTIONS = WandbOptions("offline", "bilevel", None, None, ())
LABEL = Label("a-run", ())


def wandb_records(path):
    """The records of an offline run's file: LevelDB's log format behind 7 bytes of header.

    wandb 0.31 no longer ships its own reader in Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pb2 = importlib.import_module("wandb.proto.wandb_internal_pb2")
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    position, message, records = 7, b"", []
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        message += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last of several pieces
            record = pb2.Record()
            record.ParseFromString(message)
            records.append(record)
            message = b""
    return records


def items_of(items):
    return {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in items}


def test_a_wandb_run_in_two_pieces_is_one_run(tmp_path):
    """As after a kill: the second folder holds everything, and the first is put away."""
    for stop in (8, 12):
        done = python(
            *["-m", "src.train", *COUNTEREXAMPLE[:2], *CADENCES, f"num_iterations={stop}"],
            *["logger=[wandb,jsonl]", "logger.wandb.group=g", "logger.wandb.tags=[a,b]"],
            *["method=rhg", f"hydra.run.dir={tmp_path}"],
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    (replaced,) = tmp_path.glob("wandb/replaced/offline-run-*/*.wandb")
    records, before = wandb_records(file), wandb_records(replaced)
    runs = [record.run for piece in (records, before) for record in piece if record.HasField("run")]
    identifier = (tmp_path / "wandb_id.txt").read_text()
    assert {run.run_id for run in runs} == {identifier}
    assert {run.project for run in runs} == {"bilevel"}
    tags = ["a", "b", "counterexample", "one task", "rhg", "unrolled hypergradient"]
    assert (runs[0].run_group, list(runs[0].tags)) == ("g", tags)
    assert runs[0].display_name == "counterexample-rhg-seed0"
    config = items_of(runs[0].config.update)
    assert config["num_lower_steps"] == 40
    assert config["method"]["name"] == "rhg"
    metrics = [record.metric for record in records if record.HasField("metric")]
    assert ("*", "step") in {(metric.glob_name, metric.step_metric) for metric in metrics}

    history = [items_of(r.history.item) for r in records if r.HasField("history")]
    logged = {row["step"]: row for row in read_metrics(tmp_path)}
    assert list(logged) == [3, 5, 6, 9, 10, 12]
    assert [row["_step"] for row in history] == list(logged)
    for row in history:
        ours = logged[row["_step"]]
        assert {key: row[key] for key in ours} == ours
    earlier = [items_of(r.history.item)["_step"] for r in before if r.HasField("history")]
    assert earlier == [3, 5, 6, 8]  # 8: the end of a run of 8 iterations, which this one is not
    picture = history[-1]["pictures/learning_curves/path"]
    assert (file.parent / "files" / picture).read_bytes().startswith(b"\x89PNG")

    result = json.loads((tmp_path / "result.json").read_text())
    summary = {}
    for record in records:
        if record.HasField("summary"):
            summary |= items_of(record.summary.update)
    for name in ("validation/upper_loss", "best/validation/upper_loss", "best/step", "seconds"):
        assert summary[name] == result[name]
    assert_wandb_reads_the_same(file, list(logged))


def assert_wandb_reads_the_same(file, steps):
    """By wandb's own reader, where this version has one on the command line."""
    done = python("-m", "wandb", "leet", "inspect", "--json", str(file))
    if "No such command" in done.stderr:
        return
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert sum(row.get("type") == "history" for row in rows) == len(steps), done.stdout[:2000]


def test_a_run_without_wandb(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    result = run(config_of(*COUNTEREXAMPLE, *CADENCES, "logger=[jsonl]"), tmp_path / "a")
    assert result["iterations"] == 12
    with pytest.raises(UserError, match=r"pip install wandb.*logger=\[console,jsonl\]"):
        run(config_of(*COUNTEREXAMPLE, *CADENCES, "logger=[wandb]"), tmp_path / "b")


def test_a_run_without_any_writer(tmp_path):
    result = run(config_of(*COUNTEREXAMPLE, "logger=[]"), tmp_path)
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert not (tmp_path / "metrics.jsonl").exists()


class FakeRun:
    step = 0

    def __init__(self):
        self.exit_code = None

    def define_metric(self, *arguments, **options):
        pass

    def log(self, *arguments, **options):
        raise RuntimeError("no room left")

    def finish(self, exit_code):
        self.exit_code = exit_code


@pytest.mark.parametrize(("result", "exit_code"), [(None, 1), ({"test/upper_loss": 1.0}, 0)])
def test_a_wandb_run_is_finished_even_where_its_last_words_fail(
    result, exit_code, tmp_path, monkeypatch
):
    fake = FakeRun()

    class Module:
        errors = SimpleNamespace(Error=RuntimeError, CommError=ConnectionError)
        Settings = staticmethod(lambda **options: None)
        Image = staticmethod(lambda path: path)
        init = staticmethod(lambda **options: fake)

    monkeypatch.setitem(sys.modules, "wandb", Module)
    config = config_of(*COUNTEREXAMPLE)
    writer = wandb_writer(OPTIONS, tmp_path, LABEL, config)
    with pytest.raises(RuntimeError):
        writer.close(result, [tmp_path / "picture.png"])
    assert fake.exit_code == exit_code


def test_tensorboard_holds_rows_options_scores_and_pictures_of_a_run_in_two_pieces(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    options = [*COUNTEREXAMPLE, *CADENCES, "logger=[jsonl,tensorboard]"]
    for stop in (8, 12):
        result = run(config_of(*options, f"num_iterations={stop}"), tmp_path)
    (file,) = tmp_path.glob("events.out.tfevents.*")
    values = [
        (event.step, value)
        for event in LegacyEventFileLoader(str(file)).Load()
        for value in event.summary.value
    ]
    rows = [
        (row["step"], tag, pytest.approx(number))
        for row in read_metrics(tmp_path)
        for tag, number in row.items()
        if "/" in tag
    ]
    written = [
        (step, value.tag, value.simple_value)
        for step, value in values
        if "/" in value.tag and not value.tag.startswith("_hparams_")
    ]
    assert written[: len(rows)] == rows
    tags = {value.tag: value for _, value in values}
    best = tags["best/validation/upper_loss"].simple_value
    assert best == pytest.approx(result["best/validation/upper_loss"], rel=1e-5)
    picture = tags["pictures/learning_curves"].image.encoded_image_string
    assert picture.startswith(b"\x89PNG")
    assert any(name.startswith("_hparams_") for name in tags)


def test_without_rows_of_its_own_tensorboard_keeps_the_events_that_are_there(tmp_path):
    """Nobody else has them: a second file goes on where the first ends."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = [*COUNTEREXAMPLE, *CADENCES, "logger=[tensorboard]"]
    for stop in (8, 12):
        run(config_of(*options, f"num_iterations={stop}"), tmp_path)
    joined = EventAccumulator(str(tmp_path)).Reload()
    steps = [event.step for event in joined.Scalars("train/upper_loss")]
    assert steps == sorted(set(steps))
    assert steps[0] < 8 < steps[-1] == 12


def test_a_run_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(UserError, match=r"tensorboard is not installed.*\.\[tensorboard\]"):
        run(config_of(*COUNTEREXAMPLE, "logger=[tensorboard]"), tmp_path / "b")


def test_one_writer_that_fails_to_close_does_not_keep_the_others_open(tmp_path):
    closed = []

    def nothing(*_):
        return None

    def fails(*_):
        raise RuntimeError("no room left")

    writers = [
        Writer(nothing, nothing, fails),
        Writer(nothing, nothing, lambda *_: closed.append(True)),
    ]
    with pytest.raises(RuntimeError, match="no room left"):
        together(writers).close(None, [])
    assert closed == [True]


def test_jsonl_cuts_what_is_past_the_checkpoint_and_what_is_torn(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": n, "train/upper_loss": 0.1 * n} for n in (2, 4, 6)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text + '{"step": 8, "train/up')
    assert read_rows(path) == rows
    writer = jsonl_writer(path, resume_step=4)
    writer.log({"step": 6, "train/upper_loss": 7.0})
    writer.progress(6, 7.0, 1.0)
    writer.close(None, [])
    assert read_rows(path) == [*rows[:2], {"step": 6, "train/upper_loss": 7.0}]
    assert read_rows(tmp_path / "none.jsonl") == []


def test_console_shows_validations(capsys):
    writer = console_writer(0, 10)
    writer.progress(5, 1.0, 2.0)
    writer.log({"step": 5, "train/upper_loss": 1.0})
    writer.log({"step": 10, "validation/accuracy": 0.875, "validation/accuracy_ci95": 0.5})
    writer.close(None, [])
    out, err = capsys.readouterr()
    assert out == ""  # stdout is for results
    assert "iteration 10" in err
    assert "accuracy 0.875" in err
    assert "iteration 5" not in err
    assert "ci95" not in err


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})

    def half(temporary):
        temporary.write_text('{"a": ')
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_atomically(path, half)
    assert json.loads(path.read_text()) == {"a": 1}
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_learning_curves(tmp_path):
    path = tmp_path / "curves.png"
    assert not learning_curves([], path, "nothing")
    assert not learning_curves([{"step": 1, "seconds": 3.0}], path, "nothing to draw")
    assert not path.exists()
    rows = [
        {"step": 10, "train/upper_loss": 1.0, "train/hypergradient_norm": 0.0},
        {"step": 20, "train/upper_loss": 0.5, "validation/accuracy": 0.9, "train/alpha": 0.4},
    ]
    assert learning_curves(rows, path, "title")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("CommError", "does not answer (run initialization has timed out): this run is kept off"),
        ("UsageError", "`wandb login` may be missing (run initialization has timed out): this run"),
    ],
)
def test_without_an_answer_or_a_login_wandb_is_kept_offline(
    kind, said, tmp_path, monkeypatch, capsys
):
    error = type("Error", (RuntimeError,), {})
    kinds = {name: type(name, (error,), {}) for name in ("CommError", "UsageError")}
    modes, torn_down = [], []

    def init(**options):
        modes.append(options["mode"])
        if options["mode"] == "online":
            raise kinds[kind]("run initialization has timed out\nmore")
        return FakeRun()

    class Module:
        errors = SimpleNamespace(Error=error, **kinds)
        Settings = staticmethod(lambda **options: options)
        teardown = staticmethod(lambda: torn_down.append(True))

    Module.init = staticmethod(init)
    monkeypatch.setitem(sys.modules, "wandb", Module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    wandb_writer(OPTIONS._replace(mode="online"), tmp_path, LABEL, {})
    assert (modes, torn_down) == (["online", "offline"], [True])
    message = capsys.readouterr().err
    assert said in message
    assert f"wandb sync {tmp_path}/wandb/offline-run-*" in message


@pytest.mark.parametrize(
    ("environment", "mode"),
    [(None, "online"), ("", "online"), ("disabled", "disabled"), ("OFFLINE", "offline")],
)
def test_the_environment_chooses_wandbs_mode(environment, mode, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if environment is not None:
        monkeypatch.setenv("WANDB_MODE", environment)
    assert wandb_mode("online") == mode
    monkeypatch.setenv("WANDB_MODE", "nonsense")
    with pytest.raises(UserError, match="WANDB_MODE=nonsense must be one of offline, online"):
        wandb_mode("online")
