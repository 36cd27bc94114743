"""An image that is built here really starts as it would run: as nobody, on a root that cannot be written, and leaves when told."""

from __future__ import annotations

import os

import psutil
import pytest

from lib.images import proof, questions, start, store
from lib.images.recipe import RECIPES, UID, VARIANTS


@pytest.mark.engine
@pytest.mark.parametrize("service", RECIPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_built_image_serves_as_nobody(service: str, variant: str) -> None:
    try:
        image = store.image(store.named(service, variant))
    except store.Absent as absent:
        pytest.skip(str(absent))
    asked = questions.questions(service, count=2)
    with start.started(image) as running:
        pid = running.process.pid
        assert psutil.Process(pid).uids().effective == UID
        assert [status for status, _ in questions.ask(running.process.url, asked)] == [200, 200]
        assert 0 < proof.memory_bytes(running.process) < 2e9
        assert running.ready_s is not None
    assert not psutil.pid_exists(pid)
    wrote = start.run(image, "python3", "-c", proof.WRITE)
    assert set(proof.json.loads(wrote.stdout).values()) == {"EROFS"}


def test_where_images_cannot_be_built_the_reason_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.shutil, "which", lambda _: None)
    assert "run_all.sh images" in str(store.lacks())
    with pytest.raises(store.Absent, match="no buildah"):
        store.image("localhost/none:fat")
    monkeypatch.setattr(store.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "only root" in str(store.lacks())
