"""Seeds and tasks on several devices: the same numbers, and what is refused."""

import json

import jax
import pytest

from src.settings.build import build
from src.settings.checked import check_settings
from src.settings.devices import ALONE, Sharing, sharing_of
from src.settings.errors import UserError
from tests.conftest import QUIET, config_of, python


def settings_of(**changed):
    return check_settings(config_of("problem=ridge", *QUIET))._replace(**changed)


# devices, seeds, tasks, there, on a CPU
CHOSEN = {
    ("auto", 1, 8, 1, False): ALONE,
    ("auto", 1, 8, 4, False): Sharing("tasks", 4),
    ("auto", 1, 6, 4, False): Sharing("tasks", 3),
    ("auto", 8, 8, 4, False): Sharing("seeds", 4),
    ("auto", 3, 8, 4, False): Sharing("tasks", 4),
    ("auto", 3, 1, 4, False): Sharing("seeds", 3),
    ("auto", 1, 8, 4, True): ALONE,
    ("auto", 6, 8, 4, True): Sharing("seeds", 3),
    ("auto", 5, 8, 4, True): ALONE,
    (2, 4, 1, 2, True): Sharing("seeds", 2),
    (2, 1, 4, 2, True): Sharing("tasks", 2),
    (1, 8, 8, 4, False): ALONE,
}


@pytest.mark.parametrize(("asked", "sharing"), CHOSEN.items())
def test_what_is_shared_out(asked, sharing):
    devices, seeds, tasks, there, on_cpu = asked
    settings = settings_of(devices=devices, seeds=seeds, meta_batch_size=tasks)
    assert sharing_of(settings, False, there, on_cpu) == sharing


@pytest.mark.parametrize(
    ("changed", "persistent", "words"),
    [
        ({"devices": 0}, False, ["devices=0", "devices=auto"]),
        ({"devices": 3}, False, ["devices=3", "there are 2", "at most devices=2"]),
        (
            {"devices": 2, "seeds": 3, "meta_batch_size": 5},
            False,
            ["devices=2 divides neither seeds=3 nor meta_batch_size=5", "devices=1, or seeds=2"],
        ),
        ({"devices": 2}, True, ["nor the one task of this problem", "seeds=2"]),
    ],
)
def test_what_cannot_be_shared_out(changed, persistent, words):
    with pytest.raises(UserError) as refused:
        sharing_of(settings_of(**changed), persistent, 2, on_cpu=True)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_a_platform_that_is_not_this_one(platform):
    if jax.default_backend() != "cpu":
        pytest.skip("this machine has an accelerator")
    with pytest.raises(UserError, match=f"platform={platform}.*computes on cpu already"):
        build(config_of("problem=ridge", *QUIET, f"platform={platform}"))
    ended = python("-m", "src.describe", "problem=ridge", f"platform={platform}")
    assert ended.returncode == 1
    assert f"platform={platform}: jax finds none here" in ended.stderr
    assert "choose platform=auto" in ended.stderr


@pytest.mark.parametrize("case", ["seeds", "bda", "hoag"])
def test_the_same_numbers_on_any_number_of_devices(case, tmp_path, omniglot_folder):
    """x, losses and scores in float64; also of a run begun on two devices and continued on one."""
    ended = python(
        "-m",
        "tests.devices_script",
        str(tmp_path),
        str(omniglot_folder),
        case,
        JAX_NUM_CPU_DEVICES="4",
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert len(found) == 2
    assert max(found.values()) < 1e-12, found
