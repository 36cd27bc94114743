"""A plain ASGI application on uvicorn, with httptools and uvloop."""

from __future__ import annotations

import uvicorn

from lib.pipelines.fraud.servers import asgi, task

if __name__ == "__main__":
    port, library = task.arguments()
    uvicorn.run(asgi.app(task.Forest(library)), port=port, http="httptools", loop="uvloop", lifespan="off", access_log=False,
                log_level="warning")
