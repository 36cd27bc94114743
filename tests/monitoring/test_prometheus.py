"""A Prometheus is asked; what it cannot answer is one sentence that says what to do."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from math import inf, isnan

import pytest

from lib.install import Missing
from lib.monitoring import tools
from lib.monitoring.prometheus import Client, Unanswered, series
from lib.process import running

needs_prometheus = pytest.mark.skipif(isinstance(tools.find("prometheus"), Missing), reason="Prometheus is not on this machine")


@contextlib.contextmanager
def answering(body: bytes | None, status: int = 200) -> Iterator[Client]:
    """A server that always says the same; with None, nothing at all."""

    class Says(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if body is None:
                time.sleep(0.6)
                return
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Says)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Client(f"http://127.0.0.1:{server.server_port}", timeout_s=0.2)
    finally:
        server.shutdown()
        server.server_close()


def told(kind: str, result: object) -> bytes:
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": result}}).encode()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense"])
def test_nobody_there(url: str) -> None:
    client = Client(url)
    assert not client.ready()
    with pytest.raises(Unanswered, match=r"no Prometheus at .*; start one"):
        client.instant("up")


def test_silence_is_a_timeout() -> None:
    with answering(None) as client, pytest.raises(Unanswered, match=r"no answer to 'up' within 0\.2 s"):
        client.instant("up")


@pytest.mark.parametrize(("body", "status", "sentence"), [
    (b"<html>", 200, "is no Prometheus"), (b"[]", 200, "is no Prometheus"), (b"{}", 404, "is no Prometheus"),
    (b'{"status":"error","errorType":"timeout","error":"slow"}', 503, "gave up on 'up' after 0.2 s: slow"),
    (b'{"status":"error","errorType":"execution","error":"query processing would load too many samples"}', 422, "too many samples"),
    (told("string", [0, "x"]), 200, "is a string, not a vector"),
    (told("vector", [{"metric": {}, "histogram": [0, {}]}]), 200, "native histograms"),
    (told("vector", [{"metric": {"value": "3"}, "value": [0, "1"]}]), 200, "label_replace"),
])  # fmt: skip
def test_what_is_no_answer_is_told_as_such(body: bytes, status: int, sentence: str) -> None:
    with answering(body, status) as client, pytest.raises(Unanswered, match=sentence):
        client.instant("up")


def test_special_floats_come_through() -> None:
    found = [{"metric": {"n": str(n)}, "value": [0, value]} for n, value in enumerate(("NaN", "+Inf", "-Inf"))]
    with answering(told("vector", found)) as client:
        nan, up, down = client.instant("x").value
    assert isnan(nan) and up == inf and down == -inf


def test_no_series_are_no_rows_with_a_value() -> None:
    with answering(told("vector", [])) as client:
        assert list(client.instant("x").columns) == ["value"] and client.instant("x").empty
    with answering(told("matrix", [])) as client:
        assert list(client.range("x", 0, 1, 1).columns) == ["series", "labels", "t_s", "value"]
        assert client.raw("x", 0, 1).empty


def test_a_clock_that_is_not_ours_is_refused() -> None:
    with answering(told("scalar", [0, str(time.time() + 90)])) as client:
        assert client.skew_s(bound_s=100) == pytest.approx(90, abs=1)
        with pytest.raises(Unanswered, match=r"clock of .* is \+(89|90).* NTP"):
            client.skew_s()


@pytest.mark.parametrize(("span_s", "step_s", "sentence"), [
    (110_010, 10, "11001 a series .* steps of 11 s"), (10, 0, "no range"), (-1, 1, "no range"),
])  # fmt: skip
def test_a_range_that_cannot_be_is_refused_before_it_is_asked(span_s: float, step_s: float, sentence: str) -> None:
    with pytest.raises(Unanswered, match=sentence):
        Client("http://127.0.0.1:1").range("up", 0, span_s, step_s)


@pytest.mark.parametrize(("labels", "text"), [
    ({"__name__": "up", "b": "2", "a": "1"}, 'up{a="1",b="2"}'), ({"__name__": "up"}, "up"), ({}, "{}"),
    ({"a": 'x"\\\n'}, r'{a="x\"\\\n"}'),
])  # fmt: skip
def test_a_series_has_one_spelling(labels: dict[str, str], text: str) -> None:
    assert series(labels) == text


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A Prometheus that scrapes itself and a port where nobody is."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "rules.yml").write_text("groups: [{name: g, rules: [{record: 'x:y', expr: 'up * 2'}, {alert: Down, expr: 'up == 0'}]}]")
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}\nrule_files: [rules.yml]\nscrape_configs:\n"
        "- {job_name: dead, static_configs: [{targets: ['127.0.0.1:1']}]}\n")
    program = str(tools.find("prometheus"))
    with running(lambda port: [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data", "--log.level=warn",
                               f"--web.listen-address=127.0.0.1:{port}"], name="prometheus", logs=folder, health="/-/ready") as process:
        client, until = Client(process.url), time.monotonic() + 30
        while client.alerts().empty and time.monotonic() < until:
            time.sleep(0.2)
        time.sleep(1)
        yield client


@needs_prometheus
def test_a_real_one_tells_of_its_targets_rules_and_alerts(real: Client) -> None:
    assert real.ready() and abs(real.skew_s()) < 1
    (target,) = real.targets().itertuples()
    assert (target.job, target.instance, target.health) == ("dead", "127.0.0.1:1", "down") and "refused" in target.error
    rules = real.rules()
    assert list(rules.name) == ["x:y", "Down"] and list(rules.kind) == ["recording", "alerting"] and set(rules.health) == {"ok"}
    assert abs(rules.evaluated_s - time.time()).max() < 5 and (rules.evaluation_s < 1).all()
    (alert,) = real.alerts().itertuples()
    assert (alert.alertname, alert.state, alert.labels["job"], alert.value) == ("Down", "firing", "dead", 0)
    assert abs(alert.active_s - time.time()) < 60


@needs_prometheus
def test_a_real_one_answers_in_frames(real: Client) -> None:
    now = time.time()
    assert real.instant("up").to_dict("records") == [{"__name__": "up", "instance": "127.0.0.1:1", "job": "dead", "value": 0}]
    assert real.instant("up", at_s=now - 3600).empty
    frame = real.range("up", now - 0.8, now, 0.2)
    assert len(frame) == 5 and set(frame.series) == {'up{instance="127.0.0.1:1",job="dead"}'} and frame.labels[0]["job"] == "dead"
    assert real.instant("scalar(up)").value[0] == 0


@needs_prometheus
def test_raw_samples_are_neither_lost_nor_told_twice_where_parts_meet(real: Client) -> None:
    end = time.time()
    whole, parts = (real.raw("up", end - 2, end, chunk_s=chunk_s) for chunk_s in (60, 0.05))
    assert len(whole) >= 5 and list(whole.t_s) == list(parts.t_s)
    first, last = whole.t_s.iloc[0], whole.t_s.iloc[-1]
    assert list(real.raw("up", first, last, chunk_s=0.2).t_s) == list(whole.t_s), "both ends are in it"
    with pytest.raises(Unanswered, match="refuses 'sum"):
        real.raw("sum(up)", first, last)
