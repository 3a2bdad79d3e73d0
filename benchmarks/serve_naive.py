"""The service that most people write: FastAPI, one `transformers.pipeline` a task, no batching across requests.

    python benchmarks/serve_naive.py STOCK --port 8001 [--asynchronous]

The rival of `serve_load.py`. `STOCK` holds one stock checkpoint a task, as `equipoise export RUN -o STOCK` writes them. A plain
`def` endpoint runs in FastAPI's thread pool, up to 40 at once; with `--asynchronous` it is an `async def` that blocks, one
after the other. Both are common.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline


class Texts(BaseModel):
    texts: list[str]


def build(stock: Path, asynchronous: bool) -> FastAPI:
    app = FastAPI()
    pipes = {
        folder.name: pipeline("text-classification", model=str(folder), device="cpu", batch_size=32, top_k=None)
        for folder in sorted(stock.iterdir())
        if (folder / "config.json").is_file()
    }

    def answer(texts: list[str]) -> dict[str, Any]:
        found = {task: pipe(texts, truncation=True) for task, pipe in pipes.items()}
        return {"predictions": [{task: rows[i] for task, rows in found.items()} for i in range(len(texts))]}

    if asynchronous:

        @app.post("/predict")
        async def predict(request: Texts) -> dict[str, Any]:
            return answer(request.texts)

    else:

        @app.post("/predict")
        def predict(request: Texts) -> dict[str, Any]:
            return answer(request.texts)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ready"}

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stock", type=Path)
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--asynchronous", action="store_true")
    options = parser.parse_args()
    uvicorn.run(build(options.stock, options.asynchronous), host="127.0.0.1", port=options.port)
