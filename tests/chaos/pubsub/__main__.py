"""The command line of the chaos of publish-subscribe: processes killed and stopped, links cut and stalled.

python -m tests.chaos.pubsub                         five minutes
python -m tests.chaos.pubsub --seconds 60 --seed 7   shorter, by the plan that this seed draws
python -m tests.chaos.pubsub --forwarders 1          with one between them, or two, killed every few seconds
python -m tests.chaos.pubsub --plant lazy-inbox      plant a bug; it must be found
"""

from __future__ import annotations

import argparse
import contextlib
import secrets
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path

from tests.chaos.fleet import Died, Stuck
from tests.chaos.pubsub.run import LEAST_SHARE, Outcome, run

PLANTS = ("careless-subscriber", "forgiving-subscriber", "lazy-inbox")


def main() -> int:
    """Returns the exit status: 0 when nothing was lost in silence, doubled, swapped or invented."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.pubsub", description="Kill publishers and subscribers."
    )
    parser.add_argument("--seconds", type=float, default=300.0, help="how long harm is done (300)")
    parser.add_argument("--seed", type=int, help="of the plan; drawn anew if not given")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write histories and journals here, and keep them")
    parser.add_argument("--plant", choices=PLANTS, default="", help="plant a bug, which must be found")
    parser.add_argument("--forwarders", type=int, choices=(1, 2), default=0, help="put so many between, and kill them")
    parser.add_argument("--verbose", action="store_true", help="tell each step")
    arguments = parser.parse_args()
    seed = secrets.randbelow(1 << 32) if arguments.seed is None else arguments.seed
    print(f"{arguments.seconds:.0f} s by the plan of seed {seed}", flush=True)
    if arguments.keep is not None and arguments.keep.exists():
        parser.error(f"--keep {arguments.keep} is there already: name a new folder")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that all is ended and removed
    with contextlib.ExitStack() as stack:
        if arguments.keep is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zmqkit-chaos-")))
        else:
            folder = arguments.keep.resolve()
            folder.mkdir(parents=True)
        try:
            outcome = run(
                seed,
                folder,
                seconds=arguments.seconds,
                plant=arguments.plant,
                forwarders=arguments.forwarders,
                say=partial(print, flush=True) if arguments.verbose else str,
            )
        except (Stuck, Died) as error:
            print(f"{error}\n\n{type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr)
            print(_replay(arguments, seed), file=sys.stderr)
            return 1
    print(outcome.table())
    failures = outcome.failures + unexercised(outcome, arguments.seconds)
    for failure in failures:
        print(failure, file=sys.stderr)
    if failures:
        print(_replay(arguments, seed), file=sys.stderr)
    else:
        print("nothing was lost in silence, doubled, swapped or invented")
    return 1 if failures else 0


def unexercised(outcome: Outcome, seconds: float) -> list[str]:
    """A run that met no trouble proves nothing: what a long one must have seen."""
    if seconds < 100:
        return []
    verdict = outcome.verdict
    seen = {
        "came from a history": verdict.replayed,
        "losses told": verdict.lost,
        "tails told to be unknown": verdict.tails,
        "came to a cursor again": verdict.twice,
        "sessions resumed": outcome.count("sessions_resumed"),
        "fell behind": outcome.count("times_behind"),
    }
    found = [f"not once: {name}" for name, count in seen.items() if not count]
    if outcome.undisturbed and outcome.share < LEAST_SHARE:
        found.append(f"only {outcome.share:.2f} x as much came while forwarders were killed")
    return found


def _replay(arguments: argparse.Namespace, seed: int) -> str:
    plant = f" --plant {arguments.plant}" if arguments.plant else ""
    plant += f" --forwarders {arguments.forwarders}" if arguments.forwarders else ""
    return f"to do the same again: python -m tests.chaos.pubsub --seconds {arguments.seconds} --seed {seed}{plant}"


if __name__ == "__main__":
    sys.exit(main())
