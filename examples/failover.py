"""Three servers, one is killed with calls in hand: which of them succeed, and what the others are told.

A call of an idempotent method is sent again, to a server that lives. One that is not could have been executed, so its
caller gets `OutcomeUnknown`, and decides. Calls that had not been sent go where there is somebody. Prints the outcomes.
"""

import collections
import contextlib
import subprocess
import sys
import time

import zmqkit
from zmqkit.events import CallRetried, ServerOut

CALLS = 6


def serve(name: str) -> None:
    """One server; it runs until it is told to end."""
    server = zmqkit.Server("tcp://127.0.0.1:*", name=name)

    @server.method(idempotent=True)
    def look() -> str:
        """Changes nothing, so it may be done twice."""
        time.sleep(1)
        return name

    @server.method
    def book() -> str:
        """Whoever does it twice has booked twice."""
        time.sleep(1)
        return name

    server.open()
    print(server.addresses[0], flush=True)
    server.run()


def start(name: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, __file__, name], stdout=subprocess.PIPE, text=True)


def outcome(reply: zmqkit.Reply[str]) -> str:
    """What became of a call, by the exception. See docs/tutorial-calls.md, section 4, for all of them."""
    try:
        return f"done by {reply.result()}"
    except zmqkit.OutcomeUnknown:
        return "unknown: it may have been executed; ask before it is made again"
    except (zmqkit.NotSent, zmqkit.Rejected):
        return "not executed: it may be made again"
    except zmqkit.RemoteError as error:
        return f"executed, and it raised {error.type}"


def main() -> None:
    names = ["first", "second", "third"]
    with contextlib.ExitStack() as processes:
        servers = [processes.enter_context(start(name)) for name in names]
        addresses = [server.stdout.readline().strip() for server in servers if server.stdout]
        with zmqkit.Client(*addresses, timeout=20) as client:
            client.on(ServerOut, lambda event: print("lost a server:", event.reason))
            client.on(CallRetried, lambda event: print("sent again, for", event.reason))
            client.wait_for_peers(3, timeout=10)

            # Each call goes to the server that has the least to do, so each gets two of either kind.
            looks = [client.submit("look") for _ in range(CALLS)]
            books = [client.submit("book") for _ in range(CALLS)]
            time.sleep(0.5)
            servers[1].kill()
            for name, replies in (("look", looks), ("book", books)):
                for what, count in sorted(collections.Counter(map(outcome, replies)).items()):
                    print(f"{name}: {count} {what}")
            assert all("done" in outcome(reply) for reply in looks)

            # From now on nothing goes there.
            print("one more, done by one that lives:", client.call("book") in ("first", "third"))
            for name in ("servers_out", "calls_retried", "calls_unknown"):
                print(f"{name}: {client.stats()[name]}")
        for server in servers:
            server.terminate()  # those that live drain, and end


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve(sys.argv[1])
    else:
        main()
