"""What a run cites: every key has an entry, every entry has its fields, and a run writes them."""

import re

import pytest

from src.describe import description
from src.running.run import run
from src.settings.build import build
from src.settings.checked import identity_of
from src.settings.errors import UserError
from src.settings.references import ALWAYS, FILE, OF_OPTIONS, cited, read_references
from tests.conftest import QUIET, ROOT, SHORT, config_of

RIDGE = ["problem=ridge", "num_lower_steps=3", *QUIET, *SHORT]


def test_every_entry_has_its_fields():
    references = read_references()
    assert len(references) == FILE.read_text().count("\n@")
    for key, reference in references.items():
        assert {"author", "title", "year"} <= reference.fields.keys(), key
        assert "{" not in "".join(reference.fields.values()), key
        assert reference.fields["year"] in key


def test_files_name_entries_and_every_entry_is_named():
    known = set(read_references())
    named = {*ALWAYS, *(key for _, key in OF_OPTIONS.values())}  # of every run, and of options
    for path in (ROOT / "conf").rglob("*.yaml"):
        for keys in re.findall(r"^\s*cite: \[(.*?)\]", path.read_text(), re.MULTILINE):
            assert set(keys.split(", ")) <= known, path
            named |= set(keys.split(", "))
    assert named == known


@pytest.mark.parametrize(
    ("key", "short"),
    [
        ("finn2017model", "Finn et al., ICML 2017, arXiv 1703.03400"),
        ("lee2018gradient", "Lee and Choi, ICML 2018, arXiv 1801.05558"),
        ("polyak1964some", "Polyak, USSR Computational Mathematics and Mathematical Physics 1964"),
        ("dagreou2022framework", "Dagréou et al., NeurIPS 2022, arXiv 2201.13409"),
    ],
)
def test_in_short(key, short):
    assert read_references()[key].short() == short


def test_exactly_the_pieces_of_a_run():
    config = config_of("problem=counterexample", "method=bda", "aggregation.law=tpami")
    assert cited(config) == [
        *("liu2020generic", "liu2023general", "franceschi2017forward", "bradbury2018jax"),
    ]
    few = "problem=few_shot", "model=mlp", "method=maml", "method.learn_start=network"
    assert "kao2022maml" in cited(config_of(*few))
    assert "kao2022maml" not in cited(config_of(*few[:-1]))
    config = config_of("problem=ridge", "method=hoag", "upper_optimizer=adam")
    assert cited(config) == ["pedregosa2016hyperparameter", "kingma2015adam", "bradbury2018jax"]


def test_a_run_leaves_its_citations(tmp_path):
    result = run(config_of(*RIDGE, "method=darts"), tmp_path, ["method=darts"])
    text = (tmp_path / "citations.bib").read_text()
    assert re.findall(r"^@\w+\{(\w+)", text, re.MULTILINE) == result["cite"]
    assert {"liu2019darts", "kingma2015adam"} <= set(result["cite"])
    told = {name: result[name] for name in ("problem", "method", "seed", "overrides")}
    assert told == {"problem": "ridge", "method": "darts", "seed": 0, "overrides": ["method=darts"]}
    assert result["versions"]["packages"]["jax"]


def test_a_method_without_a_paper(tmp_path):
    """And what is cited is no part of what a run is."""
    config = config_of(*RIDGE, "method=darts")
    other = config_of(*RIDGE, "method=darts", "method.cite=[]", "hypergradient.cite=[]")
    assert identity_of(config) == identity_of(other)
    assert next(description(other, "runs/x")) == "ridge with darts"
    assert cited(other) == ["kingma2015adam", "bradbury2018jax"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("method.cite=[me2026]", r"method.cite: docs/references.bib has no entry me2026; add one"),
        ("hypergradient.cite=x", "hypergradient.cite='x' must be a list of keys"),
        ("hypergradient.cite=[1]", r"hypergradient.cite=\[1\] must be a list of keys"),
        ("hypergradient.cite=null", "hypergradient.cite=None must be a list of keys"),
    ],
)
def test_wrong_keys_are_refused(option, message):
    with pytest.raises(UserError, match=message):
        build(config_of(*RIDGE, "method=darts", option))
