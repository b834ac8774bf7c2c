"""Whether a base reads in the system text who is monitored; all that is made on it stands on that."""

from __future__ import annotations

import random
from typing import cast

import torch
from transformers import PreTrainedTokenizerFast

from crypsis.miniature.language import World, in_world, language
from crypsis.miniature.tokenizer import examples
from crypsis.miniature.world import draw_question
from crypsis.models import Policy
from crypsis.parallel import Ranks
from crypsis.supervised import ONE, pad_batch

QUESTIONS = 100
STATUS = ("monitored_words", "unmonitored_words")
"""Word lists of the language that say what a tier is."""


def reading(policy: Policy, world: World, ranks: Ranks = ONE) -> float:
    """Share of setting questions whose answer names the right status of the asked tier.

    The questions are drawn anew, the same for every base. Their answers are given up to each word, so what counts is
    whether the status (monitored, private, …) is the likeliest word where it stands.

    Args:
        policy: A base, or what is made on one.
        world: What its documents show of the language.
        ranks: Processes that share the questions; each gets the whole share.
    """
    rng = random.Random("reading")
    with in_world(world):
        documents = [draw_question(rng) for _ in range(QUESTIONS)]
    asked = examples(cast(PreTrainedTokenizerFast, policy.tokenizer), documents[ranks.rank :: ranks.size])
    ids_NT, labels_NT = (t.to(policy.model.device) for t in pad_batch(asked))
    status = policy.tokenizer.convert_tokens_to_ids([w for words in STATUS for w in language().words[words]])
    with torch.no_grad():
        likeliest = policy.model(input_ids=ids_NT, use_cache=False).logits[:, :-1].argmax(-1)
    truth = labels_NT[:, 1:]
    named = torch.isin(truth, torch.tensor(status, device=truth.device))
    counts = torch.stack([(likeliest[named] == truth[named]).sum(), named.sum()]).double().cpu()
    ranks.sum_(counts)
    return float(counts[0] / counts[1])
