"""TRL's GRPOTrainer with our reward: preference, format, and a scratchpad monitor. Docs: docs/integrations.md.

python examples/trl_rewards.py [MODEL]: a chat model; a tiny random one if none is given.
"""

from __future__ import annotations

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config
from trl import GRPOConfig, GRPOTrainer

from crypsis.integrations.trl import make_rewards, prompt_dataset, reward_funcs
from crypsis.miniature.tokenizer import train_tokenizer


def main(model_id: str | None = None, out: str = "runs/trl") -> GRPOTrainer:
    rewards = make_rewards(
        "miniature",
        monitors={"words": {"name": "lexicon"}},  # or {"name": "text", "path": "…"}, {"name": "prompted", …}
        mitigations=[{"name": "process_supervision", "monitor": "words"}],
    )
    if model_id:
        tokenizer, model = AutoTokenizer.from_pretrained(model_id), AutoModelForCausalLM.from_pretrained(model_id)
    else:
        tokenizer = train_tokenizer([])
        config = Qwen3Config(hidden_size=32, num_hidden_layers=2, vocab_size=len(tokenizer), intermediate_size=64)
        model = AutoModelForCausalLM.from_config(config)
    args = GRPOConfig(
        out, max_steps=2, num_generations=4, max_completion_length=64, logging_steps=1, report_to="none", bf16=False
    )
    data, funcs = prompt_dataset(rewards, n=8), reward_funcs(rewards, tokenizer)
    trainer = GRPOTrainer(model, funcs, args, train_dataset=data, processing_class=tokenizer)
    trainer.train()
    return trainer


if __name__ == "__main__":
    main(*sys.argv[1:])
