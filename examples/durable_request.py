"""A request that outlives its caller: it waits in a journal until it is answered, and the answer finds the next life.

The first process makes two durable calls while no server is there, and kills itself. Then a server comes, and a second
process opens the same journal: `results()` brings the answers of calls that nobody waits for any more. Prints what
either of them sees.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import zmqkit


def first_life(folder: Path) -> None:
    """Asks, and dies."""
    client = zmqkit.Client(f"ipc://{folder}/shop", journal=folder / "requests.db").open()
    shop = client.options(durable=True, timeout=0.3)
    for order in ("apples", "pears"):
        try:
            shop.options(request_id=f"order-{order}").call("order", order)
        except zmqkit.NoReplyInTime as error:  # not given up: it is in the journal
            print("first life: no answer yet to", error.request_id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def second_life(folder: Path) -> None:
    """Asks nothing: opens the journal, and the calls that it holds go on."""
    with zmqkit.Client(f"ipc://{folder}/shop", journal=folder / "requests.db") as client:
        for reply in client.results():  # ends when none is left on its way
            print("second life:", reply.id, "is", reply.result())
    with zmqkit.Client(f"ipc://{folder}/shop", journal=folder / "requests.db") as client:
        print("second life: left in the journal:", len(list(client.results())))


def main(folder: Path) -> None:
    died = subprocess.run([sys.executable, __file__, str(folder)], timeout=40)
    assert died.returncode == -signal.SIGKILL, died

    # A server with a journal too: what was begun is not begun again, even if this one were killed and started anew.
    server = zmqkit.Server(f"ipc://{folder}/shop", journal=folder / "server.db")
    taken: list[str] = []

    @server.method
    def order(what: str) -> str:
        taken.append(what)
        return f"{what}, to be delivered tomorrow"

    with server:
        second_life(folder)
    print("server: executed", sorted(taken))
    assert sorted(taken) == ["apples", "pears"]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        first_life(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as name:
            main(Path(name))
