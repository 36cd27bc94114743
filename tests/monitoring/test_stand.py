"""The stand starts real programs and ends them: what is killed comes back, what is deployed takes over, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from lib import panels
from lib.home import ROOT
from lib.install import Missing
from lib.measured import Skipped
from lib.monitoring import dashboards, services, stand, tools
from lib.monitoring.controls import Refused
from lib.monitoring.dashboards import query
from lib.monitoring.stand import Stand
from lib.monitoring.timing import DRILL
from lib.pipelines.fraud import model


def lacking() -> str | None:
    missing = next((found for found in (tools.lacking(), model.ready()) if isinstance(found, Missing)), None)
    return missing and missing.reason


needs = pytest.mark.skipif(lacking() is not None, reason=lacking() or "")


def family(folder: Path) -> list[int]:
    """Whoever runs with this folder among its words."""
    return [one.pid for one in psutil.process_iter(["cmdline"]) if any(str(folder) in word for word in one.info["cmdline"] or ())]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    folder = tmp_path_factory.mktemp("stand")
    with stand.stand(DRILL, folder, wanted=["fraud"]) as made:
        yield made
    assert not family(folder), "something outlived the stand"


@needs
def test_every_target_is_up_and_every_rule_is_evaluated(here: Stand) -> None:
    targets = here.prometheus.targets()
    assert set(targets["job"]) == {"gateway", "fraud", "node", "gpu", "prometheus", "alertmanager"}
    assert (targets["health"] == "up").all()
    time.sleep(2)
    rules = here.prometheus.rules()
    assert len(rules) > 50 and rules.loc[rules["health"] != "ok", ["name", "error"]].values.tolist() == []
    assert here.prometheus.instant('deployment_model_info{service="fraud"}')["version"].tolist() == [model.load().version]
    assert here.notices.wait_for(lambda told: any(one.alert == "Watchdog" for one in told), 20), "Alertmanager has told nothing"


@needs
def test_the_load_is_obeyed_and_every_request_is_known(here: Stand) -> None:
    here.load.plan({"fraud": {"rate": 200.0, "even": True}})
    start = time.time()
    time.sleep(1.5)
    sent = here.load.requests(start + 0.2, start + 1.2)
    here.load.plan(here.load.usual)
    assert 150 <= len(sent) <= 210 and sent["n"].is_unique
    assert (sent["sent_s"] >= sent["due_s"]).all() and set(sent["service"]) == {"fraud"}
    assert here.load.told()["fraud"]["rate"] == 40.0
    with pytest.raises(Refused, match="a plan is an object of fraud and burst"):
        here.load.plan({"llm": {"rate": 1.0}})


@needs
def test_a_panel_that_is_drawn_shows_what_prometheus_answers(here: Stand) -> None:
    board = dashboards.ALL[0]
    (one,) = [one for one in query.panels(board) if (one["title"], one["type"]) == ("Requests by service", "timeseries")]
    time.sleep(5)  # it may be the first that this stand is asked
    end_s = float(int(time.time()))
    shown = query.asked(here.prometheus, [board], timing=DRILL, start_s=end_s - 4, end_s=end_s, step_s=1)
    fig = panels.panel(board, one["id"], shown, start_s=end_s - 4, end_s=end_s)
    drawn = {trace.name: dict(zip(trace.x, trace.y, strict=True)) for trace in fig.data}
    asks = {"query": 'sum(rate(gateway_requests_total{service="fraud"}[2s]))', "start": end_s - 4, "end": end_s, "step": 1}
    told = httpx.get(f"{here.urls['prometheus']}/api/v1/query_range", params=asks, trust_env=False).json()["data"]["result"][0]["values"]
    assert len(told) >= 4 and {float(t): float(v) for t, v in told} == pytest.approx(drawn["fraud"], rel=1e-9)
    assert drawn["fraud"][end_s] == pytest.approx(40, rel=0.25)


@needs
def test_a_deploy_takes_over_without_a_request_unanswered(here: Stand) -> None:
    old, start = here.processes["fraud"], time.time()
    here.replace("fraud")
    here.scraped()
    assert here.processes["fraud"].port != old.port and here.processes["fraud"].pid != old.pid
    time.sleep(1)
    here._retired()
    assert old.guard.poll() is not None, "the old instance still runs"
    sent = here.load.requests(start, time.time() - 0.5)
    assert len(sent) > 40 and set(sent["status"].dropna()) <= {200, 503}, "503 is a refusal under pressure; nothing else may happen"
    assert httpx.get(here.urls["gateway"] + "/fraud/healthz", trust_env=False).status_code == 200


@needs
def test_a_deploy_that_fails_leaves_the_old_one_at_work(here: Stand) -> None:
    old = here.processes["fraud"]
    with pytest.raises(stand.Died, match="holds no fraud model"):
        here.replace("fraud", "--model", str(here.folder / "nowhere"))
    assert here.processes["fraud"] is old
    here.scraped()
    assert httpx.get(here.urls["gateway"] + "/fraud/healthz", trust_env=False).status_code == 200


@needs
@pytest.mark.parametrize("name", ["node", "redis"])
def test_what_was_killed_comes_back_on_its_port(here: Stand, name: str) -> None:
    port, pid = here.processes[name].port, here.pid(name)
    os.kill(pid, signal.SIGKILL)
    here.restart(name)
    assert here.processes[name].port == port and here.pid(name) != pid
    here.scraped()


@needs
def test_prometheus_begins_anew_with_what_it_is_given(here: Stand) -> None:
    before, filled = time.time() - 1, list[bool]()
    assert len(here.prometheus.instant("up", before))
    here.afresh(lambda folder: filled.append(folder.is_dir() and not any(folder.iterdir())))
    assert filled == [True]
    assert not len(here.prometheus.instant("up", before)), "it remembers"
    assert len(here.prometheus.instant("up"))


@needs
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])  # kill -9 is the guard's matter, and proven there
def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path, how: signal.Signals) -> None:
    words = [sys.executable, "-m", "lib.monitoring", "--drill-speed", "--no-load", "--service", "fraud", "--folder", str(tmp_path)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "Ctrl-C ends everything" in line:
                break
        assert "http://127.0.0.1:" in "".join(said) and family(tmp_path)
        process.send_signal(how)
        process.wait(60)
    assert process.returncode == 0
    until = time.monotonic() + 20
    while family(tmp_path) and time.monotonic() < until:
        time.sleep(0.1)
    assert not family(tmp_path), "something outlived the command"


def test_ports_are_the_wanted_ones_where_they_are_free() -> None:
    free = stand.process.free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        stranger = taken.getsockname()[1]
        ports = stand._ports({"fraud": stranger, "llm": free})
    assert ports["llm"] == free and ports["fraud"] != stranger
    assert set(ports) == set(services.PORTS) and len(set(ports.values())) == len(ports)


def test_what_is_missing_is_told_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> services.Program:
        raise Skipped("no model here")

    here = Stand(DRILL, tmp_path, {}, stand.Notices(), print)
    here._offer("retail", missing, must=False)
    assert here.lacking == {"retail": "no model here"}
    with pytest.raises(Skipped, match="no model here"):
        here._offer("retail", missing, must=True)
    with pytest.raises(ValueError, match="no service shop; there are fraud"), stand.stand(DRILL, tmp_path, wanted=["shop"]):
        pass


def test_a_grafana_is_given_the_dashboards_and_this_prometheus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Grafana itself only its settings: a program of that name that tells them."""
    (tmp_path / "bin").mkdir()
    told = "import json,os,http.server as h\n"
    told += "class A(h.BaseHTTPRequestHandler):\n def do_GET(self):\n  self.send_response(200); self.end_headers()\n"
    told += "  self.wfile.write(json.dumps(dict(os.environ)).encode())\n"
    told += "h.HTTPServer((os.environ['GF_SERVER_HTTP_ADDR'], int(os.environ['GF_SERVER_HTTP_PORT'])), A).serve_forever()\n"
    (program := tmp_path / "bin" / "grafana-server").write_text(f"#!{sys.executable}\n{told}")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with services.started(services.grafana(tmp_path, 9), stand.process.free_port(), tmp_path / "logs") as process:
        env = httpx.get(process.url, trust_env=False).json()
    assert env["GF_ANALYTICS_REPORTING_ENABLED"] == "false" and env["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    place = Path(env["GF_PATHS_PROVISIONING"])
    (source,) = yaml.safe_load((place / "datasources" / "stand.yaml").read_text())["datasources"]
    (boards,) = yaml.safe_load((place / "dashboards" / "stand.yaml").read_text())["providers"]
    assert source["url"] == "http://127.0.0.1:9"
    shown = [json.loads(path.read_text()) for path in Path(boards["options"]["path"]).glob("*.json")]
    assert len(shown) == 5 and all(board["uid"] for board in shown)
