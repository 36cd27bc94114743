"""FastAPI on uvicorn: a pydantic model, a route, a returned model."""

from __future__ import annotations

from typing import Annotated

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, Field

from lib.pipelines.fraud.servers import task


class Transaction(BaseModel):
    id: str
    time: float
    amount: float
    v: Annotated[list[float], Field(min_length=28, max_length=28)]


class Answer(BaseModel):
    id: str
    decision: str
    probability: float


def app(forest: task.Forest) -> FastAPI:
    made = FastAPI()

    @made.get("/readyz")
    async def ready() -> str:
        return "ok"

    @made.post(task.PATH)
    async def score(asked: Transaction) -> Answer:
        told = forest.decide(asked.id, forest.probability(asked.v, asked.amount, asked.time))
        return Answer(id=told.id, decision=told.decision, probability=told.probability)

    return made


if __name__ == "__main__":
    port, library = task.arguments()
    uvicorn.run(app(task.Forest(library)), port=port, access_log=False, log_level="warning")
