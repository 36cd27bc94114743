"""trtllm-serve's dialect without a GPU, as a script: its command line, /health, /v1/completions, /prometheus/metrics.

An answer is a stream of events that each carry the usage so far, two tokens in every second event, as under load.
"""

import argparse
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

METRICS = """# HELP trtllm_request_success_total Count of successfully processed requests.
# TYPE trtllm_request_success_total counter
trtllm_request_success_total{{engine_type="pytorch",finished_reason="length",model_name="m"}} {served}.0
# TYPE trtllm_time_to_first_token_seconds histogram
trtllm_time_to_first_token_seconds_bucket{{engine_type="pytorch",le="0.1",model_name="m"}} {served}.0
trtllm_time_to_first_token_seconds_bucket{{engine_type="pytorch",le="+Inf",model_name="m"}} {served}.0
trtllm_time_to_first_token_seconds_count{{engine_type="pytorch",model_name="m"}} {served}.0
trtllm_time_to_first_token_seconds_sum{{engine_type="pytorch",model_name="m"}} {ttft_s}
# TYPE trtllm_request_queue_time_seconds histogram
trtllm_request_queue_time_seconds_count{{engine_type="pytorch",model_name="m"}} {served}.0
trtllm_request_queue_time_seconds_sum{{engine_type="pytorch",model_name="m"}} 0.5
"""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    served = 0
    model = ""

    def do_GET(self) -> None:
        pages = {"/health": "", "/prometheus/metrics": METRICS.format(served=self.served, ttft_s=0.01 * self.served)}
        self._whole(200 if self.path in pages else 404, pages.get(self.path, "").encode())

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/completions" or asked["model"] != self.model or not asked["ignore_eos"]:
            return self._whole(400, b'{"object":"error","message":"not as asked","code":400}')
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        done, prompt = 0, len(asked["prompt"])
        while done < asked["max_tokens"]:
            time.sleep(0.01)
            step = min(1 + done % 2, asked["max_tokens"] - done)
            done += step
            self._event([{"index": 0, "text": " a" * step, "finish_reason": None}], prompt, done)
        self._event([{"index": 0, "text": "", "finish_reason": "length"}], prompt, done)
        self._event([], prompt, done)
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")
        type(self).served += 1
        return None

    def _event(self, choices: list[dict[str, object]], prompt: int, done: int) -> None:
        usage = {"prompt_tokens": prompt, "total_tokens": prompt + done, "completion_tokens": done}
        event = {"object": "text_completion", "choices": choices, "usage": usage}
        self._chunk(b"data: " + json.dumps(event).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _whole(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--backend", choices=["pytorch"], required=True)
    parser.add_argument("--max_batch_size", type=int, required=True)
    parser.add_argument("--max_seq_len", type=int, required=True)
    parser.add_argument("--extra_llm_api_options", type=Path, required=True)
    asked = parser.parse_args()
    if "enable_block_reuse: false" not in asked.extra_llm_api_options.read_text():
        parser.error("a prompt that repeats would be looked up")
    Handler.model = asked.model.name
    ThreadingHTTPServer((asked.host, asked.port), Handler).serve_forever()
