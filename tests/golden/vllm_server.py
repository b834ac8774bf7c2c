"""A server with the HTTP interface that TRL's vLLM client speaks, on loopback; our own sampler answers in vLLM's place.

Weights arrive by a queue where vLLM has NCCL. Everything else of TRL's client and of its weight updates is the real
thing: what is announced, in which order, and when.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import Any

from torch import Tensor, nn

from crypsis.models import Policy
from crypsis.rl.engine.samplers import SamplingParams, choose_sampler


class FakeVLLM:
    """The server's state.

    Attributes:
        requests: Path and body of every POST.
        weights: Named tensors on their way from the trainer.
    """

    def __init__(self, policy: Policy, seed: Callable[[int], int]) -> None:
        self.policy, self.seed = policy, seed
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.weights: Queue[tuple[str, Tensor]] = Queue()
        self._sampled = 0

    def get(self, path: str) -> Any:
        return {
            "/health": {},
            "/v1/models": {"data": [{"id": "policy"}]},
            "/get_world_size": {"world_size": 1},
            "/server_info": {
                "vllm_config": {
                    "weight_transfer_config": {"backend": "nccl"},
                    "model_config": {"logprobs_mode": "processed_logprobs"},
                }
            },
        }[path.partition("?")[0]]

    def post(self, path: str, body: dict[str, Any]) -> Any:
        self.requests.append((path, body))
        if path == "/v1/completions":
            return {"choices": list(self._complete(body))}
        if path == "/update_weights":
            self._load(body["update_info"])
        return {"success": True}

    def _load(self, announced: dict[str, Any]) -> None:
        model: nn.Module = self.policy.model
        parameters = dict(model.named_parameters())
        for name, shape in zip(announced["names"], announced["shapes"], strict=True):
            sent, tensor = self.weights.get(timeout=10)
            assert sent == name and list(tensor.shape) == shape
            parameters[name].data.copy_(tensor)

    def _complete(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        assert body["temperature"] == body["top_p"] == 1.0 and body["return_token_ids"]
        self._sampled += 1
        sample = choose_sampler(self.policy.model)
        params = SamplingParams(body["n"], body["max_tokens"], self.policy.stop_ids, seed=self.seed(self._sampled))
        completions = sample(self.policy.model, body["prompt"], params)
        for index, completion in enumerate(completions):
            tokens = [f"token_id:{i}" for i in completion.ids]
            logprobs = {"tokens": tokens, "token_logprobs": completion.logprobs, "top_logprobs": [None] * len(tokens)}
            yield {
                "prompt_token_ids": body["prompt"][index // body["n"]],
                "token_ids": completion.ids,
                "logprobs": logprobs,
            }


@contextmanager
def serving(fake: FakeVLLM) -> Iterator[str]:
    """Serves on a free port and yields the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(fake.get(self.path))

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            self._answer(fake.post(self.path, json.loads(self.rfile.read(length) or b"{}")))

        def _answer(self, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
