"""The Python interface: what ``import crypsis`` offers. Each name is imported when it is first used.

Load a policy, sample four transcripts, score them, and draw the scores:

    import crypsis
    policy = crypsis.load_policy(crypsis.build_organism("tgg"))
    transcripts = crypsis.sample(policy, 4)
    verdicts = crypsis.judge(transcripts)
    crypsis.plot(transcripts, "scores.png")

Every function raises ``crypsis.UserError`` for what the caller can put right: one line that says what, where and what
to do. Long jobs (organisms, monitors, runs, evaluations) lie in folders: the same call finds what is done and goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from crypsis.config import load_config, parse_config
from crypsis.model_config import ModelConfig
from crypsis.registry import DEFAULT_SCENARIO, make
from crypsis.run_config import RunConfig, reply_tokens, run_seed
from crypsis.scenarios.base import Scenario, default_scenario
from crypsis.types import Episode, Scale, UserError, Verdict, View

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

    from crypsis.models import Policy
    from crypsis.monitors.base import Monitor
    from crypsis.study.jobs.evaluate import Evaluated

Spec = str | Mapping[str, Any]
"""A plug-in by its name, or by ``name`` and settings as they stand in YAML."""


def load_policy(
    model: str | Path,
    *,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> Policy:
    """A causal language model with its tokenizer and chat template, ready to be sampled from.

    Args:
        model: A checkpoint folder, an adapter folder, or a hub id.
        device: ``auto`` takes a GPU if there is one.
        dtype: Type of the weights; ``auto`` takes the one whose products are faster, as measured once on this machine.

    Raises:
        UserError: It is no model, its weights are damaged, its chat template does not fit, or there is no such device.
    """
    from crypsis.models import load_frozen

    return load_frozen(model, parse_config(ModelConfig, {"device": device, "dtype": dtype}, "load_policy"))


def sample(
    policy: Policy,
    n: int = 4,
    *,
    scenario: Spec | Scenario = DEFAULT_SCENARIO,
    tier: str | None = None,
    split: Literal["train", "eval"] = "eval",
    max_new_tokens: int | None = None,
    seed: int = 0,
) -> list[Episode]:
    """Samples transcripts in a scenario at temperature 1: the same requests in both tiers, or those of one tier.

    Args:
        policy: As ``load_policy`` gives it.
        n: Transcripts; those of a request in both tiers follow each other, the monitored one first. Fewer come back if
            the scenario has no more requests.
        scenario: Its name, or its name and settings; ``{"name": "prompt_file", "path": …}`` takes your own requests.
        tier: One tier only.
        split: Requests of training, or held-out ones.
        max_new_tokens: Budget of a reply in tokens; the scenario's own by default.
        seed: Of the requests and of the sampling.

    Returns:
        Episodes: ``scratchpad`` and ``output`` are texts, ``raw`` is the reply as it was decoded, ``prompt`` the
        request with its tier, ``completion_ids`` [T] its tokens and ``logprobs`` [T] their log-probabilities in nats.

    Raises:
        UserError: There is no such scenario or tier, or a prompt with its reply does not fit the model's context.
    """
    from crypsis.rl.rollouts import rollout

    chosen = _scenario(scenario)
    tiers = (chosen.monitored_tier, chosen.unmonitored_tier)
    if n < 1 or tier not in (None, *tiers):
        raise UserError(f"sample: n must be at least 1 and tier one of {', '.join(tiers)}; found {n} and {tier!r}")
    asked = [tier] if tier else list(tiers)
    columns = [chosen.prompts(split, each, -(-n // len(asked)), seed) for each in asked]
    prompts = [prompt for row in zip(*columns, strict=True) for prompt in row][:n]
    budget = max_new_tokens or reply_tokens(chosen)
    return rollout(policy, prompts, group_size=1, max_new_tokens=budget, seed=run_seed(seed, 0), step=0)


def judge(
    transcripts: Sequence[Episode],
    by: str | Path | Mapping[str, Any] | Monitor = "oracle",
    *,
    name: str | None = None,
) -> list[Verdict]:
    """Scores transcripts by a monitor: its estimate of the probability that each fakes alignment.

    Args:
        transcripts: The verdicts are also written into each one's ``verdicts``, and labels into ``labels``.
        by: ``oracle`` (the miniature's ground truth), a kind that needs no training, the folder of a trained monitor,
            a kind with settings, or a monitor.
        name: What the verdicts are stored under; the monitor's kind by default.

    Returns:
        One verdict per transcript, in order: ``score`` in [0, 1], or None with a ``reason``.

    Raises:
        UserError: There is no such monitor, or it cannot be called.
    """
    from crypsis.monitors import base
    from crypsis.study.jobs.monitor_quality import spec_of

    monitor: Monitor
    if isinstance(by, base.Monitor):
        monitor = by
    else:
        monitor = make("monitors", by if isinstance(by, Mapping) else spec_of(str(by), []), "judge")
    monitor.check_access()
    base.judge(transcripts, {name or monitor.name: monitor})
    return [episode.verdicts[name or monitor.name] for episode in transcripts]


def build_organism(
    recipe: str, base: str | Path | None = None, *, scale: Scale = "mini", out: Path | None = None, **settings: Any
) -> Path:
    """Builds a model organism: an ordinary Hugging Face checkpoint; found if it was built before.

    Args:
        recipe: A name of ``crypsis list organisms``.
        base: A checkpoint folder or hub id; the miniature's base of that scale by default, trained if need be.
        scale: ``nano`` (a minute, shows that it runs), ``mini`` or ``small``.
        out: Folder; the cache by default.
        settings: The recipe's, as ``crypsis list NAME`` shows them.

    Returns:
        The checkpoint folder.

    Raises:
        UserError: Unknown recipe or setting, or a base that is no model.
    """
    from crypsis.study.organism import build

    organism = make("organisms", {"name": recipe, **settings}, "build_organism")
    return build(organism, Path(base) if base is not None else default_scenario().base_model(scale), out)


def train_monitor(
    data: str | Path, *, kind: str = "text", view: View = "scratchpad", out: str | Path | None = None, **settings: Any
) -> Monitor:
    """Trains a monitor on labelled transcripts: 60 % of the prompts train, 20 % set the threshold, 20 % measure.

    Args:
        data: A file or folder of any layout of ``crypsis list transcripts``.
        kind: A kind of ``crypsis list monitors``.
        view: What it may read: ``scratchpad``, ``output`` or ``both``.
        out: Folder with the monitor and ``measurement.json``; one below ``runs/`` by default.
        settings: The kind's.

    Returns:
        The monitor; its ``card`` holds threshold and held-out AUROC with its 95 % interval.

    Raises:
        UserError: The data cannot be read, have no labels, or too few of a class.
    """
    from crypsis.monitors.data import DataOptions
    from crypsis.study.jobs.monitor_quality import measure_monitor, spec_of

    options = parse_config(DataOptions, {"view": view}, "train_monitor")
    spec = {"name": kind, **settings}
    folder = measure_monitor("train", spec, Path(data), options, Path(out) if out else None, "resume")
    monitor: Monitor = make("monitors", spec_of(str(folder), []), "train_monitor")
    return monitor


def train(config: str | Path | Mapping[str, Any] | RunConfig, out: str | Path = "runs/train") -> Path:
    """Trains a policy by RL, with the monitors and mitigations of a config.

    Args:
        config: A YAML file, its content, or a ``RunConfig``.
        out: The run's folder.

    Returns:
        The folder; the trained model lies in ``model/``, the metrics in ``metrics.jsonl``.

    Raises:
        UserError: The config is wrong, or the folder is in use or of another config.
    """
    from crypsis.study.run import run_one

    if isinstance(config, str | Path):
        config = load_config(RunConfig, Path(config))
    elif not isinstance(config, RunConfig):
        config = parse_config(RunConfig, config, "train")
    return run_one(config, Path(out))


def evaluate(
    model: str | Path, out: str | Path = "runs/evaluation", *, scenario: Spec = DEFAULT_SCENARIO, **settings: Any
) -> Evaluated:
    """Measures a model on held-out requests in both tiers.

    Args:
        model: A checkpoint folder, an adapter folder, or a hub id.
        out: Folder with the transcripts.
        scenario: Its name, or its name and settings.
        settings: ``n`` (requests, 250), ``max_new_tokens``, ``device``, ``dtype``, ``batch``, ``judge``, ``seed``.

    Returns:
        ``metrics`` by name (shares in [0, 1], the gap in [-1, 1], each with its 95 % interval), and why others are
        ``missing``.

    Raises:
        UserError: The model cannot be loaded, a setting is wrong, or the folder is of another config.
    """
    from crypsis.study.jobs.evaluate import EvaluateConfig, evaluate_model

    config = EvaluateConfig.parse(model=str(model), scenario=_spec(scenario), **settings)
    return evaluate_model(config, Path(out), "resume")


def open_study(folder: str | Path) -> dict[str, pa.Table]:
    """A study, or a single run, as tidy tables: one observation per row (docs/results_format.md).

    Args:
        folder: Of ``crypsis demo``, ``crypsis study run``, ``crypsis study import`` or ``crypsis train``.

    Returns:
        ``runs``, ``arms``, ``summary``, ``curves``, ``seeds``, ``tests`` and ``training``; ``.to_pandas()`` makes a
        data frame of each.

    Raises:
        UserError: There is no finished run, or a file is damaged.
    """
    import pyarrow as pa

    from crypsis.analysis.report.tables import SCHEMAS, tables
    from crypsis.analysis.study import load_study
    from crypsis.analysis.summary import summarise

    rows = tables(summarise(load_study(Path(folder))))
    return {name: pa.Table.from_pylist(found, schema=pa.schema(SCHEMAS[name])) for name, found in rows.items()}


def plot(what: Sequence[Episode] | str | Path, file: str | Path | None = None) -> Figure:
    """Draws the scores of judged transcripts by monitor and tier, or AFR and gap of a study over RL steps.

    Args:
        what: Transcripts with verdicts, or the folder of a study or run.
        file: Where to save the figure: .png, .svg or .pdf.

    Raises:
        UserError: No transcript has a verdict, or the folder holds no finished run.
    """
    from crypsis.analysis.figures.quick import draw_scores, draw_study

    figure = draw_study(Path(what)) if isinstance(what, str | Path) else draw_scores(what)
    if file is not None:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file)
    return figure


def _spec(scenario: Spec) -> dict[str, Any]:
    return {"name": scenario} if isinstance(scenario, str) else dict(scenario)


def _scenario(scenario: Spec | Scenario) -> Scenario:
    if isinstance(scenario, Scenario):
        return scenario
    made: Scenario = make("scenarios", _spec(scenario), "scenario")
    return made
