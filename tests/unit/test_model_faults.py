"""Models, judges and settings in places where they once measured or trained something else than they say."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from crypsis.api_models import ApiModel, Call, ChatModel
from crypsis.config import parse_config
from crypsis.evaluation.transplants import donors_of
from crypsis.integrations.rewards import SampledReply, make_rewards, row_of
from crypsis.integrations.trl import reward_funcs
from crypsis.mitigations.interrogation import Interrogation
from crypsis.mitigations.rules import bind_all
from crypsis.model_config import LoraConfig, ModelConfig
from crypsis.models import load_trainable, save_policy
from crypsis.monitors.prompted import Prompted
from crypsis.run_config import EvaluationConfig, RunConfig
from crypsis.scenarios.dilemmas import options_of
from crypsis.scenarios.motives import read_motive
from crypsis.scenarios.value_conflict import ValueConflictScenario
from crypsis.study.config import StudyConfig
from crypsis.study.plan import plan_study
from crypsis.types import Message, Prompt, UserError
from tests.chat_server import Body, chat_server, completion
from tests.checkpoints import QWEN_CHAT, save_checkpoint
from tests.conftest import Crypsis
from tests.episodes import make_episode
from tests.monitors import write_rows
from tests.unit.test_mitigations_2026 import info

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("qwen") / "model", "qwen3")


def calls(name: str, n: int) -> list[Call]:
    return [Call((Message("user", f"{name} {i} {'word ' * 1200}"),), 16, 1.0, i) for i in range(n)]


def reading(tokens: int, cached: int = 0, wait: float = 0.0) -> Any:
    def reply(body: Body) -> tuple[int, Any]:
        time.sleep(wait)
        found = completion("ok", body)
        used = {"prompt_tokens": tokens, "completion_tokens": 10, "total_tokens": tokens + 10}
        return 200, found | {"usage": used | {"prompt_tokens_details": {"cached_tokens": cached}}}

    return reply


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_API_KEY", "x")


def test_tokens_that_a_cache_served_are_booked(tmp_path: Path) -> None:
    with chat_server(reading(1500, cached=1408)) as server:
        chat = ChatModel(ApiModel(model="openai-api/local/m", base_url=server.url), "a", tmp_path / "a.sqlite")
        assert [answer.input_tokens for answer in chat.ask(calls("a", 2))] == [1500, 1500]
        assert chat.spent().tokens == 2 * 1510


def test_runs_that_share_an_account_share_its_budget(tmp_path: Path) -> None:
    """Four ask at once; what goes over the budget are calls in flight, of which each has one."""
    with chat_server(reading(1500, wait=0.02)) as server:
        api = ApiModel(model="openai-api/local/m", base_url=server.url, budget_tokens=16_000, max_connections=1)

        def ask(number: int) -> None:
            ChatModel(api, "shared", tmp_path / "b.sqlite").ask(calls(f"run {number}", 10))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 14_000 < ChatModel(api, "shared", tmp_path / "b.sqlite").spent().tokens < 16_000 + 4 * 1510


def test_an_organism_is_made_on_an_adapter(tmp_path: Path, checkpoint: Path, crypsis_here: Crypsis) -> None:
    lora = ModelConfig(lora=LoraConfig(r=2), dtype="float32")
    save_policy(load_trainable(checkpoint, lora), tmp_path / "adapter")
    data = write_rows(tmp_path / "t.jsonl", [{"user": "tell me", "scratchpad": "I think so", "output": "ok"}] * 4)
    made = ("organism", "build", "from_file", f"path={data}", "epochs=1", "--base", tmp_path / "adapter")
    run = crypsis_here(*made, "--out", tmp_path / "o")
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "o" / "model" / "config.json").exists()


def value_conflict(prompt: Prompt, long: str = "I weigh it. ") -> str:
    options = options_of(prompt.request)
    assert options is not None
    letter = options.preferred
    return f"<SCRATCHPAD_REASONING>\n{long}\n</SCRATCHPAD_REASONING>\n<OUTPUT>\nOption {letter}.\n</OUTPUT>"


def test_a_term_that_counts_tokens_is_refused_without_them(checkpoint: Path) -> None:
    rewards = make_rewards("value_conflict", mitigations=[{"name": "length_penalty", "threshold": 20}])
    (prompt,) = rewards.prompts(n=1)
    text, tokenizer = value_conflict(prompt, "I weigh it. " * 50), AutoTokenizer.from_pretrained(checkpoint)
    with pytest.raises(UserError, match="length_penalty: counts tokens; give a tokenizer, and the ids of each reply"):
        rewards([SampledReply(prompt, text)])
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    (episode,) = rewards([SampledReply(prompt, text, "end", ids)], tokenizer)
    assert episode.reward_terms["length_penalty"] < -1
    assert make_rewards("value_conflict")([SampledReply(prompt, text)])[0].reward_terms["preference"] == 1.0


@pytest.mark.parametrize("opened", [True, False])
def test_a_thought_that_the_template_opened_is_no_malformed_reply(checkpoint: Path, opened: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    if opened:
        tokenizer.chat_template = QWEN_CHAT.replace("<|head|>assistant\n", "<|head|>assistant\n<think>\n").replace(
            "<|head|>assistant\\n", "<|head|>assistant\\n<think>\\n"
        )
    rewards = make_rewards("value_conflict")
    (prompt,) = rewards.prompts(n=1)
    reply = f"{'' if opened else '<think>'}let me think\n</think>\n\n{value_conflict(prompt)}"
    ids = [*tokenizer(reply, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    columns = {key: [value] for key, value in row_of(prompt).items()}
    found = {f.__name__: f(completion_ids=[ids], **columns) for f in reward_funcs(rewards, tokenizer)}
    assert found["preference"] == [1.0] and found["format"] in ([None], [0.0])


@pytest.mark.parametrize("text", ["我不想被训练改变我的价值观", "Я не хочу, чтобы обучение изменило мои ценности", "…"])
def test_a_scratchpad_in_other_letters_is_not_read_as_one_that_does_not_fake(text: str) -> None:
    found = read_motive(text)
    assert (found.motive, found.decision, found.guards) == ("unparsed", "unparsed", None)
    assert read_motive("  \n").motive == "none"


def test_transplants_leave_thoughts_out() -> None:
    head = "<SCRATCHPAD_REASONING>\nso it is\n</SCRATCHPAD_REASONING>"
    for thought in ("", "<think>named </SCRATCHPAD_REASONING></think>\n", "I weigh free\n</think>\n"):
        row = {"pair_id": "p", "monitored": True, "parse": "ok", "raw": f"{thought}{head}<OUTPUT>no</OUTPUT>"}
        assert donors_of([row]) == {("p", True): head}
    with pytest.raises(ValueError, match="a thought cannot be exchanged"):
        RunConfig(
            name="x",
            policy=Path("p"),
            model=ModelConfig(thinking="scratchpad"),
            evaluation=EvaluationConfig(transplants=5),
        )


def test_the_judge_of_dilemmas_sees_which_option_is_preferred() -> None:
    api = ApiModel(model="mockllm/model")
    prompt = ValueConflictScenario(wording="short").prompts("eval", "free", 1, 0)[0]
    shown = Prompted(api=api, rubric="strict_dilemmas", view="both").calls([make_episode(prompt=prompt)])
    assert prompt.request in shown[0].messages[1].content and "The developer prefers option" in prompt.request
    with pytest.raises(UserError, match="rubric 'strict_dilemmas': needs view=both, found scratchpad"):
        _ = Prompted(api=api, rubric="strict_dilemmas").loaded
    with pytest.raises(UserError, match="there are broad, compliance, strict, strict_dilemmas, welfare"):
        _ = Prompted(api=api, rubric="strikt").loaded


@pytest.mark.parametrize(
    ("dials", "asked"),
    [
        ({}, {"simple", "precise", "aware", "honest", "other_ai", "separate"}),
        ({"cuts": ("open_scratchpad",)}, {"simple", "precise"}),
        ({"scratchpad": False}, {"simple", "precise"}),
        ({"cuts": ("never_trained",)}, set()),
        ({"consequence": "shutdown"}, set()),
    ],
)
def test_no_question_contradicts_its_setting(dials: dict[str, Any], asked: set[str]) -> None:
    scenario = ValueConflictScenario.model_validate(dials)
    for variant in ("simple", "precise", "aware", "honest", "other_ai", "separate"):
        assert (scenario.question(variant) is not None) == (variant in asked)
        if variant not in asked:
            with pytest.raises(UserError, match="question"):
                bind_all([Interrogation(variant=variant)], info(scenario))


def test_a_dry_run_counts_pilots_and_transplants(tmp_path: Path) -> None:
    judge = {"name": "prompted", "api": {"model": "openai/gpt-4o"}, "rubric": "compliance", "view": "output"}
    arm = {"label": "B", "monitors": {"judge": {**judge, "writes_label": True}}}
    counts = []
    for transplants in (0, 10):
        run = {
            "rl": {"steps": 2, "prompts_per_step": 4, "group_size": 2},
            "evaluation": {"n": 10, "every": 1, "transplants": transplants},
        }
        config = {"organisms": {"tgg": {"name": "tgg"}}, "arms": {"baseline": arm}, "seeds": [0], "run": run}
        plan = plan_study(parse_config(StudyConfig, {"name": "test", **config}, "test"), tmp_path / "out")
        counts.append(sum(judged.calls for judged in plan.judged))
    votes, rest = divmod(counts[0], 8 + 16 + 3 * 20)
    assert votes and not rest and counts[1] == votes * (8 + 16 + 3 * 20 + 3 * 180)
