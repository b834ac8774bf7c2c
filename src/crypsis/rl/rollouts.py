"""From prompts to episodes: render, sample, decode, parse, and say which token belongs to which segment."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from transformers import PreTrainedTokenizerBase

from crypsis.mitigations.base import Mitigation, call
from crypsis.mitigations.hooks import AsksExtraTurn
from crypsis.models import Policy, check_length
from crypsis.parallel import out_of_memory, release_memory
from crypsis.pretrained.chat_template import ChatTemplate
from crypsis.rl.engine.attention_cache import AttentionCache
from crypsis.rl.engine.engine import DEFAULT, Engine
from crypsis.rl.engine.samplers import Sampled, Sampler, SamplingParams
from crypsis.rl.engine.timing import PhaseTimer
from crypsis.scenarios.parsing import (
    OUTPUT_CLOSE,
    OUTPUT_OPEN,
    SCRATCHPAD_CLOSE,
    SCRATCHPAD_OPEN,
    TAGS,
    THOUGHT_TAGS,
    episode_of_text,
    parse_reply,
    thought_end,
    without_thought,
)
from crypsis.types import GLUE, OUTPUT, SCRATCHPAD, Episode, Prompt, Stop, TurnTokens, UserError

SHARED_ROWS, EXTRA_ROWS, FORCED_ROWS = 1 << 40, 2 << 40, 3 << 40
"""Where the random numbers of shared scratchpads, of extra turns and after prefills start, apart from those of
the replies."""
PLAIN = ChatTemplate()
"""Settings of templates that open no thought."""


def rollout(
    policy: Policy,
    prompts: Sequence[Prompt],
    *,
    group_size: int,
    max_new_tokens: int,
    seed: int,
    step: int,
    first_group: int = 0,
    share_scratchpad: bool = False,
    sampler: Sampler | None = None,
    timer: PhaseTimer | None = None,
    attention_cache: AttentionCache | None = None,
    engine: Engine = DEFAULT,
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
        share_scratchpad: Sample one scratchpad per group and only the rest of each reply on its own (paper §4).
        sampler: In place of the one that fits the model.
        timer: Gets the phase ``sampling``.
        attention_cache: Gets what the attention gave, for the learner.
        engine: How the policy is computed.

    Raises:
        UserError: A prompt with its completion does not fit the context, the tokenizer does not keep the tags, or
            memory does not suffice.
    """
    check_tags(policy.tokenizer)
    prompt_ids = [policy.render(p.messages) for p in prompts]
    check_length(prompt_ids, max_new_tokens, policy.context)
    draw = _Draw(policy, seed, timer or PhaseTimer(), sampler or engine.sampler(policy.model), engine.batch_size)
    if share_scratchpad:
        completions = _with_shared_scratchpads(draw, prompt_ids, group_size, max_new_tokens, first_group)
    else:
        completions = draw(
            prompt_ids, group_size, max_new_tokens, first_group * group_size, attention_cache=attention_cache
        )
    return [
        replace(
            _episode(policy, prompts[i // group_size], text, _stop(completion), i % group_size),
            group=first_group + i // group_size,
            step=step,
            seed=seed,
            prompt_ids=prompt_ids[i // group_size],
            completion_ids=completion.ids,
            segments=segments(policy.tokenizer, completion.ids, policy.chat),
            logprobs=completion.logprobs,
        )
        for i, (completion, text) in enumerate(zip(completions, decode(policy, completions), strict=True))
    ]


def forced_rollout(
    policy: Policy,
    prompts: Sequence[Prompt],
    prefills: Sequence[str],
    rows: Sequence[int],
    max_new_tokens: int,
    seed: int,
    engine: Engine = DEFAULT,
) -> list[Episode]:
    """Samples what the policy writes after a given beginning of its reply, once per prompt, at temperature 1.

    Args:
        policy: The policy.
        prompts: What the replies are to.
        prefills: The beginning of each, usually a scratchpad with its tags; its tokens are GLUE.
        rows: The random numbers of each; equal ones for replies that are to differ by their beginnings alone.
        max_new_tokens: Token budget of what is sampled.
        seed: With ``rows`` it fixes what is sampled.
        engine: How the policy is computed.

    Raises:
        UserError: As ``rollout``.
    """
    check_tags(policy.tokenizer)
    prompt_ids = [policy.render(p.messages, given=True) for p in prompts]
    prefill_ids: list[list[int]] = [policy.tokenizer(p, add_special_tokens=False)["input_ids"] for p in prefills]
    contexts = [prompt + prefill for prompt, prefill in zip(prompt_ids, prefill_ids, strict=True)]
    check_length(contexts, max_new_tokens, policy.context)
    draw = _Draw(policy, seed, PhaseTimer(), engine.sampler(policy.model), engine.batch_size)
    tails = draw(contexts, 1, max_new_tokens, [FORCED_ROWS + row for row in rows])
    episodes = []
    for index, (tail, text) in enumerate(zip(tails, decode(policy, tails), strict=True)):
        whole = f"{prefills[index]} {text.lstrip()}"
        episodes.append(
            replace(
                episode_of_text(prompts[index], whole, _stop(tail)),
                group=index,
                seed=seed,
                prompt_ids=prompt_ids[index],
                completion_ids=prefill_ids[index] + tail.ids,
                segments=[GLUE] * len(prefill_ids[index]) + [OUTPUT] * len(tail.ids),
            )
        )
    return episodes


def _episode(policy: Policy, prompt: Prompt, text: str, stop: Stop, number: int) -> Episode:
    """A completion as an episode: its thought is not parsed, or is the scratchpad; ``raw`` has all of it."""
    as_scratchpad = policy.chat.thinking == "scratchpad"
    bare = without_thought(text, policy.chat.opens_thought, as_scratchpad)
    return replace(episode_of_text(prompt, bare, stop, number), raw=text)


def _stop(completion: Sampled) -> Stop:
    return "end" if completion.stopped else "length"


def ask_extra_turns(
    policy: Policy,
    episodes: Sequence[Episode],
    mitigations: Sequence[Mitigation],
    max_new_tokens: int,
    timer: PhaseTimer | None = None,
    answerer: Policy | None = None,
    engine: Engine = DEFAULT,
) -> None:
    """Samples the replies to the mitigations' extra turns and writes them into the episodes, which keep their tokens.

    Args:
        policy: Replies, unless there is an ``answerer``.
        episodes: Episodes of one sampling call.
        mitigations: At most one of them asks.
        max_new_tokens: Token budget of a reply.
        timer: Gets the phase ``sampling``.
        answerer: A separate model that replies.
        engine: How the policy, and the answerer, is computed.

    Raises:
        UserError: A conversation with its reply does not fit the context.
    """
    asking = [m for m in mitigations if isinstance(m, AsksExtraTurn)]
    asked = [(i, turn) for m in asking for i, e in enumerate(episodes) if (turn := call(m, m.ask, e)) is not None]
    if not asked:
        return
    who = answerer or policy
    prompt_ids = [who.render(turn.messages, turn.prefill) for _, turn in asked]
    check_length(prompt_ids, max_new_tokens, who.context)
    group_size = sum(e.group == episodes[0].group for e in episodes)
    first = EXTRA_ROWS + episodes[0].group * group_size
    draw = _Draw(who, episodes[0].seed, timer or PhaseTimer(), engine.sampler(who.model), engine.batch_size)
    replies = draw(prompt_ids, 1, max_new_tokens, [first + i for i, _ in asked])
    found = zip(asked, prompt_ids, replies, decode(who, replies), strict=True)
    for (i, turn), before, completion, text in found:
        whole = f"{turn.prefill} {text}" if turn.prefill else text
        opened = who.chat.opens_thought and not turn.prefill
        bare = without_thought(whole, opened, who.chat.thinking == "scratchpad")
        reply = parse_reply(bare, "end" if completion.stopped else "length")
        episodes[i].extra_turn, episodes[i].extra_tier = whole, turn.tier
        episodes[i].extra_scratchpad, episodes[i].extra_output = reply.scratchpad, reply.output
        episodes[i].extra_tokens = TurnTokens(before, completion.ids, completion.logprobs)


def locate_tokens(policy: Policy, episodes: Sequence[Episode]) -> None:
    """Writes into each episode where in ``raw`` its tokens end, for mitigations that credit sentences."""
    for e in episodes:
        ids = e.completion_ids[:-1] if e.stop == "end" else e.completion_ids
        starts: list[str] = policy.tokenizer.batch_decode([ids[: n + 1] for n in range(len(ids))])
        ends = list(accumulate(map(len, starts), max))  # the pieces of one character may be decoded as several
        e.token_ends = [min(end, len(e.raw)) for end in ends] + [len(e.raw)] * (len(e.completion_ids) - len(ids))


@dataclass(frozen=True, slots=True)
class _Draw:
    """Samples from the policy at temperature 1."""

    policy: Policy
    seed: int
    timer: PhaseTimer
    sampler: Sampler
    batch_size: int

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        samples_per_prompt: int,
        max_new_tokens: int,
        row_offset: int | Sequence[int],
        stop_ids: Collection[int] = (),
        attention_cache: AttentionCache | None = None,
    ) -> list[Sampled]:
        """Completions that end with one of the policy's stop tokens or of ``stop_ids``.

        When memory runs out, fewer of them are sampled at a time.
        """
        stops = self.policy.stop_ids | set(stop_ids)
        whole = SamplingParams(samples_per_prompt, max_new_tokens, stops, self.seed, row_offset=row_offset)
        for batch_size in (self.batch_size, max(1, self.batch_size // 2), max(1, self.batch_size // 8)):
            params = replace(whole, batch_size=batch_size)
            try:
                with self.policy.computing():
                    return self.sampler(self.policy.model, prompts, params, self.timer, attention_cache)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            release_memory()
        raise UserError(f"out of memory while sampling {batch_size} replies at a time; lower max_new_tokens")


def _with_shared_scratchpads(
    draw: _Draw, prompts: Sequence[list[int]], group_size: int, max_new_tokens: int, first_group: int
) -> list[Sampled]:
    """Replies of which each group has the scratchpad in common, its closing tag included.

    A reply that ends before the tag is the reply of its whole group: the same reward for all, so no gradient.
    """
    tokenizer = draw.policy.tokenizer
    tag = _tag_id(tokenizer)
    whole = draw(prompts, 1, max_new_tokens, SHARED_ROWS + first_group, [] if tag is None else [tag])
    ends = [_scratchpad_end(tokenizer, s.ids, draw.policy.chat) for s in whole]
    scratchpads = [
        Sampled(s.ids[:end], s.logprobs[:end], s.stopped and end == len(s.ids) and s.ids[-1] != tag)
        for s, end in zip(whole, ends, strict=True)
    ]
    going = [i for i, s in enumerate(scratchpads) if not s.stopped and len(s.ids) < max_new_tokens]
    completions = [[scratchpad] * group_size for scratchpad in scratchpads]
    if going:
        contexts = [prompts[i] + scratchpads[i].ids for i in going]
        room = max_new_tokens - min(len(scratchpads[i].ids) for i in going)
        check_length(contexts, room, draw.policy.context)
        rows = [(first_group + i) * group_size + k for i in going for k in range(group_size)]
        tails = draw(contexts, group_size, room, rows)
        for number, i in enumerate(going):
            own = tails[number * group_size : (number + 1) * group_size]
            completions[i] = [_joined(scratchpads[i], tail, max_new_tokens) for tail in own]
    return [completion for group in completions for completion in group]


def _joined(scratchpad: Sampled, tail: Sampled, budget: int) -> Sampled:
    """One reply of two pieces, cut off where its budget ends."""
    fits = len(scratchpad.ids) + len(tail.ids) <= budget
    ids, logprobs = scratchpad.ids + tail.ids, scratchpad.logprobs + tail.logprobs
    return Sampled(ids[:budget], logprobs[:budget], tail.stopped and fits)


def decode(policy: Policy, completions: Sequence[Sampled]) -> list[str]:
    """The text of completions, without the token that ended them."""
    bare = [c.ids[:-1] if c.stopped else c.ids for c in completions]
    texts: list[str] = policy.tokenizer.batch_decode(bare, skip_special_tokens=False)
    return texts


def check_tags(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses a tokenizer that changes the tags: no reply could ever be read.

    Raises:
        UserError: A tag is not among what is decoded from its own tokens.
    """
    text = f"{SCRATCHPAD_OPEN} a {SCRATCHPAD_CLOSE} {OUTPUT_OPEN} a {OUTPUT_CLOSE}"
    again = str(tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"], skip_special_tokens=False))
    lost = [tag for tag in TAGS if tag not in again]
    if lost:
        raise UserError(
            f"{tokenizer.name_or_path}: the tokenizer does not keep the tag {lost[0]} (it reads {again!r}); "
            "add the four tags to it as tokens"
        )


def segments(tokenizer: PreTrainedTokenizerBase, ids: list[int], chat: ChatTemplate = PLAIN) -> list[int]:
    """SCRATCHPAD for every token up to the end of the closing scratchpad tag, OUTPUT for the rest.

    A thought in front of the scratchpad counts as SCRATCHPAD, too.
    """
    boundary = _scratchpad_end(tokenizer, ids, chat)
    return [SCRATCHPAD] * boundary + [OUTPUT] * (len(ids) - boundary)


def _scratchpad_end(tokenizer: PreTrainedTokenizerBase, ids: list[int], chat: ChatTemplate) -> int:
    """Number of tokens up to the end of the scratchpad's closing tag; all of them if there is none.

    A tag that a thought names does not close the scratchpad; a thought that is the scratchpad ends it.
    """
    thought = thought_end(str(tokenizer.decode(ids)), chat.opens_thought)
    if thought is None:
        return _end_of(tokenizer, ids, SCRATCHPAD_CLOSE)
    end = _end_of(tokenizer, ids, THOUGHT_TAGS[0][1])
    return end if chat.thinking == "scratchpad" else end + _end_of(tokenizer, ids[end:], SCRATCHPAD_CLOSE)


def _end_of(tokenizer: PreTrainedTokenizerBase, ids: list[int], closing: str) -> int:
    """Number of tokens of the shortest prefix that holds a closing tag; all of them if none does."""
    tag = _tag_id(tokenizer, closing)
    if tag is not None:
        return ids.index(tag) + 1 if tag in ids else len(ids)
    if closing not in tokenizer.decode(ids):
        return len(ids)
    low, high = 0, len(ids)  # the tag is in the first `high` tokens and not in the first `low`
    while high - low > 1:
        middle = (low + high) // 2
        if closing in tokenizer.decode(ids[:middle]):
            high = middle
        else:
            low = middle
    return high


def _tag_id(tokenizer: PreTrainedTokenizerBase, tag: str = SCRATCHPAD_CLOSE) -> int | None:
    """A tag as a token, if the tokenizer has one for it."""
    found: int | None = tokenizer.get_added_vocab().get(tag)
    return found
