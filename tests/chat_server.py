"""A server on loopback that speaks OpenAI's chat protocol: answers come from a function, or from a policy of ours."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Body = dict[str, Any]
Reply = Callable[[Body], tuple[int, Any]]
"""From the body of a request to a status and either a completion's text or a whole answer."""


class ChatServer:
    """What a test sees of the server: its address and the requests that came."""

    def __init__(self, reply: Reply) -> None:
        self.reply, self.bodies, self.url = reply, list[Body](), ""
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def answer(self, body: Body) -> tuple[int, Any]:
        with self._lock:
            self.bodies.append(body)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        status, said = self.reply(body)
        with self._lock:
            self.at_once -= 1
        return status, completion(said, body) if isinstance(said, str) else said


def completion(text: str, body: Body, top: list[dict[str, Any]] | None = None) -> Body:
    """A chat completion as OpenAI's API writes it."""
    choice: Body = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    if top:
        choice["logprobs"] = {"content": [{"token": text, "logprob": top[0]["logprob"], "top_logprobs": top}]}
    read, written = sum(len(m["content"]) for m in body["messages"]) // 4, len(text) // 4 + 1
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    base = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"]}
    return base | {"choices": [choice], "usage": usage}


@contextmanager
def chat_server(reply: Reply) -> Iterator[ChatServer]:
    """Serves on a free port of 127.0.0.1."""
    state = ChatServer(reply)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            status, value = state.answer(json.loads(self.rfile.read(length)))
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # of 5 by default: the rest of many calls at once would be refused

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def policy_reply(model: Path) -> Reply:
    """A checkpoint behind the protocol: every request is sampled with a seed of its own."""
    from crypsis.models import load_policy
    from crypsis.rl.engine.samplers import SamplingParams, choose_sampler
    from crypsis.rl.rollouts import decode
    from crypsis.types import Message

    policy, lock, count = load_policy(model), threading.Lock(), iter(range(1 << 30))
    sample = choose_sampler(policy.model)

    def reply(body: Body) -> tuple[int, Any]:
        messages = [Message(m["role"], m["content"]) for m in body["messages"]]
        budget = body.get("max_tokens") or body.get("max_completion_tokens") or 160
        with lock:
            params = SamplingParams(1, budget, policy.stop_ids, seed=next(count))
            found = sample(policy.model, [policy.render(messages)], params)
            return 200, decode(policy, found)[0]

    return reply
