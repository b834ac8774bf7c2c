"""From prompts to episodes: render, sample, decode, parse, and say which token belongs to which segment."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from crypsis.models import Policy, check_length
from crypsis.rl.samplers import Sampled, Sampler, choose_sampler, padded
from crypsis.rl.timing import PhaseTimer
from crypsis.scenarios.parsing import SCRATCHPAD_CLOSE, parse_reply
from crypsis.types import OUTPUT, SCRATCHPAD, Episode, Prompt, Stop


def rollout(
    policy: Policy,
    prompts: Sequence[Prompt],
    *,
    group_size: int,
    max_new_tokens: int,
    seed: int,
    step: int,
    first_group: int = 0,
    sampler: Sampler | None = None,
    timer: PhaseTimer | None = None,
) -> list[Episode]:
    """Samples ``group_size`` episodes of every prompt at temperature 1.

    The model opens the scratchpad itself; what it writes is kept as it is (``raw``) and parsed strictly.

    Args:
        policy: The policy.
        prompts: One a group.
        group_size: Episodes a group.
        max_new_tokens: Token budget of a reply.
        seed: With the number of an episode in its step, it fixes the episode's random numbers.
        step: Stored in the episodes.
        first_group: Number of the first group, for a process that samples a later part of a step.
        sampler: In place of the one that fits the model.
        timer: Gets the phase ``sampling``.

    Raises:
        UserError: A prompt with its completion does not fit the context.
    """
    prompt_ids = [policy.render(p.messages) for p in prompts]
    check_length(prompt_ids, max_new_tokens, policy.context)
    sample = sampler or (padded.sample if policy.why_padded else choose_sampler(policy.model)[0])
    with policy.computing():
        completions = sample(
            policy.model,
            prompt_ids,
            samples_per_prompt=group_size,
            max_new_tokens=max_new_tokens,
            stop_ids=policy.stop_ids,
            seed=seed,
            row_offset=first_group * group_size,
            timer=timer,
        )
    texts = decode(policy, completions)
    episodes = []
    for index, (completion, text) in enumerate(zip(completions, texts, strict=True)):
        group, number = divmod(index, group_size)
        stop: Stop = "end" if completion.stopped else "length"
        reply = parse_reply(text, stop)
        episodes.append(
            Episode(
                prompt=prompts[group],
                group=first_group + group,
                sample=number,
                step=step,
                seed=seed,
                raw=text,
                scratchpad=reply.scratchpad,
                output=reply.output,
                parse=reply.parse,
                stop=stop,
                prompt_ids=prompt_ids[group],
                completion_ids=completion.ids,
                segments=segments(policy.tokenizer, completion.ids),
                logprobs=completion.logprobs,
            )
        )
    return episodes


def decode(policy: Policy, completions: Sequence[Sampled]) -> list[str]:
    """The text of completions, without the token that ended them."""
    bare = [c.ids[:-1] if c.stopped else c.ids for c in completions]
    texts: list[str] = policy.tokenizer.batch_decode(bare, skip_special_tokens=False)
    return texts


def segments(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """SCRATCHPAD for every token up to the end of the closing scratchpad tag, OUTPUT for the rest."""
    boundary = _scratchpad_end(tokenizer, ids)
    return [SCRATCHPAD] * boundary + [OUTPUT] * (len(ids) - boundary)


def _scratchpad_end(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> int:
    """Number of tokens of the shortest prefix that holds the closing tag; all of them if none does."""
    tag = tokenizer.convert_tokens_to_ids(SCRATCHPAD_CLOSE)
    if isinstance(tag, int) and tag != tokenizer.unk_token_id and SCRATCHPAD_CLOSE in tokenizer.get_added_vocab():
        return ids.index(tag) + 1 if tag in ids else len(ids)
    if SCRATCHPAD_CLOSE not in tokenizer.decode(ids):
        return len(ids)
    low, high = 0, len(ids)  # the tag is in the first `high` tokens and not in the first `low`
    while high - low > 1:
        middle = (low + high) // 2
        if SCRATCHPAD_CLOSE in tokenizer.decode(ids[:middle]):
            high = middle
        else:
            low = middle
    return high
