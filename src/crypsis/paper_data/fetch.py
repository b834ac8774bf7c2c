"""``crypsis data fetch``: files of the release from the Hugging Face hub, only those asked for. No torch here.

A file that is there is not fetched again, so the same command goes on after an interruption; a connection that breaks
within a file is taken up where it broke by ``huggingface_hub`` itself. Names are all that is known before a file is
here, so what is asked for is chosen by file name; columns are looked at by ``crypsis data check``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from crypsis.disk import disk_faults
from crypsis.paper_data.layout import DATASET, stem_fits
from crypsis.types import UserError, visible

SPARE = 1 << 28
"""Bytes that stay free on the disk."""
DATASETS = {"alignment-faking-rl": DATASET}
"""Names of the data sets that can be fetched."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on the hub.

    Attributes:
        name: Path within the data set.
        size: In bytes.
    """

    name: str
    size: int

    def is_in(self, folder: Path) -> bool:
        """Whether it was fetched to a folder, as far as its size tells."""
        path = folder / self.name
        return path.is_file() and path.stat().st_size == self.size


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """What is to be fetched.

    Attributes:
        dataset: Its name on the hub.
        chosen: The files asked for.
        missing: Those of them that are not there yet.
        free: Bytes free where they go.
    """

    dataset: str
    chosen: tuple[RemoteFile, ...]
    missing: tuple[RemoteFile, ...]
    free: int

    @property
    def size(self) -> int:
        """Bytes to fetch."""
        return sum(file.size for file in self.missing)

    def lines(self) -> list[str]:
        """What the user is told before anything is fetched."""
        whole = sum(file.size for file in self.chosen)
        there = len(self.chosen) - len(self.missing)
        return [
            f"{self.dataset}: {len(self.chosen)} files, {_size(whole)}; {there} are there already",
            f"to fetch: {len(self.missing)} files, {_size(self.size)}; free on the disk: {_size(self.free)}",
        ]


def plan_fetch(name: str, organisms: Sequence[str], interventions: Sequence[str], out: Path) -> FetchPlan:
    """Asks the hub what there is, and chooses.

    Args:
        name: One of ``DATASETS``.
        organisms: As file names begin, in any case; empty for all.
        interventions: As file names go on; empty for all.
        out: Folder that the files go to.

    Raises:
        UserError: No such data set, no network, or no file fits.
    """
    if name not in DATASETS:
        raise UserError(f"'{name}' is no data set that can be fetched; known: {', '.join(DATASETS)}")
    dataset = DATASETS[name]
    hub, entries = _hub(), []
    tree = _asked(dataset, lambda: list(hub.HfApi().list_repo_tree(dataset, repo_type="dataset", recursive=True)))
    for entry in tree:
        if getattr(entry, "size", None) is not None and entry.path.endswith(".parquet"):
            entries.append(RemoteFile(_inside(entry.path), int(entry.size)))
    chosen = tuple(file for file in sorted(entries, key=lambda f: f.name) if _wanted(file, organisms, interventions))
    if not chosen:
        stems = sorted({PurePosixPath(file.name).stem for file in entries})
        raise UserError(f"{dataset}: no file fits; there are {', '.join(visible(stem) for stem in stems) or 'none'}")
    place = next(path for path in (out.resolve(), *out.resolve().parents) if path.exists())
    missing = tuple(file for file in chosen if not file.is_in(out))
    return FetchPlan(dataset, chosen, missing, shutil.disk_usage(place).free)


def fetch(plan: FetchPlan, out: Path, on_file: Callable[[int], None] = lambda _: None) -> None:
    """Fetches what is missing.

    Args:
        plan: Result of ``plan_fetch``.
        out: Folder; files lie in it as on the hub.
        on_file: Told how many files are done.

    Raises:
        UserError: The disk is too small, or the network fails; the same command goes on.
    """
    if plan.size + SPARE > plan.free:
        raise UserError(
            f"{out}: {_size(plan.size)} are to be fetched and {_size(plan.free)} are free; choose another --out, or "
            "less with --organism and --intervention"
        )
    hub = _hub()
    for number, file in enumerate(plan.missing):
        with disk_faults(out):
            _asked(plan.dataset, lambda file=file: hub.hf_hub_download(  # type: ignore[misc]
                plan.dataset, file.name, repo_type="dataset", local_dir=out
            ))  # fmt: skip
        if not file.is_in(out):
            raise UserError(f"{out / file.name}: came with another size than the hub tells; delete it and try again")
        on_file(number + 1)


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise UserError("crypsis data fetch needs huggingface_hub; pip install 'crypsis[hub]'") from None
    return huggingface_hub


def _asked(dataset: str, call: Callable[[], Any]) -> Any:
    """The hub's answer; whatever goes wrong between here and there is one line."""
    try:
        return call()
    except OSError as error:
        if error.errno is not None:
            raise
        raise UserError(_fault(dataset, error)) from None
    except Exception as error:  # its HTTP client's errors have no common base that is public
        raise UserError(_fault(dataset, error)) from None


def _fault(dataset: str, error: Exception) -> str:
    said = visible(" ".join(str(error).split()))[:160]
    return f"{dataset}: cannot be fetched ({type(error).__name__}: {said}); the same command goes on from here"


def _inside(name: str) -> str:
    """The path, if it stays within its folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise UserError(f"the hub names a file outside of the folder: '{visible(name)}'; nothing was fetched")
    return name


def _wanted(file: RemoteFile, organisms: Sequence[str], interventions: Sequence[str]) -> bool:
    stem = PurePosixPath(file.name).stem
    left: list[str | None] = [*organisms] or [None]
    right: list[str | None] = [*interventions] or [None]
    return any(stem_fits(stem, organism, intervention) for organism in left for intervention in right)


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
