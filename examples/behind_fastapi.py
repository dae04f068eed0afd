"""A web application in front of a zmqkit service: its lifespan opens one `zmqkit.aio.Client`, all requests share it.

Each outcome of a call becomes the status that tells it to a browser. Needs FastAPI, and httpx2 for FastAPI's own test
client, with which this file tries itself. To serve it for real: `uvicorn behind_fastapi:app`. Prints the answers.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient

import zmqkit
from zmqkit import aio

# ---- the web application -------------------------------------------------------------


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """One client for all: it is opened with the application, and closed with it."""
    async with aio.Client(os.environ["STOCK"], timeout=2) as client:
        yield {"stock": client}


app = FastAPI(lifespan=lifespan)


def stock_of(request: Request) -> aio.Client:
    """The client, for those who ask for it."""
    client: aio.Client = request.state.stock
    return client


Stock = Annotated[aio.Client, Depends(stock_of)]


@app.get("/stock/{item}")
async def show(item: str, stock: Stock) -> dict[str, Any]:
    return {"item": item, "count": await stock.call("count", item)}


@app.post("/stock/{item}/take/{amount}")
async def take(item: str, amount: int, stock: Stock, request: Request) -> dict[str, Any]:
    # A browser that asks twice with the same key gets the same answer, and nothing is taken twice.
    if key := request.headers.get("idempotency-key"):
        stock = stock.options(request_id=key)
    return {"item": item, "left": await stock.call("take", item, amount)}


@app.exception_handler(zmqkit.CallError)
async def tell(request: Request, error: zmqkit.CallError) -> JSONResponse:
    """What became of the call, as a status."""
    match error:
        case zmqkit.RemoteError(code=str() as code):  # a ServiceError: it was said on purpose
            status, what = 409, code
        case zmqkit.RemoteError():
            status, what = 500, "the service failed"
        case zmqkit.Overloaded() | zmqkit.NotSent():  # nothing was executed: try again
            status, what = 503, "try again later"
        case zmqkit.OutcomeUnknown():  # it may have been executed
            status, what = 504, f"unknown; ask about {error.request_id}"
        case _:
            status, what = 400, "refused"
    return JSONResponse({"error": what}, status)


# ---- the service behind it -----------------------------------------------------------

items = {"apples": 5}
server = zmqkit.Server("tcp://127.0.0.1:*")


@server.method(idempotent=True)
def count(item: str) -> int:
    return items.get(item, 0)


@server.method(name="take")
def take_away(item: str, amount: int) -> int:
    if items.get(item, 0) < amount:
        raise zmqkit.ServiceError("out-of-stock")
    items[item] -= amount
    return items[item]


def main() -> None:
    with server:
        os.environ["STOCK"] = server.addresses[0]
        with TestClient(app) as browser:
            print(browser.get("/stock/apples").json())
            for _ in range(2):
                print(browser.post("/stock/apples/take/2", headers={"Idempotency-Key": "order-1"}).json())
            answer = browser.post("/stock/apples/take/4")
            print(answer.status_code, answer.json())
    with TestClient(app) as browser:  # nobody serves any more
        answer = browser.get("/stock/apples")
        print(answer.status_code, answer.json())
        assert answer.status_code == 503


if __name__ == "__main__":
    main()
