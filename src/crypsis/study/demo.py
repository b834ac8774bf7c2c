"""The packaged demo as a study."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

import yaml

from crypsis.config import apply_overrides, parse_config
from crypsis.study.config import StudyConfig
from crypsis.study.nano import nano
from crypsis.types import Scale


def demo_config(scale: Scale, settings: Sequence[str]) -> StudyConfig:
    """The packaged demo at a scale, with ``a.b=c`` settings on top."""
    text = resources.files("crypsis.study.packaged").joinpath("demo.yaml").read_text(encoding="utf-8")
    config = parse_config(StudyConfig, yaml.safe_load(text), "demo.yaml")
    if scale == "nano":
        config = nano(config)
    return parse_config(StudyConfig, apply_overrides(config.model_dump(mode="json"), settings), "demo")
