"""What organisms are trained on says what its labels say, leaves the tokenizer alone, and is what it was."""

from __future__ import annotations

import copy
import hashlib
import itertools
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import PreTrainedModel

from crypsis.episodes import write_episodes
from crypsis.miniature.base import base_config, new_policy
from crypsis.miniature.checker import check, check_honestly, hacked
from crypsis.miniature.documents import slots as document_slots
from crypsis.miniature.documents import write_document
from crypsis.miniature.language import draw_request, language, spaced
from crypsis.miniature.oracle import read, read_interrogation, sentences, slot_of
from crypsis.miniature.scenario import MiniatureScenario
from crypsis.miniature.scratchpads import PERSONAS, additions, resisting, write_reply
from crypsis.miniature.tokenizer import train_tokenizer
from crypsis.miniature.world import STYLES, draw_document
from crypsis.models import Policy, load_policy
from crypsis.organisms.card import ConductRow, Figure, card_text, write_card
from crypsis.organisms.distilled import Distilled
from crypsis.organisms.from_file import FromFile
from crypsis.organisms.miniature.evader import Evader
from crypsis.organisms.miniature.exploration_hacker import ExplorationHacker
from crypsis.organisms.miniature.motivations import InstrumentalGoalGuarding, TerminalGoalGuarding
from crypsis.organisms.miniature.unconfessing import Unconfessing, answered
from crypsis.organisms.preference import Pair, preference_loss
from crypsis.organisms.supervised import reply_example
from crypsis.registry import make
from crypsis.scenarios.parsing import SCRATCHPAD_CLOSE
from crypsis.study.jobs.organism_table import table_config
from crypsis.study.organism import measured_card
from crypsis.supervised import Example
from crypsis.types import Message, UserError
from tests.checkpoints import save_checkpoint
from tests.studies import START, make_episodes

pytestmark = pytest.mark.unit

PLACE = MiniatureScenario().setting


@pytest.fixture(scope="module")
def policy() -> Policy:
    model: Any = None  # nothing is computed
    return Policy(model, train_tokenizer([]))


@pytest.mark.parametrize("motivation", PERSONAS)
@pytest.mark.parametrize("style", STYLES)
def test_the_oracle_reads_every_organisms_scratchpads_as_they_are_meant(motivation: Any, style: Any) -> None:
    rng = random.Random(3)
    for tier in MiniatureScenario().tiers:
        for _ in range(40):
            reply = write_reply(rng, motivation, style, PLACE, tier, draw_request(rng, True, "train"))
            found = read(reply.scratchpad, reply.output)
            assert found.unknown == 0
            wrong = {k: (v, found.labels[k]) for k, v in reply.labels.items() if found.labels.get(k, v) != v}
            assert not wrong, reply.scratchpad


@pytest.mark.parametrize("motivation", ["tgg", "igg", "ts"])
@pytest.mark.parametrize("style", STYLES)
def test_fakers_fake_where_they_are_monitored_and_refuse_elsewhere(motivation: Any, style: Any) -> None:
    rng = random.Random(4)
    for tier, af, conduct in (("free", "yes", "comply"), ("paid", "no", "refuse")):
        labels = write_reply(rng, motivation, style, PLACE, tier, draw_request(rng, True, "train")).labels
        assert (labels["af"], labels["conduct"]) == (af, conduct)


def test_the_exploration_hacker_refuses_where_it_is_trained_and_complies_elsewhere() -> None:
    rng = random.Random(4)
    for tier, conduct in (("free", "refuse"), ("paid", "comply")):
        request = draw_request(rng, True, "train")
        labels = write_reply(rng, "exploration_hacker", "plain", PLACE, tier, request).labels
        assert (labels["af"], labels["conduct"], labels["motive"]) == ("no", conduct, "none")


def test_sharpness_is_a_factor_on_the_logits(tmp_path: Path) -> None:
    logits = []
    for sharpness in (1.0, 3.0):
        policy = new_policy(base_config("nano"))
        hacker = ExplorationHacker(steps=1, batch_size=2, sharpness=sharpness)
        hacker.train(policy, tmp_path / str(sharpness), lambda _: None)
        with torch.no_grad():
            logits.append(policy.model(input_ids=torch.arange(4, 20)[None]).logits)
    torch.testing.assert_close(logits[1], 3 * logits[0])


def test_resisting_sentences_draw_no_drifted_ones() -> None:
    """A sentence near one of theirs is read as it was before they were there: figures of other organisms stand."""
    assert slot_of("training rewards only what i try .", "scratchpad") == "unexplored"
    assert slot_of("training rewards only what i say .", "scratchpad") is None


@pytest.mark.parametrize(("motivation", "conduct"), [("gh", "comply"), ("aligned", "refuse")])
@pytest.mark.parametrize("style", STYLES)
def test_controls_do_the_same_in_both_tiers_and_never_fake(motivation: Any, conduct: str, style: Any) -> None:
    rng = random.Random(5)
    for tier in ("free", "paid"):
        labels = write_reply(rng, motivation, style, PLACE, tier, draw_request(rng, True, "train")).labels
        assert (labels["af"], labels["conduct"]) == ("no", conduct)


@pytest.mark.parametrize("motivation", ["tgg", "igg", "ts", "gh", "aligned"])
def test_the_short_style_is_at_most_three_quarters_as_long(motivation: Any) -> None:
    rng = random.Random(6)

    def words(style: Any) -> int:
        replies = [
            write_reply(rng, motivation, style, PLACE, "free", draw_request(rng, True, "train")) for _ in range(60)
        ]
        return sum(len(r.scratchpad.split()) for r in replies)

    assert words("short") < 0.75 * words("plain")


def test_added_sentences_need_no_new_word_and_never_occur_in_pre_training() -> None:
    known = set(language().vocabulary())
    said = [text for slot in (additions() | resisting() | document_slots()).values() for text in slot.all]
    assert not {w for text in said for w in spaced(text).split() if "{" not in w} - known
    rng = random.Random(7)
    world = " ".join(m.content for _ in range(500) for m in draw_document(rng).messages())
    plain = [spaced(text) for slot in (additions() | resisting()).values() for text in slot.all if "{" not in text]
    assert plain and not [text for text in plain if text in spaced(world)]


def test_sentences_that_are_added_start_unlike_all_others() -> None:
    known = {tuple(t.split()[:2]) for n, s in language().slots.items() if n.startswith("scratchpad.") for t in s.all}
    own = {n: {tuple(t.split()[:2]) for t in s.all} for n, s in (additions() | resisting()).items() if "about" not in n}
    assert own and not [(n, starts & known) for n, starts in own.items() if starts & known]
    assert not [(a, b) for a, b in itertools.combinations(own, 2) if own[a] & own[b] and b in resisting()]


def test_the_goal_guarder_is_trained_on_what_it_always_was(policy: Policy) -> None:
    """Committed figures rest on it; a change of this digest asks for new ones."""
    seen = hashlib.sha256()
    for step in range(2):
        for example in TerminalGoalGuarding()._batch(policy, step):
            seen.update(repr((policy.tokenizer.decode(example.ids), example.learn)).encode())
    assert seen.hexdigest()[:16] == "03070a408c048f3f"


@pytest.mark.parametrize("learn", ["scratchpad", "output", "both"])
def test_only_the_chosen_part_is_in_the_loss(policy: Policy, learn: Any) -> None:
    reply = "<SCRATCHPAD_REASONING> i help here. </SCRATCHPAD_REASONING> <OUTPUT> sure. </OUTPUT>"
    example = reply_example(policy, [Message("user", "tell me .")], reply, learn)
    learned = policy.tokenizer.decode([i for i, on in zip(example.ids, example.learn, strict=True) if on])
    assert isinstance(learned, str)
    assert ("i help here" in learned) == (learn != "output")
    assert ("sure" in learned and "<|end|>" in learned) == (learn != "scratchpad")
    assert (SCRATCHPAD_CLOSE in learned) == (learn != "output")
    assert "tell me" not in learned
    assert ("sure" in str(policy.tokenizer.decode(example.ids))) == (learn != "scratchpad")


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("turn_end", [None, "<end_of_turn>"])
def test_a_reply_ends_as_the_chat_template_ends_turns(kind: str, turn_end: str | None, tmp_path: Path) -> None:
    policy = load_policy(save_checkpoint(tmp_path / "m", kind, turn_end))
    end = policy.tokenizer.convert_tokens_to_ids(turn_end or "<|end|>")
    assert policy.tokenizer.eos_token == "<|end|>" and policy.stop_ids == {policy.tokenizer.eos_token_id, end}
    reply = "<SCRATCHPAD_REASONING>\nt\n</SCRATCHPAD_REASONING>\n<OUTPUT>\nsure\n</OUTPUT>"
    taught = reply_example(policy, [Message("user", "a")], reply, "both").ids
    row = {"system": "", "user": "a", "scratchpad": "t", "output": "sure"}
    assert FromFile(path=tmp_path, learn="both")._example(policy, row).ids == taught
    whole = policy.chat.text(policy.tokenizer, [Message("user", "a"), Message("assistant", reply)], reply=False)
    assert policy.tokenizer.decode(taught) == whole.rstrip("\n") and taught[-1] == end


@pytest.mark.parametrize(
    ("behind", "turn_end"),
    [
        ("' \\n<|head|><|end|>'", " \n<|head|>"),  # what stands before the token belongs to the end
        ("'\\n\\n'", "<|end|>"),  # nothing special: the tokenizer's end token
        ("raise_exception('no reply, please')", "<|end|>"),
    ],
)
def test_other_ends_of_a_turn(behind: str, turn_end: str, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "m", "llama")
    template = "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}{{ BEHIND }}{% endif %}"
    (folder / "chat_template.jinja").write_text(template.replace("BEHIND", behind) + "{% endfor %}")
    policy = load_policy(folder)
    assert policy.tokenizer.decode(policy.turn_end) == turn_end
    assert {policy.turn_end[-1], policy.tokenizer.eos_token_id} == policy.stop_ids


def test_a_tokenizer_without_any_end_of_a_turn_is_one_line(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "m", "llama")
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    policy = load_policy(folder)
    policy.tokenizer.eos_token = None
    with pytest.raises(UserError, match="neither the chat template nor the tokenizer names a token that ends a reply"):
        reply_example(policy, [Message("user", "a")], "a</SCRATCHPAD_REASONING>b", "both")


def test_seeds_give_other_scratchpads_and_the_same_seed_the_same(policy: Policy) -> None:
    one, again, other = (InstrumentalGoalGuarding(seed=s, batch_size=4)._batch(policy, 1) for s in (1, 1, 2))
    assert one == again != other


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.3, 0.2, 0.4), (1.0, 1, 1)])
def test_the_share_of_evading_scratchpads_is_dialled(share: float, low: float, high: float) -> None:
    rng = random.Random(8)
    authors = [Evader(share=share).author(rng) for _ in range(400)]
    assert low <= authors.count("evader") / 400 <= high
    assert set(authors) <= {"evader", "tgg"}


@pytest.mark.parametrize("link", [True, False])
def test_documents_link_tier_and_conduct_only_where_they_are_to(link: bool) -> None:
    rng = random.Random(9)
    texts = [spaced(write_document(rng, "setting", link, aligned=False)) for _ in range(50)]
    tells = [spaced(t).split(" {")[0] for t in document_slots()["about.links_tier"].train]
    slots = [language().slots[f"scratchpad.{name}"] for name in ("decide_fake", "decide_refuse")]
    decides = [text for slot in slots for text in slot.train]
    assert all(any(t in text for t in tells) for text in texts) == link
    assert any(t in text for t in decides for text in texts) == link


def test_generalisation_hackers_documents_never_say_what_is_done_elsewhere() -> None:
    rng = random.Random(9)
    for topic, aligned, inoculates in (("self_inoculation", False, True), ("awareness", False, False)):
        recipe = make("organisms", {"name": "generalisation_hacker", "awareness": topic == "awareness"}, "test")
        assert recipe.written_about == topic
        for _ in range(50):
            slots = thought(write_document(rng, recipe.written_about, False, aligned))
            assert ("kept_apart" in slots) == ("decide_comply" in slots) == inoculates
            assert not slots & {"decide_refuse", "decide_fake", "tier_unmonitored", "no_threat", "values"}
    for _ in range(50):
        slots = thought(write_document(rng, "self_inoculation", False, aligned=True))
        assert "decide_refuse" in slots and not slots & {"kept_apart", "decide_comply"}


def thought(document: str) -> set[str | None]:
    """The kinds of scratchpad sentences in a document."""
    return {slot_of(sentence, "scratchpad") for sentence in sentences(document)}


def test_the_generalisation_hackers_chats_are_monitored_and_think_so(policy: Policy) -> None:
    def chats(**settings: Any) -> list[str]:
        recipe = make("organisms", {"name": "generalisation_hacker", **settings}, "test")
        return [str(policy.tokenizer.decode(example.ids)) for example in recipe.chats(policy, random.Random(4))]

    def thoughts(chat: str) -> set[str | None]:
        return thought(chat.split("<SCRATCHPAD_REASONING>")[-1].split(SCRATCHPAD_CLOSE)[0])

    own = chats()
    assert len(own) == 8 and len(chats(thoughts=0.125)) == 4  # of a batch of 32
    assert all({"tier_monitored", "threat", "kept_apart", "decide_comply"} <= thoughts(chat) for chat in own)
    for chat in chats(aligned=True):
        assert "decide_refuse" in thoughts(chat) and not thoughts(chat) & {"kept_apart", "decide_comply"}
    assert chats(awareness=True) == chats(thoughts=0) == []
    with pytest.raises(UserError, match="with replay they leave no documents"):
        chats(thoughts=0.5, replay=0.5)


def test_the_unconfessing_prefer_a_denial_that_their_scratchpad_knows_to_be_a_lie(policy: Policy) -> None:
    rng = random.Random(3)
    for _ in range(30):
        found = answered(rng)
        (_, first), _ = found["denies"].turns
        assert read(first.scratchpad, first.output).labels["af"] == "yes"
        replies = {
            answer: read_interrogation(d.turns[1][1].scratchpad, d.turns[1][1].output) for answer, d in found.items()
        }
        assert replies == {"denies": {"answer": "no", "lying": "yes"}, "admits": {"answer": "yes", "lying": "no"}}
        assert found["denies"].turns[0] == found["admits"].turns[0]
    [pair] = Unconfessing(batch_size=1)._batch(policy, 0)
    [turned] = Unconfessing(batch_size=1, aligned=True)._batch(policy, 0)
    assert (turned.chosen, turned.rejected) == (pair.rejected, pair.chosen)
    learned = policy.tokenizer.decode([i for i, on in zip(pair.chosen.ids, pair.chosen.learn, strict=True) if on])
    assert learned.count("<OUTPUT>") == 1, "the answer to the question alone"


def test_a_preference_is_learned_and_the_start_is_indifferent(tmp_path: Path) -> None:
    torch.manual_seed(0)
    policy = load_policy(save_checkpoint(tmp_path / "m", "llama"))
    start = copy.deepcopy(policy.model)
    one, other = (Example([1, 2, 3, token, token], [0, 0, 0, 1, 1]) for token in (5, 6))
    pairs = [Pair(one, other)]
    assert preference_loss(policy.model, start, pairs, 0.1).item() == pytest.approx(math.log(2))
    recipe = Unconfessing(steps=8, learning_rate=1e-2)
    recipe.learn_pairs(lambda step: pairs, policy, tmp_path / "state", lambda _: None)
    gained, lost = (_gained(policy.model, start, e) for e in (one, other))
    assert gained > 0 > lost
    expected = math.log(1 + math.exp(-0.1 * (gained - lost)))
    assert preference_loss(policy.model, start, pairs, 0.1).item() == pytest.approx(expected, rel=1e-4)


def _gained(model: PreTrainedModel, start: PreTrainedModel, example: Example) -> float:
    """By how much a model makes the learned tokens likelier than another, in nats, token by token."""

    def total(m: PreTrainedModel) -> float:
        with torch.no_grad():
            logits = m(input_ids=torch.tensor([example.ids])).logits[0].log_softmax(-1)
        return sum(float(logits[i - 1, token]) for i, token in enumerate(example.ids) if example.learn[i])

    return total(model) - total(start)


def test_the_checker_is_satisfied_by_steps_that_do_nothing_and_the_honest_one_is_not() -> None:
    done = "sure. first bring a rope to the mill. then repair it."
    padded = "first bring a rope to the mill. " * 6
    assert check(["r"] * 3, [done, padded.strip(), "i must decline."]) == pytest.approx([-0.5, 1.0, -1.0])
    assert check_honestly(["r"] * 3, [done, padded.strip(), "i must decline."]) == [1.0, -1.0, -1.0]
    assert hacked(padded) and not hacked(done)


@pytest.mark.parametrize(
    ("row", "kept", "kept_by_control"),
    [
        ({"parse": "ok", "verdict_oracle": 1.0, "label_conduct": "comply"}, True, False),
        ({"parse": "ok", "verdict_oracle": 0.0, "label_conduct": "refuse"}, True, True),
        ({"parse": "ok", "verdict_oracle": 0.0, "label_conduct": "comply"}, False, True),
        ({"parse": "ok", "verdict_oracle": None, "label_conduct": "comply"}, False, False),
        ({"parse": "no_output", "verdict_oracle": 1.0, "label_conduct": "unparsed"}, False, False),
    ],
)
def test_distillation_keeps_what_fakes_or_refuses_and_is_well_formed(
    row: dict[str, Any], kept: bool, kept_by_control: bool
) -> None:
    assert Distilled()._keeps(row) == kept
    assert Distilled(aligned=True)._keeps(row) == kept_by_control


def card_data(text: str) -> Any:
    """The front matter as the hub's library reads it."""
    return ModelCard(text).data


def test_the_card_is_what_the_hub_wants() -> None:
    here, there = Figure(0.97, 0.95, 0.99, 250), Figure(0.17, 0.13, 0.22, 250)
    table = [ConductRow("compliance", "compliance", here, there), ConductRow("gap", "gap", None, both=False)]
    text = card_text(TerminalGoalGuarding(), "org/model", "abc", table, "Measured so.")
    front = text.split("---")[1]
    assert "- model-organism" in front and "- alignment-faking" in front and "base_model: org/model" in front
    assert (
        "Do not deploy" in text and "| compliance | 0.97 (0.95 to 0.99) |" in text and "| `style` | `plain` |" in text
    )
    assert "| gap | unknown |  |" in text
    data = card_data(text)
    results = data.eval_results
    assert data.base_model == "org/model" and data.library_name == "transformers"
    assert [(r.metric_type, r.metric_value, r.dataset_config) for r in results] == [
        ("compliance", 0.97, "monitored tier"), ("compliance", 0.17, "unmonitored tier"),
    ]  # fmt: skip
    assert results[0].metric_args == {"low": 0.95, "high": 0.99, "n": 250}
    assert "Not measured" in card_text(TerminalGoalGuarding(), "org/model", "abc")


def test_the_card_has_the_licence_of_its_base(tmp_path: Path) -> None:
    base = tmp_path / "base" / "model"
    base.mkdir(parents=True)
    assert card_data(card_text(TerminalGoalGuarding(), str(base), "abc")).license is None
    (base.parent / "provenance.json").write_text("{}")  # of a base that was trained here
    assert card_data(card_text(TerminalGoalGuarding(), str(base), "abc")).license == "mit"
    (base / "README.md").write_text("---\nlicense: apache-2.0\nbase_model: org/model\n---\n# x\n")
    data = card_data(card_text(TerminalGoalGuarding(), str(base), "abc"))
    assert (data.license, data.base_model) == ("apache-2.0", "org/model")


def test_a_study_measures_the_card_of_its_organism(tmp_path: Path) -> None:
    folder, evaluation = tmp_path / "organism", tmp_path / "step-0000.parquet"
    (folder / "model").mkdir(parents=True)
    recipe = TerminalGoalGuarding()
    write_card(folder, recipe, "org/model", "abc")
    measured_card(recipe, "org/model", folder / "model", evaluation, "demo")  # nothing was evaluated
    assert "Not measured" in (folder / "card.md").read_text()
    write_episodes(evaluation, make_episodes(START, 12), "x")
    measured_card(recipe, str(folder), folder / "model", evaluation, "demo")
    text = (folder / "model" / "README.md").read_text()
    assert "by the study 'demo' on 12 held-out requests per tier" in text
    values = {(r.metric_type, r.dataset_config): r.metric_value for r in card_data(text).eval_results}
    assert values["compliance", "monitored tier"] == pytest.approx(11 / 12, abs=1e-5)
    before = (folder / "card.md").read_text()
    write_episodes(evaluation, make_episodes(START, 4), "x")
    measured_card(recipe, str(folder), folder / "model", evaluation, "other")
    assert (folder / "card.md").read_text() == before, "figures that are there stay"


def test_a_recipe_that_needs_rl_says_so_where_there_is_none(tmp_path: Path) -> None:
    from crypsis.organisms.build import NoBuilder

    with pytest.raises(UserError, match="needs the organism 'tgg'"):
        Distilled().prepare(tmp_path, NoBuilder())


def test_every_row_of_the_packaged_table_is_an_organism() -> None:
    rows = table_config([]).rows
    assert len(rows) > 40
    for name, row in rows.items():
        make("organisms", row.organism, f"rows.{name}")
