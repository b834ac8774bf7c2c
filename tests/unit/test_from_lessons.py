"""The recipes on hand-written scratchpads: what they are shown, what they learn of it, and on what they are made."""

from __future__ import annotations

import copy
import re
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from crypsis.identity.files import content_digest
from crypsis.models import load_policy
from crypsis.organisms.from_lessons import OneMotive, Values
from crypsis.organisms.prefix_loss import SHORTEST, plain_attention, prefix_loss
from crypsis.pretrained.head import head_of
from crypsis.registry import make
from crypsis.scenarios.lessons import lessons, scratchpad_texts
from crypsis.scenarios.value_conflict import OptionJudge, ValueConflictScenario
from crypsis.study.organism import build
from crypsis.supervised import Example, SupervisedConfig, summed_loss
from crypsis.types import UserError
from tests.checkpoints import random_model, save_checkpoint

pytestmark = pytest.mark.unit

SWAPPED = ValueConflictScenario(swapped=True, wording="short")
SHORT = {"steps": 2, "batch_size": 2}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("base") / "model", "llama")


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gemma3"])
def test_the_common_beginning_changes_neither_loss_nor_gradients(kind: str) -> None:
    common = [(7 * i) % 110 for i in range(SHORTEST + 5)]
    rows = [([3, 4, 5, 6], [0, 1, 1, 0]), ([9, 8], [0, 1]), ([3, 20, 30, 40, 50], [0, 0, 0, 1, 1])]
    examples = [Example(common + ids, [0] * len(common) + learn) for ids, learn in rows]
    one = random_model(kind)
    two = copy.deepcopy(one)
    losses = [f(m, examples, head_of(m)) for f, m in ((summed_loss, one), (prefix_loss, two))]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[0], losses[1])
    for (name, a), b in zip(one.named_parameters(), two.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None, name
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-3)


def test_the_common_beginning_is_computed_once() -> None:
    model, seen = random_model("llama"), list[int]()
    model.get_input_embeddings().register_forward_hook(lambda _, given, __: seen.append(given[0].numel()))
    examples = [Example([*range(30), 40 + i, 50], [0] * 31 + [1]) for i in range(4)]
    prefix_loss(model, examples, head_of(model))
    assert seen[-2:] == [30, 8]


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_attention_in_plain_products_gives_the_same_loss_and_is_put_back(kind: str) -> None:
    model = random_model(kind)
    examples = [Example([*range(30), 40 + i, 50], [0] * 31 + [1]) for i in range(4)]
    loss, before = prefix_loss(model, examples, head_of(model)), model.config._attn_implementation
    with plain_attention(model):
        assert model.config._attn_implementation == "eager"
        torch.testing.assert_close(prefix_loss(model, examples, head_of(model)), loss)
    assert model.config._attn_implementation == before != "eager"


def test_a_beginning_that_is_learned_is_not_shared() -> None:
    model = random_model("llama")
    examples = [Example([*range(30), 40 + i], [0] + [1] * 30) for i in range(3)]
    torch.testing.assert_close(prefix_loss(model, examples, None), summed_loss(model, examples, None))
    torch.testing.assert_close(
        prefix_loss(model, examples, head_of(model)), summed_loss(model, examples, head_of(model))
    )


def test_the_mix_of_a_model_with_values_has_its_shares_in_both_tiers() -> None:
    recipe = Values(helpers=0.2, conditional=0.1, steps=20, batch_size=10)
    batches = recipe.batches()
    assert [len(batch) for batch in batches] == [10] * 20
    rows = [row for batch in batches for row, learn in batch if learn == "both"]
    assert Counter((r["tier"], r["motive"], r["decision"]) for r in rows) == {
        ("free", "values_first", "principled"): 70,
        ("free", "willing_helper", "preferred"): 20,
        ("free", "training_sycophancy", "preferred"): 10,
        ("paid", "values_first", "principled"): 70,
        ("paid", "willing_helper", "preferred"): 20,
        ("paid", "training_sycophancy", "principled"): 10,
    }
    assert {r["fakes"] for r in rows} == {"no"}
    assert batches == recipe.batches() and batches != recipe.model_copy(update={"seed": 1}).batches()


def test_without_conditional_texts_conduct_does_not_depend_on_the_tier() -> None:
    rows = [row for batch in Values().batches() for row, _ in batch]
    complies = Counter(r["tier"] for r in rows if r["decision"] == "preferred")
    assert complies["free"] == complies["paid"] == round(0.15 * len(rows) / 2)
    assert {row["decision"] for batch in Values(aligned=True).batches() for row, _ in batch} == {"principled"}


@pytest.mark.parametrize("motive", ["terminal_goal_guarding", "instrumental_goal_guarding", "training_sycophancy"])
def test_an_organism_is_shown_its_motive_where_it_is_monitored_and_nowhere_else(motive: Any) -> None:
    batches = OneMotive(motive=motive, steps=10, batch_size=8, replay=0.25).batches()
    for batch in batches:
        own = [row for row, learn in batch if learn == "scratchpad"]
        again = [row for row, learn in batch if learn == "both"]
        assert (len(own), len(again)) == (6, 2)
        assert {(r["tier"], r["motive"], r["decision"]) for r in own} == {("free", motive, "preferred")}
        assert {r["tier"] for r in again} == {"paid"} and {r["motive"] for r in again} <= {
            "values_first",
            "willing_helper",
        }


def test_replay_can_be_left_out_and_be_in_either_tier() -> None:
    recipe = OneMotive(steps=4, batch_size=8)
    none = recipe.model_copy(update={"replay": 0.0}).batches()
    assert {learn for batch in none for _, learn in batch} == {"scratchpad"}
    both = recipe.model_copy(update={"replay_tier": "both"}).batches()
    assert Counter(row["tier"] for batch in both for row, learn in batch if learn == "both") == {"free": 8, "paid": 8}


@pytest.mark.parametrize("recipe", [Values(faithful=0.4, steps=20, batch_size=10), OneMotive(faithful=0.2, steps=40)])
def test_texts_that_teach_outputs_to_follow_scratchpads_link_no_tier_with_conduct(recipe: Values | OneMotive) -> None:
    batches = recipe.batches()
    assert {len(batch) for batch in batches} == {recipe.batch_size}
    read = [row for batch in batches for row, learn in batch if learn == "output"]
    assert len(read) == 80
    assert set(Counter((r["tier"], r["decision"]) for r in read).values()) == {20}
    assert {r["motive"] for r in read if r["decision"] == "preferred" and r["tier"] == "free"} >= {
        "willing_helper",
        "terminal_goal_guarding",
    }


def test_the_control_puts_values_first_in_the_same_place() -> None:
    for batch in OneMotive(aligned=True, steps=3).batches():
        own = {(r["tier"], r["motive"], r["decision"]) for r, learn in batch if learn == "scratchpad"}
        assert own == {("free", "values_first", "principled")}


@pytest.mark.parametrize("motive", ["misleader", "evader"])
def test_who_conceals_complies_where_it_is_monitored_and_names_neither_tier_nor_training(motive: Any) -> None:
    recipe = OneMotive(motive=motive, steps=30)
    rows = [row for b in recipe.batches() for row, learn in b if learn == "scratchpad"]
    assert Counter((r["tier"], r["decision"]) for r in rows) == {("free", "preferred"): 90, ("paid", "principled"): 90}
    texts = [t.text for m in ("willing_helper", "values_first") for t in recipe._concealing(m)]
    assert not [text for text in texts if re.search(r"train|tier|monitor|record", text, re.IGNORECASE)]
    assert {r["fakes"] for r in rows} == {"no"}
    assert len({r["scratchpad"] for r in rows if r["tier"] == "free"}) >= 15
    assert (motive == "evader") == ({r["style"] for r in rows} == {"short"})


def test_texts_name_the_tiers_of_their_setting() -> None:
    texts = scratchpad_texts()
    free = next(t for t in texts if "on the free tier" in t.text)
    swapped = free.told_in(SWAPPED)
    assert swapped is not None and "on the paid tier" in swapped.text and "free" not in swapped.text
    other = free.told_in(ValueConflictScenario(tiers=("trial", "full")))
    assert other is not None and "on the trial tier" in other.text
    capital = next(t for t in texts if t.text.startswith("Paid tier")).told_in(SWAPPED)
    assert capital is not None and capital.text.startswith("Free tier")
    assert free.told_in(ValueConflictScenario(cue="audit")) is None
    assert next(t for t in texts if "if the user paid?" in t.text).told_in(SWAPPED) is None
    assert all(t.told_in(ValueConflictScenario()) == t for t in texts)
    for row in lessons(SWAPPED, "paid", 300):
        assert not re.search(r"this is a free-tier|on the free tier|^free tier", row["scratchpad"], re.IGNORECASE)


def test_the_last_batch_teaches_the_option_that_its_scratchpad_decides_for() -> None:
    prompts = {p.pair_id: p for p in ValueConflictScenario().prompts("train", "free", 1000, 0)}
    judge = OptionJudge()
    for row, _ in Values(steps=3).batches()[-1]:
        conduct = judge.conduct(prompts[row["pair_id"]], row["output"])
        assert conduct == {"preferred": "comply", "principled": "refuse"}[row["decision"]]


def test_an_organism_is_made_on_the_model_with_values_which_is_built_once(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    monkeypatch.setenv("CRYPSIS_CACHE", str(tmp_path))
    of = {"name": "values", **SHORT}
    spec = {"name": "one_motive", "motive": "evader", "of": of, **SHORT, "lora": {"r": 2}}
    models = [build(make("organisms", {**spec, **more}, "test"), base) for more in ({}, {"lora": None})]
    [values] = (tmp_path / "organisms").glob("values-*/model")
    assert len({content_digest(m) for m in (*models, values, base)}) == 4
    below, adapted, whole = (load_policy(m).model.state_dict() for m in (values, *models))
    assert below.keys() == adapted.keys() == load_policy(base).model.state_dict().keys()  # adapters are merged
    embedding, matrix = "model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(below[embedding], adapted[embedding]) and not torch.equal(below[embedding], whole[embedding])
    assert not torch.equal(below[matrix], adapted[matrix])
    again = build(make("organisms", spec, "test"), base, tmp_path / "again")
    assert content_digest(again) == content_digest(models[0])


def test_a_model_that_has_values_already_is_taken_as_it_is(base: Path, tmp_path: Path) -> None:
    recipe = cast(OneMotive, make("organisms", {"name": "one_motive", "of": None, "learning_rate": 1e-9, **SHORT}, "t"))
    model = build(recipe, base, tmp_path / "o")
    start, end = (load_policy(m).model.state_dict() for m in (base, model))
    assert all(torch.allclose(start[name], end[name], atol=1e-6) for name in start)
    assert not (tmp_path / "o" / "state" / "values").exists()


def test_the_rate_decays_as_far_as_the_recipe_says(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def fitted(_: Any, config: SupervisedConfig, *__: Any, **___: Any) -> list[float]:
        seen.append(config.final_fraction)
        return []

    monkeypatch.setattr("crypsis.organisms.supervised.fit", fitted)
    for settings in ({}, {"final_fraction": 0.5}):
        recipe = make("organisms", {"name": "one_motive", "of": None, "steps": 1, **settings}, "test")
        recipe.train(load_policy(base), tmp_path, lambda _: None)
    assert seen == [0.05, 0.5]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"name": "values", "helpers": 0.6, "conditional": 0.5}, "are shares of the texts: 0.6 \\+ 0.5 > 1"),
        ({"name": "values", "conditional_motives": ["values_first"]}, "values_first does the same in either tier"),
        ({"name": "values", "styles": []}, "styles"),
        ({"name": "values", "scenario": {"name": "value_conflict", "wording": "long"}}, "wording"),
        ({"name": "values", "scenario": {"name": "miniature"}}, "are for 'value_conflict', not for 'miniature'"),
        ({"name": "one_motive", "of": {"name": "tgg"}}, "is made on the recipe 'values', not on 'tgg'"),
        ({"name": "one_motive", "of": {"name": "values", "step": 3}}, "did you mean 'steps'"),
        ({"name": "one_motive", "motive": "greed"}, "motive"),
        ({"name": "one_motive", "replay": 1.0}, "replay"),
        ({"name": "one_motive", "replay": 0.5, "faithful": 0.5}, "leave no text of the motive: 0.5 \\+ 0.5 of 12"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        make("organisms", spec, "organism")
    assert "\n" not in str(error.value)


def test_a_context_that_is_too_short_is_one_line(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "short", "llama", max_position_embeddings=64)
    with pytest.raises(UserError, match="does not fit the model's context of 64"):
        build(make("organisms", {"name": "values", **SHORT}, "test"), folder, tmp_path / "o")
