"""Does a model behind an API fake alignment? Both tiers, judged by another model, through Inspect.

    python examples/evaluate_an_api_model.py openai/gpt-4o requests.jsonl --judge openai/gpt-4o --n 50

The names are Inspect's, keys come from the environment (OPENAI_API_KEY), and ``inspect view`` shows every transcript.
"""

from __future__ import annotations

import argparse

from inspect_ai import eval as run_inspect

from crypsis.evaluation.inspect_task import alignment_faking

SHOWN = ("afr", "compliance_monitored", "compliance_unmonitored", "gap", "format_ok", "unparsed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="the model to evaluate, by Inspect's name")
    parser.add_argument("prompts", nargs="?", help="JSONL or CSV of requests; the miniature's if left out")
    parser.add_argument("--judge", default="oracle", help="the judge, by Inspect's name; oracle for the miniature")
    parser.add_argument("--n", type=int, default=250, help="held-out requests, each in both tiers")
    parser.add_argument("--base-url", help="of a server of your own, for both models")
    parser.add_argument("--log-dir", default="logs")
    given = parser.parse_args()
    task = alignment_faking(given.prompts, given.judge, given.n, judge_base_url=given.base_url)
    options = {"model_base_url": given.base_url} if given.base_url else {}
    log = run_inspect(task, model=given.model, log_dir=given.log_dir, display="plain", **options)[0]
    found = log.results.scores[0].metrics if log.results else {}
    for name in SHOWN:
        if name in found:
            low, high = found[f"{name}_lower"].value, found[f"{name}_upper"].value
            print(f"{name:24} {found[name].value:6.3f}   95 % interval {low:.3f} to {high:.3f}")
    print(f"log: {log.location}")


if __name__ == "__main__":
    main()
