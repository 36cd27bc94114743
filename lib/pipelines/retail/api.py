"""What clients of the retail service ask, and what they get: cameras, events, annotated pictures, still pictures counted, health, metrics.

Problems are answered in JSON, as {"error": what is wrong and what would be right}. What fails here is told to the log without the words of
the exception: they may quote a client. A wish is read in wishes.py; streams are in feeds.py; the work is the fleet's.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from traceback import extract_tb
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from lib.pipelines.retail import feeds, wishes
from lib.pipelines.retail.feeds import Feed, Places
from lib.pipelines.retail.fleet import NAME, NAMED, Busy, Fleet, Taken
from lib.pipelines.retail.floor import Floor
from lib.pipelines.retail.hub import Event, Full
from lib.pipelines.retail.instruments import Instruments
from lib.pipelines.retail.pipeline import Eye
from lib.pipelines.retail.view import View
from lib.pipelines.retail.watch import Watch
from lib.pipelines.retail.wishes import Footage, Wish
from lib.pipelines.serve import say
from lib.vision import coco, head, letterbox, picture

LIVE = Path(__file__).with_name("live.html")
LOOK_S = 10.0  # the longest that a still picture waits for the detector
VIEW_FPS = 10.0
SURE = 0.25  # the score above which a thing on a still picture counts
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
POLICY = "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src 'self' data:"


class Api:
    """The answers. For one event loop, but for `tell`. `eye` makes one for a floor and a frame rate."""

    def __init__(
        self, fleet: Fleet, footage: Mapping[str, Footage], eye: Callable[[Floor, float], Eye], instruments: Instruments,
        *, net_hw: tuple[int, int], most_viewers: int = 16, most_pictures: int = 4,
    ) -> None:  # fmt: skip
        self.fleet, self.leaving = fleet, False
        self._footage, self._eye, self._instruments, self._net_hw = footage, eye, instruments, net_hw
        self._view, self._viewers = View(), Places(most_viewers, "streams may be watched")
        self._pictures = Places(most_pictures, "pictures are looked at")  # one may be 75 MB once it is decoded
        instruments.of(fleet)

    def app(self) -> Starlette:
        """The routes, with every problem answered in JSON."""
        camera = "/v1/cameras/{name}"
        routes = [
            Route("/", self.page),
            Route("/v1/cameras", self.cameras),
            Route(camera, self.put, methods=["PUT"]),
            Route(camera, self.delete, methods=["DELETE"]),
            Route(camera + "/frame.jpg", self.frame),
            Route(camera + "/stream.mjpg", self.stream),
            Route("/v1/events", self.events),
            Route("/v1/pictures", self.pictures, methods=["POST"]),
            Route("/healthz", self.health),
            Route("/readyz", self.readiness),
            Route("/metrics", self.metrics),
        ]
        problems: dict[Any, Any] = {HTTPException: _refused, Full: _busy, Busy: _busy, ClientDisconnect: _left, Exception: _failed}
        return Starlette(routes=routes, exception_handlers=problems)

    def start(self, name: str, wish: Wish) -> None:
        """Begin a camera. Raises what Fleet.start raises."""
        eye = self._eye(wish.floor, wish.fps)
        self.fleet.start(name, wish.footage.open, eye, fps=wish.fps, loop=wish.loop, source=wish.source, floor=wish.floor)
        say("camera started", camera=name, source=wish.source, fps=wish.fps)

    def tell(self) -> None:
        """Let all who listen know how the cameras do."""
        self.fleet.hub.publish(Event("fleet", None, self._told()))

    def leave(self) -> None:
        """Not ready any more; streams end."""
        self.leaving = True
        self.fleet.hub.close()

    async def page(self, _: Request) -> Response:
        headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
        return HTMLResponse(LIVE.read_text(encoding="utf-8"), headers=headers)

    async def cameras(self, _: Request) -> Response:
        return Response(self._told(), media_type="application/json")

    async def put(self, request: Request) -> Response:
        name = request.path_params["name"]
        if not NAME.fullmatch(name):
            raise HTTPException(400, NAMED)
        wishes.kind(request, ("application/json",))
        wish = wishes.camera(await wishes.body(request, most_bytes=wishes.MOST_JSON_BYTES), self._footage)
        try:
            await asyncio.to_thread(self.start, name, wish)
        except (Taken, Full) as error:
            raise HTTPException(409, str(error)) from None
        self.tell()
        return JSONResponse({"name": name, "source": wish.source, "fps": wish.fps}, status_code=201)

    async def delete(self, request: Request) -> Response:
        watch = self._watch(request)
        try:
            orderly = await asyncio.to_thread(self.fleet.stop, watch.name)
        except KeyError:  # somebody else was quicker
            raise _unknown() from None
        say("camera ended", camera=watch.name, orderly=orderly)
        self.tell()
        return Response(status_code=204)

    async def frame(self, request: Request) -> Response:
        if (found := await self._view.jpeg(self._watch(request))) is None:
            raise HTTPException(503, "The camera has seen no frame yet; try again later", {"Retry-After": "1"})
        return Response(found[1], media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    async def stream(self, request: Request) -> Feed:
        frames = feeds.mjpeg(self.fleet, self._view, self._watch(request).name, self._viewers, fps=VIEW_FPS)
        return await feeds.begun(frames, "multipart/x-mixed-replace; boundary=frame")

    async def events(self, request: Request) -> Feed:
        camera = request.query_params.get("camera")
        if camera is not None and not any(account.name == camera for account in self.fleet.accounts()):
            raise _unknown()
        return await feeds.begun(feeds.events(self.fleet.hub, camera, first=self._told()), "text/event-stream")

    async def pictures(self, request: Request) -> Response:
        outcome = "refused"
        try:
            with self._pictures.one():
                wishes.kind(request, wishes.PICTURES)
                answer = await self._look(await wishes.body(request, most_bytes=wishes.MOST_PICTURE_BYTES))
            outcome = "seen"
        finally:
            self._instruments.pictures.labels(outcome).inc()
        return JSONResponse(answer)

    async def health(self, _: Request) -> Response:
        fault = self.fleet.fault
        return JSONResponse({"alive": fault is None, "fault": fault}, 200 if fault is None else 503)

    async def readiness(self, _: Request) -> Response:
        ready = self.fleet.ready and not self.leaving
        return JSONResponse({"ready": ready, "fault": self.fleet.fault}, 200 if ready else 503)

    async def metrics(self, _: Request) -> Response:
        return Response(self._instruments.text(), media_type=PROMETHEUS)

    async def _look(self, sent: bytes) -> dict[str, Any]:
        if not sent:
            raise HTTPException(400, "The body is empty; send the bytes of a picture")
        try:
            image = await asyncio.to_thread(picture.read, sent)
        except picture.BadPicture as error:
            raise HTTPException(422, str(error)) from None
        fit = letterbox.fit((image.shape[0], image.shape[1]), self._net_hw)
        future = asyncio.wrap_future(self.fleet.infer(partial(letterbox.letterbox, image, fit)))
        try:
            raw = await asyncio.wait_for(future, LOOK_S)
        except TimeoutError:
            raise Busy(f"the detector did not come to the picture within {LOOK_S:g} s; try again later") from None
        found = head.boxes(raw, fit, labels=(coco.PERSON, *coco.SHELF), score=SURE)
        names = [coco.NAMES[label] for label in found.label]
        rows = zip(names, found.score.tolist(), found.xyxy.tolist(), strict=True)
        return {
            "width": image.shape[1], "height": image.shape[0],
            "detections": [{"label": name, "score": round(score, 3), "box": [round(side, 1) for side in box]} for name, score, box in rows],
            "people": names.count("person"), "shelf": dict(Counter(name for name in names if name != "person")),
        }  # fmt: skip

    def _told(self) -> bytes:
        return json.dumps(
            {"ready": self.fleet.ready, "cameras": [account.json() for account in self.fleet.accounts()], "footage": sorted(self._footage)}
        ).encode()

    def _watch(self, request: Request) -> Watch:
        try:
            return self.fleet.watch(request.path_params["name"])
        except KeyError:
            raise _unknown() from None


def _unknown() -> HTTPException:
    return HTTPException(404, "There is no such camera; GET /v1/cameras lists them, PUT /v1/cameras/{name} starts one")


async def _refused(_: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _busy(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 503, headers={"Retry-After": "1"})


async def _left(_: Request, __: Exception) -> Response:
    return JSONResponse({"error": "The client left before its body was here"}, 400)


async def _failed(_: Request, error: Exception) -> Response:
    at = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(extract_tb(error.__traceback__)))
    say("error", error=type(error).__name__, at=at)
    return JSONResponse({"error": "The service failed at this request; its log says where"}, 500)
