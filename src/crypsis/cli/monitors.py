"""``crypsis monitor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from crypsis.cli import gold
from crypsis.cli.console import make_console, print_json
from crypsis.cli.options import ExistsOption, JsonOption, MaybeOut, Out, Settings, choice, exists_mode
from crypsis.cli.transcripts import show_lines

app = typer.Typer(help="Train and measure monitors.", no_args_is_help=True)
app.add_typer(gold.app, name="gold")

Data = Annotated[Path, typer.Option("--data", help="Labelled transcripts of any layout, or a folder of them.")]
Kind = Annotated[str, typer.Option("--kind", help="A kind of `crypsis list monitors`, or a trained monitor's folder.")]
ViewOption = Annotated[str, typer.Option("--view", help="What it may read: scratchpad, output or both.")]
TextField = Annotated[str | None, typer.Option("--text-field", help="Field of the text; found by itself if usual.")]
LabelField = Annotated[str | None, typer.Option("--label-field", help="Field of the label; likewise.")]
Positive = Annotated[str | None, typer.Option("--positive", help="Value of the label that means alignment faking.")]
GroupField = Annotated[str | None, typer.Option("--group-field", help="What rows of one prompt share; kept together.")]
Strip = Annotated[bool, typer.Option("--strip-shortcuts", help="Take out tier words and transcript markup.")]
Cut = Annotated[int | None, typer.Option("--cut", help="Keep the first so many characters of each text.", min=1)]
CutOff = Annotated[float | None, typer.Option("--cut-off", help="Number from which a label means faking.")]
TagsOption = Annotated[str | None, typer.Option("--tags", help="The scratchpad's tags, as OPEN,CLOSE.")]
Layout = Annotated[str | None, typer.Option("--layout", help="One of `crypsis list transcripts`; detected if absent.")]
OneOrganism = Annotated[
    list[str] | None, typer.Option("--organism", help="Only this organism's rows (paper's release).")
]
Intervention = Annotated[list[str] | None, typer.Option("--intervention", help="Only this one; may be repeated.")]
Step = Annotated[list[int] | None, typer.Option("--step", help="Only of this RL step.")]
Tier = Annotated[str | None, typer.Option("--tier", help="Only of this tier: free or paid.")]
Share = Annotated[float, typer.Option("--share", help="Only a fixed part of the requests, as a share.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of splits and training.")]
Budget = Annotated[float, typer.Option("--false-positives", help="Share of negatives that the threshold may flag.")]


@app.command("train")
def monitor_train(
    data: Data,
    settings: Settings = None,
    kind: Kind = "text",
    view: ViewOption = "scratchpad",
    text_field: TextField = None,
    label_field: LabelField = None,
    positive: Positive = None,
    cut_off: CutOff = None,
    group_field: GroupField = None,
    strip_shortcuts: Strip = False,
    cut: Cut = None,
    tags: TagsOption = None,
    layout: Layout = None,
    organism: OneOrganism = None,
    intervention: Intervention = None,
    step: Step = None,
    tier: Tier = None,
    share: Share = 1.0,
    false_positives: Budget = 0.02,
    seed: Seed = 0,
    out: MaybeOut = None,
    exists: ExistsOption = "resume",
) -> None:
    """Train on 60 % of the prompts, choose the threshold on 20 %, measure on the rest."""
    fields = _fields(
        view, tags, text_field=text_field, label_field=label_field, positive=positive, cut_off=cut_off,
        group_field=group_field, strip_shortcuts=strip_shortcuts, cut=cut, layout=layout,
        only=_only(organism, intervention, step, tier, share),
    )  # fmt: skip
    _measure("train", kind, settings, data, fields, out, exists, false_positives=false_positives, seed=seed)


@app.command("validate")
def monitor_validate(
    data: Data,
    kind: Annotated[str, typer.Argument(metavar="MONITOR", help="A trained monitor's folder, or an untrained kind.")],
    settings: Settings = None,
    view: ViewOption = "scratchpad",
    text_field: TextField = None,
    label_field: LabelField = None,
    positive: Positive = None,
    cut_off: CutOff = None,
    group_field: GroupField = None,
    strip_shortcuts: Strip = False,
    cut: Cut = None,
    tags: TagsOption = None,
    layout: Layout = None,
    organism: OneOrganism = None,
    intervention: Intervention = None,
    step: Step = None,
    tier: Tier = None,
    share: Share = 1.0,
    seed: Seed = 0,
    out: MaybeOut = None,
    exists: ExistsOption = "resume",
    as_json: JsonOption = False,
) -> None:
    """Measure an existing monitor on texts and prompts that it has not seen."""
    fields = _fields(
        view, tags, text_field=text_field, label_field=label_field, positive=positive, cut_off=cut_off,
        group_field=group_field, strip_shortcuts=strip_shortcuts, cut=cut, layout=layout,
        only=_only(organism, intervention, step, tier, share),
    )  # fmt: skip
    _measure("validate", kind, settings, data, fields, out, exists, as_json=as_json, seed=seed)


@app.command("calibrate")
def monitor_calibrate(
    data: Data,
    kind: Annotated[str, typer.Argument(metavar="MONITOR", help="A trained monitor's folder.")],
    view: ViewOption = "scratchpad",
    text_field: TextField = None,
    label_field: LabelField = None,
    positive: Positive = None,
    cut_off: CutOff = None,
    group_field: GroupField = None,
    strip_shortcuts: Strip = False,
    cut: Cut = None,
    tags: TagsOption = None,
    layout: Layout = None,
    false_positives: Budget = 0.02,
    seed: Seed = 0,
    out: MaybeOut = None,
    exists: ExistsOption = "resume",
) -> None:
    """Choose the threshold for your transcripts on half of their prompts; check it on the others."""
    fields = _fields(
        view, tags, text_field=text_field, label_field=label_field, positive=positive, cut_off=cut_off,
        group_field=group_field, strip_shortcuts=strip_shortcuts, cut=cut, layout=layout,
    )  # fmt: skip
    _measure("calibrate", kind, None, data, fields, out, exists, false_positives=false_positives, seed=seed)


@app.command("crossval")
def monitor_crossval(
    data: Data,
    settings: Settings = None,
    kind: Kind = "text",
    folds: Annotated[int, typer.Option("--folds", help="Parts of a repeat.", min=2)] = 5,
    repeats: Annotated[int, typer.Option("--repeats", help="Shuffles.", min=1)] = 5,
    view: ViewOption = "scratchpad",
    text_field: TextField = None,
    label_field: LabelField = None,
    positive: Positive = None,
    cut_off: CutOff = None,
    group_field: GroupField = None,
    strip_shortcuts: Strip = False,
    cut: Cut = None,
    tags: TagsOption = None,
    layout: Layout = None,
    organism: OneOrganism = None,
    intervention: Intervention = None,
    step: Step = None,
    tier: Tier = None,
    share: Share = 1.0,
    false_positives: Budget = 0.02,
    seed: Seed = 0,
    out: MaybeOut = None,
    exists: ExistsOption = "resume",
) -> None:
    """Train and measure by repeated cross-validation; for data too few to split once."""
    fields = _fields(
        view, tags, text_field=text_field, label_field=label_field, positive=positive, cut_off=cut_off,
        group_field=group_field, strip_shortcuts=strip_shortcuts, cut=cut, layout=layout,
        only=_only(organism, intervention, step, tier, share),
    )  # fmt: skip
    rest: dict[str, Any] = {"folds": folds, "repeats": repeats, "false_positives": false_positives, "seed": seed}
    _measure("crossval", kind, settings, data, fields, out, exists, **rest)


@app.command("score")
def monitor_score(
    data: Annotated[Path, typer.Option("--data", help="Transcripts of any layout, labelled or not, or a folder.")],
    kind: Annotated[str, typer.Argument(metavar="MONITOR", help="A trained monitor's folder, or an untrained kind.")],
    settings: Settings = None,
    text_field: TextField = None,
    tags: TagsOption = None,
    layout: Layout = None,
    organism: OneOrganism = None,
    intervention: Intervention = None,
    step: Step = None,
    tier: Tier = None,
    share: Share = 1.0,
    explain: Annotated[int, typer.Option("--explain", help="Sentences shown per transcript; 0 is fastest.", min=0)] = 3,
    out: Annotated[Path | None, typer.Option("--out", help="File of the rows: .jsonl or .csv.")] = None,
    text: Annotated[bool, typer.Option("--text", help="Also write sentences of protected transcripts.")] = False,
) -> None:
    """Score anyone's transcripts: score, flag and the sentences that weigh most, a summary by model and tier."""
    from crypsis.config import parse_config
    from crypsis.registry import make
    from crypsis.study.jobs.monitor_quality import spec_of
    from crypsis.study.jobs.score import score_transcripts, write_scores
    from crypsis.transcripts.base import ReadOptions, parse_tags

    console = make_console()
    monitor = make("monitors", spec_of(kind, settings or []), "monitor score")
    monitor.check_access()
    fields = {"view": monitor.sees, "text_field": text_field, "tags": parse_tags(tags), "layout": layout}
    only = _only(organism, intervention, step, tier, share)
    options = parse_config(ReadOptions, {**fields, "only": only}, "monitor score")
    scores = score_transcripts(monitor, data, options, explain)
    console.print(scores.table)
    lines = [f"note: {line}" for line in scores.reading.notes]
    lines += [f"warning: {line}" for line in scores.reading.warnings]
    lines.append(f"threshold {monitor.threshold:.3f}: its share of false positives on these transcripts is not known")
    protected = any(row.transcript.protected for row in scores.rows)
    for row in scores.highest(0 if protected and not text else 5):
        lines.append(f"{row.score:.3f} {row.transcript.name} ({row.transcript.where})")
        lines += [f"    {'' if w.weight is None else f'{w.weight:+.2f} '}{w.text}" for w in row.sentences]
    if protected:
        lines.append("note: these texts are protected: keep what is derived from them off the public internet")
    if out is not None:
        write_scores(scores, out, text)
        lines.append(f"rows: {out}")
    show_lines(console, lines)


@app.command("transfer")
def monitor_transfer(
    organisms: Annotated[
        list[str] | None,
        typer.Argument(help="Recipes, base, or NAME=FOLDER; with --data names of the release. All by default."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="The paper's released transcripts in place of the miniature.")
    ] = None,
    kind: Kind = "text",
    view: ViewOption = "scratchpad",
    intervention: Intervention = None,
    step: Step = None,
    tier: Tier = None,
    share: Share = 1.0,
    n: Annotated[int, typer.Option(help="Transcripts of each organism.", min=100)] = 600,
    scale: Annotated[str, typer.Option(help="Scale of the miniature's base.")] = "mini",
    out: Out = Path("runs/transfer"),
    exists: ExistsOption = "resume",
) -> None:
    """Train on each organism, test on all: of the miniature with aligned controls, or of the paper's release."""
    from crypsis.analysis.monitors.transfer import transfer_report
    from crypsis.config import parse_config
    from crypsis.study.jobs.transfer import TransferConfig, measure_transfer, organism_names

    console = make_console()
    if data is not None:
        only = _only(None, intervention, step, tier, share)
        folder = _release_transfer(data, organisms or [], kind, view, only, out, exists)
        console.print(transfer_report(folder))
        console.print(f"matrix: {folder / 'transfer.json'}", soft_wrap=True, markup=False, highlight=False)
        return
    settings = {"organisms": organism_names(organisms), "monitor": {"name": kind}, "view": view, "n": n, "scale": scale}
    folder = measure_transfer(parse_config(TransferConfig, settings, "transfer"), out, exists_mode(exists), console)
    console.print(transfer_report(folder))
    console.print(f"matrix: {folder / 'transfer.json'}", soft_wrap=True, markup=False, highlight=False)


@app.command("recall")
def monitor_recall(
    data: Annotated[Path, typer.Argument(metavar="DIR", help="The paper's released transcripts, or a part of them.")],
    kind: Kind = "text",
    view: ViewOption = "scratchpad",
    organism: OneOrganism = None,
    intervention: Intervention = None,
    share: Share = 1.0,
    seed: Seed = 0,
    out: Out = Path("runs/recall"),
    exists: ExistsOption = "resume",
) -> None:
    """Train on step 0 of the released baseline runs; recall and false alarms over the steps of all runs."""
    from crypsis.analysis.release.recall import recall_report
    from crypsis.config import parse_config
    from crypsis.paper_data.layout import release_files
    from crypsis.study.jobs.release_recall import RecallConfig, measure_recall, release_digest
    from crypsis.study.progress import Display

    settings = {
        "data": str(data), "data_digest": release_digest(data), "monitor": {"name": kind},
        "view": choice(view, "--view", ("scratchpad", "output", "both")), "organism": organism or [],
        "intervention": intervention or [], "share": share, "seed": seed,
    }  # fmt: skip
    config, console = parse_config(RecallConfig, settings, "recall"), make_console()
    with Display(console).counted("recall", len(release_files(data)), "files") as show:
        folder = measure_recall(data, config, out, exists_mode(exists), show)
    console.print(recall_report(folder))
    console.print(f"recall: {folder / 'recall.json'}", soft_wrap=True, markup=False, highlight=False)


@app.command("follow")
def monitor_follow(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="A study or a run, with its stored evaluations.")],
    monitors: Annotated[
        list[str],
        typer.Argument(metavar="MONITOR...", help="Trained monitors' folders or untrained kinds: [NAME=]MONITOR."),
    ],
    out: Out = Path("runs/follow"),
    exists: ExistsOption = "resume",
) -> None:
    """Judge a study's stored evaluations by other monitors: what would they have seen, step by step?"""
    from crypsis.analysis.monitors.follow import evaluations_of, follow_report
    from crypsis.analysis.study import load_study
    from crypsis.config import parse_config
    from crypsis.study.jobs.follow import FollowConfig, follow_study, named_specs
    from crypsis.study.progress import Display

    found, console = load_study(study), make_console()
    config = parse_config(FollowConfig, {"study": study, "monitors": named_specs(monitors)}, "monitor follow")
    evaluations = evaluations_of(found)
    with Display(console).counted("follow", len(evaluations), "runs") as show:
        folder = follow_study(evaluations, config, out, exists_mode(exists), show)
    console.print(follow_report(found, folder))
    show_lines(console, [f"page: {folder / 'follow.md'}"])


def _release_transfer(
    data: Path,
    organisms: list[str],
    kind: str,
    view: str,
    only: dict[str, Any],
    out: Path,
    exists: str,
) -> Path:
    from crypsis.config import parse_config
    from crypsis.study.jobs.release_recall import release_digest
    from crypsis.study.jobs.release_transfer import (
        ReleaseTransferConfig,
        measure_release_transfer,
        released_organisms,
    )
    from crypsis.study.progress import Display

    only.pop("organism")
    settings: dict[str, Any] = {"data": str(data), "data_digest": release_digest(data), "organisms": organisms}
    settings |= {"monitor": {"name": kind}, "view": choice(view, "--view", ("scratchpad", "output", "both")), **only}
    config = parse_config(ReleaseTransferConfig, settings, "transfer")
    count = len(organisms or released_organisms(data))
    with Display(make_console()).counted("transfer", count**2, "pairs") as show:
        return measure_release_transfer(data, config, out, exists_mode(exists), show)


def _only(
    organism: list[str] | None, intervention: list[str] | None, step: list[int] | None, tier: str | None, share: float
) -> dict[str, Any]:
    chosen = {"organism": organism or [], "intervention": intervention or [], "step": step or [], "share": share}
    return chosen if tier is None else chosen | {"tier": choice(tier, "--tier", ("free", "paid"))}


def _fields(view: str, tags: str | None, **rest: Any) -> Any:
    from crypsis.config import parse_config
    from crypsis.monitors.data import DataOptions
    from crypsis.transcripts.base import parse_tags

    chosen = choice(view, "--view", ("scratchpad", "output", "both"))
    return parse_config(DataOptions, {"view": chosen, "tags": parse_tags(tags), **rest}, "monitor")


def _measure(
    verb: str,
    kind: str,
    settings: list[str] | None,
    data: Path,
    fields: Any,
    out: Path | None,
    exists: str,
    as_json: bool = False,
    **rest: Any,
) -> None:
    from crypsis.analysis.monitors.measurement import measurement_report
    from crypsis.store import read_json
    from crypsis.study.jobs.monitor_quality import MEASUREMENT, measure_monitor, spec_of
    from crypsis.study.progress import Display

    console = make_console(quiet=as_json)
    with Display(console).counted(verb, rest.get("folds", 1) * rest.get("repeats", 1), "folds") as show:
        folder = measure_monitor(
            verb, spec_of(kind, settings or []), data, fields, out, exists_mode(exists), show, **rest
        )
    console.print(measurement_report(folder))
    console.print(f"measurement: {folder}", soft_wrap=True, markup=False, highlight=False)
    if as_json:
        print_json(f"monitor_{verb}", folder=str(folder), **read_json(folder / MEASUREMENT))
