"""Every stored file flipped, cut, emptied or deleted: recovered identically, or refused in one line; never silence."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from crypsis.digests import LEDGER
from tests.conftest import Crypsis
from tests.damage import MODES, contents, damage, follow, numbers, one_line, stored_files

pytestmark = pytest.mark.smoke


@pytest.fixture(scope="module")
def config(nano_organism: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("config") / "run.yaml"
    rl = {"steps": 3, "prompts_per_step": 2, "group_size": 2, "max_new_tokens": 40, "checkpoint_every": 1}
    run = {"name": "damaged", "policy": str(nano_organism), "rl": rl, "evaluation": {"every": 1, "n": 2}}
    file.write_text(yaml.safe_dump(run))
    return file


@pytest.fixture(scope="module")
def sound(config: Path, tmp_path_factory: pytest.TempPathFactory, crypsis_here: Crypsis) -> Path:
    out = tmp_path_factory.mktemp("sound") / "run"
    done = crypsis_here("train", config, "--out", out)
    assert done.returncode == 0, done.stderr
    assert crypsis_here("check", out).returncode == 0
    return out


class Bench:
    """A finished run whose files are damaged one after the other, and the command that made it."""

    def __init__(self, config: Path, sound: Path, out: Path, crypsis: Crypsis) -> None:
        self._config, self._sound, self.out, self._crypsis = config, sound, out, crypsis
        self._followed: set[str] = set()

    def hurt(self, name: str, mode: str) -> None:
        """Damages one file of a copy and demands that the command recovers or refuses, and that ``check`` sees it."""
        shutil.rmtree(self.out, ignore_errors=True)
        shutil.copytree(self._sound, self.out)
        damage(self.out / name, mode)
        spare = name.startswith("checkpoints/")
        checked = self._crypsis("check", self.out, env={"COLUMNS": "400"})
        whole = mode == "gone" and name == LEDGER  # as a folder of an earlier version
        assert whole or checked.returncode == 2, f"{name} {mode}: check sees nothing"
        done = self._crypsis("train", self._config, "--out", self.out)
        if done.returncode == 0:
            if not whole:
                assert kept(self.out, spare) == kept(self._sound, spare), f"{name} {mode}: passed for sound"
                assert mode == "gone" or self._crypsis("check", self.out).returncode == 0
        else:
            self._obey(one_line(done))

    def _obey(self, line: str) -> None:
        """Follows the advice of a line, each kind of advice once, and demands the numbers of the undisturbed run."""
        advice = line.partition(";")[2]
        if advice not in self._followed:
            self._followed.add(advice)
            follow(line)
            done = self._crypsis("train", self._config, "--out", self.out)
            assert done.returncode == 0, done.stderr
            assert numbers(self.out) == numbers(self._sound), line


def kept(folder: Path, spare: bool) -> dict[str, bytes]:
    """What must be there again; checkpoints of a finished run may be deleted."""
    return {k: v for k, v in contents(folder).items() if not (spare and k.startswith("checkpoints/"))}


@pytest.fixture
def bench(config: Path, sound: Path, tmp_path: Path, crypsis_here: Crypsis) -> Bench:
    return Bench(config, sound, tmp_path / "run", crypsis_here)


SAMPLE = (
    ("evals/step-0003.parquet", "flip"),
    ("evals/step-0001.parquet", "gone"),
    ("metrics.jsonl", "flip"),
    ("pilot.json", "gone"),
    ("model/model.safetensors", "flip"),
    ("checkpoints/step-0003/digest.json", "cut"),
    ("checkpoints/step-0002/state.json", "flip"),
    ("config.yaml", "cut"),
    (LEDGER, "flip"),
)


@pytest.mark.parametrize(("name", "mode"), SAMPLE)
def test_a_damaged_file_of_a_finished_run(bench: Bench, name: str, mode: str) -> None:
    bench.hurt(name, mode)


@pytest.mark.stress
def test_every_file_of_a_finished_run(bench: Bench, sound: Path) -> None:
    names = stored_files(sound)
    for name in names:
        for mode in MODES:
            bench.hurt(name, mode)
    print(f"{len(names) * len(MODES)} corruptions of {len(names)} files of a run")
