"""The service as its clients meet it: what it answers, what it refuses and why, and that it is up after each."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from lib.pipelines.retail import api as apis
from lib.pipelines.retail import feeds, wishes
from lib.pipelines.retail.api import Api
from tests.pipelines.retail.null import FRAME_HW, SHOP, Detector, Shop, serving, until

JSON = {"Content-Type": "application/json"}
JPEG = {"Content-Type": "image/jpeg"}


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Shop, Api]]:
    before, shop = set(threading.enumerate()), Shop()
    with serving(shop) as api:
        yield shop, api
    until(lambda: set(threading.enumerate()) <= before)  # no thread is left behind


@pytest.fixture
def client(running: tuple[Shop, Api]) -> Iterator[httpx.Client]:
    shop, api = running
    with httpx.Client(base_url=shop.url, timeout=10, trust_env=False) as client:
        yield client
        for account in api.fleet.accounts():
            assert client.delete(f"/v1/cameras/{account.name}").status_code == 204
        assert client.get("/readyz").json() == {"ready": True, "fault": None}  # whatever the test did


def put(client: httpx.Client, name: str = "a", **asked: Any) -> httpx.Response:
    return client.put(f"/v1/cameras/{name}", json={"source": "roll", **asked})


def account(client: httpx.Client, name: str = "a") -> dict[str, Any]:
    return next(one for one in client.get("/v1/cameras").json()["cameras"] if one["name"] == name)


def picture(hw: tuple[int, int] = (30, 40), kind: str = "JPEG", mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, hw[::-1]).save(file, kind)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of a few kilobytes that says it has 30 000 × 30 000 pixels."""
    small = bytearray(picture((1, 1), "PNG"))
    small[16:24] = (30_000).to_bytes(4, "big") * 2
    small[29:33] = zlib.crc32(small[12:29]).to_bytes(4, "big")
    return bytes(small)


def test_a_camera_comes_is_seen_and_goes(client: httpx.Client) -> None:
    begun = put(client, fps=40)
    assert (begun.status_code, begun.json()) == (201, {"name": "a", "source": "roll", "fps": 40.0})
    until(lambda: account(client)["seen"] >= 3)
    told = account(client)
    assert (told["state"], told["people"], told["source"], told["reason"], told["target_fps"]) == ("running", 1, "roll", None, 40.0)
    until(lambda: client.get("/v1/cameras/a/frame.jpg").status_code == 200)
    jpeg = client.get("/v1/cameras/a/frame.jpg")
    assert jpeg.headers["content-type"] == "image/jpeg"
    drawn = cv2.imdecode(np.frombuffer(jpeg.content, np.uint8), cv2.IMREAD_COLOR)
    assert drawn is not None and drawn.shape == (*FRAME_HW, 3)
    assert drawn.std() > 10  # the frame itself is of one shade: boxes, zones and a line are drawn
    assert client.delete("/v1/cameras/a").status_code == 204
    assert client.get("/v1/cameras").json()["cameras"] == []
    assert client.get("/v1/cameras/a/frame.jpg").status_code == 404


def lines(response: httpx.Response, n: int) -> list[tuple[str, dict[str, Any]]]:
    """The next `n` events."""
    found, kind = [], ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            found.append((kind, json.loads(line.removeprefix("data: "))))
            if len(found) == n:
                break
    return found


def test_events_tell_of_one_camera_and_of_the_fleet(client: httpx.Client) -> None:
    put(client, "a")
    put(client, "b")
    with client.stream("GET", "/v1/events", params={"camera": "b"}) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        told = lines(stream, 80)  # more than a second of 50 a second
    assert told[0][0] == "fleet"
    assert {camera["name"] for camera in told[0][1]["cameras"]} == {"a", "b"}
    assert sum(kind == "fleet" for kind, _ in told) >= 2
    sights = [one for kind, one in told if kind == "sight"]
    assert {one["camera"] for one in sights} == {"b"}
    assert abs(sights[-1]["time_s"] - time.time()) < 60
    assert sights[-1]["zones"]["door"]["count"] == 1
    times = [one["time_s"] for one in sights]
    assert times == sorted(set(times))


def test_a_camera_that_goes_and_comes_is_heard_again_by_who_listened(client: httpx.Client) -> None:
    put(client, "a")
    with client.stream("GET", "/v1/events", params={"camera": "a"}) as stream:
        assert lines(stream, 1)[0][0] == "fleet"
        client.delete("/v1/cameras/a")
        put(client, "a")
    with client.stream("GET", "/v1/events", params={"camera": "a"}) as stream:
        assert "sight" in dict(lines(stream, 30))


def parts(stream: httpx.Response, n: int) -> list[bytes]:
    """The next `n` JPEGs of a motion JPEG."""
    held, found = b"", []
    for chunk in stream.iter_bytes():
        held += chunk
        while b"--frame\r\n" in held and len(found) < n:
            part, _, held = held.partition(b"--frame\r\n")
            if part:
                head, _, jpeg = part.partition(b"\r\n\r\n")
                assert f"Content-Length: {len(jpeg) - 2}".encode() in head
                found.append(jpeg[:-2])
        if len(found) == n:
            break
    return found


def test_the_stream_moves_and_is_bounded_in_pace(client: httpx.Client) -> None:
    put(client)
    began_s = time.monotonic()
    with client.stream("GET", "/v1/cameras/a/stream.mjpg") as stream:
        assert stream.headers["content-type"] == "multipart/x-mixed-replace; boundary=frame"
        frames = parts(stream, 5)
    assert time.monotonic() - began_s >= 3.9 / apis.VIEW_FPS  # of 50 frames a second only ten are shown
    assert len(set(frames)) == 5
    assert all(frame[:2] == b"\xff\xd8" and frame[-2:] == b"\xff\xd9" for frame in frames)


def test_the_stream_ends_with_its_camera(client: httpx.Client) -> None:
    put(client)
    with client.stream("GET", "/v1/cameras/a/stream.mjpg") as stream:
        chunks = stream.iter_bytes()
        next(chunks)
        client.delete("/v1/cameras/a")
        assert all(chunk is not None for chunk in chunks)  # to its end


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "RGB"), ("PNG", "RGBA"), ("PNG", "L"), ("PNG", "I;16"), ("WEBP", "RGB")])
@pytest.mark.parametrize("hw", [(30, 40), (1, 1), (700, 3)])
def test_a_picture_is_counted(client: httpx.Client, kind: str, mode: str, hw: tuple[int, int]) -> None:
    told = client.post("/v1/pictures", content=picture(hw, kind, mode), headers={"Content-Type": f"image/{kind.lower()}"})
    assert told.status_code == 200, told.text
    answer = told.json()
    assert (answer["height"], answer["width"]) == hw
    if hw != (700, 3):  # the null detector's person stands where this one has its padding
        assert (answer["people"], answer["shelf"]) == (1, {})
        box = answer["detections"][0]
        assert box["label"] == "person" and box["score"] == 0.9
        assert 0 <= box["box"][0] < box["box"][2] <= hw[1]




def zoned(*corners: list[int]) -> dict[str, Any]:
    return {"source": "roll", "floor": {"zones": [{"name": "z", "corners": corners}]}}


PUTS: dict[str, tuple[Any, int, str]] = {
    "no JSON": (b"{source", 400, "not JSON"),
    "nested beyond reason": (b"[" * 60_000, 400, "not JSON"),
    "a list": (b"[]", 422, "must be an object"),
    "no source": ({}, 422, "source must be the name"),
    "a path": ({"source": "../../etc/passwd"}, 404, "no footage '../../etc/passwd'"),
    "an address": ({"source": "http://169.254.169.254/"}, 404, "no footage"),
    "a stranger": ({"source": "cellar"}, 404, "there is roll, moody"),
    "an unknown key": ({"source": "roll", "url": "x"}, 422, "not url"),
    "no rate": ({"source": "roll", "fps": 0}, 422, "between 0.1 and 60"),
    "too quick": ({"source": "roll", "fps": 1e9}, 422, "between 0.1 and 60"),
    "NaN": (b'{"source": "roll", "fps": NaN}', 422, "between 0.1 and 60"),
    "a word for a rate": ({"source": "roll", "fps": "ten"}, 422, "fps must be a number"),
    "true for a rate": ({"source": "roll", "fps": True}, 422, "fps must be a number"),
    "no floor": ({"source": "roll", "floor": []}, 422, "floor must be an object"),
    "a zone outside": (zoned([0, 0], [97, 0], [50, 50]), 422, "outside of the frame"),
    "a bow tie": (zoned([0, 0], [50, 50], [50, 0], [0, 50]), 422, "Self-intersection"),
    "two corners": (zoned([0, 0], [50, 50]), 422, "needs 3 to 64 corners"),
    "another frame": ({"source": "roll", "floor": {**SHOP, "frame": [200, 100]}}, 422, "drawn on 200 × 100 pixels; roll has 96 × 72"),
    "too much": (b" " * 70_000, 413, "at most 65536"),
}


@pytest.mark.parametrize("what", PUTS)
def test_what_cannot_be_a_camera_is_refused_precisely(client: httpx.Client, what: str) -> None:
    sent, status, words = PUTS[what]
    told = client.put("/v1/cameras/a", content=sent if isinstance(sent, bytes) else json.dumps(sent), headers=JSON)
    assert (told.status_code, words in told.json()["error"]) == (status, True), told.text
    assert client.get("/v1/cameras").json()["cameras"] == []


@pytest.mark.parametrize("name", ["A", "..", "%2e%2e%2fetc", "a b", "x" * 33, "cam;1", "%00", "k%C3%A4se"])
def test_such_a_name_is_no_cameras(client: httpx.Client, name: str) -> None:
    told = client.put(f"/v1/cameras/{name}", json={"source": "roll"})
    assert told.status_code in (400, 404, 405)
    assert "error" in told.json()
    assert client.get("/v1/cameras").json()["cameras"] == []


def test_a_floor_of_ones_own_is_taken(client: httpx.Client) -> None:
    assert put(client, floor={"zones": [{"name": "mine", "corners": [[1, 1], [90, 1], [90, 70]]}]}).status_code == 201
    with client.stream("GET", "/v1/events", params={"camera": "a"}) as stream:
        assert next(one for kind, one in lines(stream, 30) if kind == "sight")["zones"].keys() == {"mine"}


def test_cameras_are_bounded_and_have_one_name_each(client: httpx.Client) -> None:
    assert put(client, "a").status_code == 201
    twice = put(client, "a")
    assert (twice.status_code, twice.json()["error"]) == (409, "there is a camera a already; end it first")
    assert [put(client, name).status_code for name in ("b", "c", "d")] == [201] * 3
    more = put(client, "e")
    assert more.status_code == 409 and "4 of at most 4 cameras" in more.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/cameras/nobody/frame.jpg", 404),
        ("GET", "/v1/cameras/nobody/stream.mjpg", 404),
        ("DELETE", "/v1/cameras/nobody", 404),
        ("GET", "/v1/events?camera=nobody", 404),
        ("GET", "/v1/cameras/..%2f..%2fetc%2fpasswd/frame.jpg", 404),
        ("GET", "/nowhere", 404),
        ("POST", "/v1/cameras", 405),
        ("GET", "/v1/pictures", 405),
        ("PATCH", "/v1/cameras/a", 405),
    ],
)
def test_what_is_not_there_is_said_in_json(client: httpx.Client, method: str, path: str, status: int) -> None:
    told = client.request(method, path)
    assert told.status_code == status
    assert told.json()["error"]


PICTURES: dict[str, tuple[bytes, str, int, str]] = {
    "nothing": (b"", "image/jpeg", 400, "empty"),
    "no picture": (b"hello" * 100, "image/jpeg", 422, "no JPEG, PNG, WebP or BMP"),
    "cut short": (picture((300, 400))[:700], "image/jpeg", 422, "damaged or cut short"),
    "a bomb": (bomb(), "image/png", 422, "pixels"),
    "too many pixels": (picture((5001, 5000), "PNG", "1"), "image/png", 422, "pixels"),
    "too many bytes": (b"\xff" * 10_000_001, "image/jpeg", 413, "at most 10000000"),
    "a form": (b"a=b", "application/x-www-form-urlencoded", 415, "send one of image/jpeg"),
    "a vector": (b"<svg/>", "image/svg+xml", 415, "image/svg+xml"),
    "no type": (picture(), "", 415, "missing"),
}


@pytest.mark.parametrize("what", PICTURES)
def test_what_is_no_picture_is_refused_precisely(client: httpx.Client, what: str) -> None:
    sent, type_, status, words = PICTURES[what]
    told = client.post("/v1/pictures", content=sent, headers={"Content-Type": type_} if type_ else {})
    assert (told.status_code, words in told.json()["error"]) == (status, True), told.text


def test_a_body_of_unsaid_length_is_bounded_too(client: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(300):
            yield b"\0" * 65536

    told = client.post("/v1/pictures", content=endless(), headers=JPEG)
    assert told.status_code == 413
    assert "more than 10000000 bytes" in told.json()["error"]


def test_a_body_that_does_not_come_is_not_waited_for(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wishes, "BODY_S", 0.2)
    with socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=10) as raw:
        raw.sendall(b"POST /v1/pictures HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 100\r\n\r\nabc")
        assert b"408" in raw.recv(4096).split(b"\r\n")[0]


@pytest.mark.parametrize(
    ("source", "state", "reason"),
    [
        ("torn", "failed", "the lens fell off; opened again after 0.5 s"),
        ("stuck", "stalled", "no frame for"),
    ],
)
def test_footage_that_breaks_shows_and_the_others_go_on(client: httpx.Client, source: str, state: str, reason: str) -> None:
    put(client, "good")
    assert put(client, "a", source=source).status_code == 201
    until(lambda: account(client)["state"] == state)
    assert reason in account(client)["reason"]
    seen = account(client, "good")["seen"]
    until(lambda: account(client, "good")["seen"] > seen)
    assert account(client, "good")["state"] == "running"


def test_footage_that_ends_shows(client: httpx.Client) -> None:
    put(client, "a", source="short", loop=False)
    until(lambda: account(client)["state"] == "ended")


def test_frames_of_another_size_fail_and_say_why(client: httpx.Client) -> None:
    put(client, source="wide")
    until(lambda: account(client)["failed"] >= 2)
    assert "a frame of 20 × 10 pixels, but the floor was drawn on 96 × 72" in account(client)["reason"]
    assert client.get("/v1/cameras/a/frame.jpg").status_code == 503


def test_a_camera_that_failed_comes_back_by_itself(client: httpx.Client, running: tuple[Shop, Api]) -> None:
    shop, _ = running
    put(client, source="moody")
    until(lambda: account(client)["state"] == "running")
    shop.well = False
    until(lambda: account(client)["state"] == "failed")
    shop.well = True
    until(lambda: account(client)["state"] == "running")
    assert account(client)["restarts"] >= 1


def test_a_detector_that_trips_once_is_forgiven(client: httpx.Client, running: tuple[Shop, Api]) -> None:
    shop, _ = running
    shop.detector.fails = 1
    put(client)
    until(lambda: account(client)["failed"] == 1 and account(client)["seen"] >= 3)


def test_the_metrics_parse_and_forget_cameras_that_went(client: httpx.Client) -> None:
    put(client)
    until(lambda: account(client)["seen"] >= 3)
    found = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}
    frames = {sample.labels["outcome"]: sample.value for sample in found["retail_frames"].samples}
    assert frames.keys() == {"seen", "dropped", "gated", "failed"} and frames["seen"] >= 3
    assert found["retail_model_info"].samples[0].labels == {"version": "null-1", "precision": "int8", "licence": "none"}
    assert {sample.labels["stage"] for sample in found["retail_stage_seconds"].samples} >= {"decode", "wait", "infer", "follow"}
    assert {sample.labels["state"]: sample.value for sample in found["retail_cameras"].samples}["running"] == 1
    assert found["process_resident_memory_bytes"].samples[0].value > 1e6
    client.delete("/v1/cameras/a")
    assert 'camera="a"' not in client.get("/metrics").text


def test_the_page_asks_for_nothing_elsewhere(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    assert "http://" not in page.text and "https://" not in page.text


def test_there_are_so_many_places_for_viewers_and_listeners_and_they_are_given_back() -> None:
    shop = Shop()
    with serving(shop, most_subscribers=1, most_viewers=1), httpx.Client(base_url=shop.url, trust_env=False) as client:
        put(client)
        for path in ("/v1/cameras/a/stream.mjpg", "/v1/events"):
            with client.stream("GET", path) as first:
                chunks = first.iter_bytes()  # kept: httpx closes a response whose iterator is gone
                next(chunks)
                refused = client.get(path)
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
                assert "1 " in refused.json()["error"]

            def again(path: str = path) -> bool:
                with client.stream("GET", path) as second:
                    return second.status_code == 200

            until(again)


def test_a_client_that_does_not_read_loses_events_and_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "UNREAD_MS", 500)
    shop = Shop()
    with serving(shop) as api, httpx.Client(base_url=shop.url, trust_env=False) as client:
        put(client, fps=60)
        host, port = client.base_url.host, client.base_url.port or 0
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        deaf.connect((host, port))
        deaf.sendall(b"GET /v1/cameras/a/stream.mjpg HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: api._viewers._taken == 1)
        seen = account(client)["seen"]
        until(lambda: account(client)["seen"] >= seen + 30)
        until(lambda: api._viewers._taken == 0, within_s=60)  # the kernel has cut it off
        deaf.close()


def test_a_dead_detector_is_not_healthy() -> None:
    shop = Shop(detector=Detector(fails=1000))
    with serving(shop), httpx.Client(base_url=shop.url, trust_env=False) as client:
        put(client)
        until(lambda: client.get("/readyz").status_code == 503)
        assert client.get("/healthz").status_code == 503
        assert "detector" in client.get("/healthz").json()["fault"]
        told = client.post("/v1/pictures", content=picture(), headers=JPEG)
        assert told.status_code == 503 and "tripped" in told.json()["error"]
        assert client.get("/v1/cameras").status_code == 200


def test_streams_end_when_the_service_does() -> None:
    shop = Shop()
    ended: list[str] = []

    def watch(path: str, begun: threading.Event) -> None:
        with httpx.Client(base_url=shop.url, trust_env=False, timeout=10) as client, client.stream("GET", path) as stream:
            for _ in stream.iter_bytes():
                begun.set()
        ended.append(path)

    with serving(shop), httpx.Client(base_url=shop.url, trust_env=False) as client:
        put(client)
        threads = []
        for path in ("/v1/events", "/v1/cameras/a/stream.mjpg"):
            begun = threading.Event()
            threads.append(threading.Thread(target=watch, args=(path, begun)))
            threads[-1].start()
            assert begun.wait(10)
    for thread in threads:
        thread.join(10)
    assert sorted(ended) == ["/v1/cameras/a/stream.mjpg", "/v1/events"]  # by their end, not by a broken connection
