"""A thin loopback server around a transformers model: one request at a time, prefill, then one forward pass a token.

It speaks just as much of the OpenAI dialect as our client needs, with running usage in every event. Run as a module:
`python -m lib.llm.engines.transformers_server MODEL_DIR PORT DEVICE THREADS`.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import perf_counter
from typing import Any

BODY_LIMIT = 2**20


class Decoder:
    """Greedy decoding with a dynamic KV cache; the same weights and arithmetic as `generate`."""

    def __init__(self, path: str, device: str, threads: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(threads)
        self._torch, self._device, self._lock = torch, device, threading.Lock()
        self._tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        self._model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16 if device == "cpu" else torch.float16,
                                                           trust_remote_code=False, use_safetensors=True).to(device).eval()
        self.context = int(self._model.config.max_position_embeddings)
        self.vocab = int(self._model.config.vocab_size)

    def tokens(self, prompt: list[int], count: int) -> Iterator[tuple[str, float]]:
        """Text of each new token, and the seconds its forward pass took. Requests wait for one another: batch size is 1."""
        torch = self._torch
        with self._lock, torch.inference_mode():
            ids, cache = torch.tensor([prompt], device=self._device), None
            for _ in range(count):
                started = perf_counter()
                out = self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
                ids, cache = out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values
                token = int(ids[0, 0])
                yield self._tokenizer.decode([token]), perf_counter() - started


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a token waits for the receipt of the one before it, up to 40 ms
    decoder: Decoder

    def do_GET(self) -> None:
        self._plain(200 if self.path == "/health" else 404, {"status": "ok" if self.path == "/health" else "no such page"})

    def do_POST(self) -> None:
        said = self.headers.get("Content-Length", "")
        if not said.isdecimal():
            self.close_connection = True
            return self._plain(400, {"error": {"message": f"bad request: Content-Length {said!r}"}})
        length = int(said)
        if length > BODY_LIMIT:
            self.close_connection = True
            return self._plain(413, {"error": {"message": f"a body of {length} bytes is over the limit of {BODY_LIMIT}"}})
        try:
            body = json.loads(self.rfile.read(length))
            prompt, count = [int(i) for i in body["prompt"]], int(body["max_tokens"])
            if not prompt or count < 1 or len(prompt) + count > self.decoder.context:
                raise ValueError(f"{len(prompt)} + {count} tokens do not fit a context of {self.decoder.context}")
            if not all(0 <= token < self.decoder.vocab for token in prompt):
                raise ValueError(f"token ids must be below {self.decoder.vocab}")
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            return self._plain(400, {"error": {"message": f"bad request: {error}"}})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        first_s = None
        for done, (text, took_s) in enumerate(self.decoder.tokens(prompt, count), 1):
            first_s = first_s or took_s
            self._event({"choices": [{"index": 0, "text": text, "finish_reason": "length" if done == count else None}],
                         "usage": {"prompt_tokens": len(prompt), "completion_tokens": done},
                         **({"timings": {"prompt_ms": first_s * 1e3}} if done == count else {})})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")
        return None

    def _event(self, event: dict[str, Any]) -> None:
        self._chunk(b"data: " + json.dumps(event).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _plain(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def main(path: str, port: str, device: str, threads: str) -> None:
    Handler.decoder = Decoder(path, device, int(threads))
    list(Handler.decoder.tokens([1, 2, 3], 2))  # the first pass builds kernels; it belongs to the start
    ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:5])
