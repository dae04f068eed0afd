"""The command line of the chaos: real processes, killed and stopped at random.

python -m tests.chaos                        100 kills
python -m tests.chaos --kills 500 --seed 7   more, by the plan that this seed draws
python -m tests.chaos --seconds 600          as many as there is time for, 100 at least
python -m tests.chaos --devices 1            streamers between them, and only these are harmed
python -m tests.chaos --plant hasty-worker   plant a bug; it must be found
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

from tests.chaos.devices.outcome import Length
from tests.chaos.devices.outcome import Outcome as DevicesOutcome
from tests.chaos.devices.run import run_jobs
from tests.chaos.fleet import Died, Stuck
from tests.chaos.plan import CREW, SMALL_CREW
from tests.chaos.run import Outcome, run

PLANTS = ("boastful-pusher", "careless-pusher", "hasty-sender", "hasty-worker", "forgetful-sink")
"""Says confirmed before it is; does not send again what went with its journal; sends before it commits; acks before it
has pushed on; counts without an inbox."""


def main() -> int:
    """Returns the exit status: 0 when nothing was lost, doubled or invented."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Kill real processes at random.")
    parser.add_argument("--kills", type=int, default=100, help="how many, evenly over the roles (100)")
    parser.add_argument("--devices", type=int, choices=(1, 2), default=0, help="kill only so many streamers in a row")
    parser.add_argument(
        "--seconds", type=float, help="at least so long (0); with devices: how long, and before left alone (120)"
    )
    parser.add_argument("--small", action="store_true", help="fewer processes")
    parser.add_argument("--seed", type=int, help="of the plan; drawn anew if not given")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write histories and journals here, and keep them")
    parser.add_argument("--plant", choices=PLANTS, default="", help="plant a bug, which must be found")
    parser.add_argument("--verbose", action="store_true", help="tell each step")
    arguments = parser.parse_args()
    seed = secrets.randbelow(1 << 32) if arguments.seed is None else arguments.seed
    if arguments.seconds is None:
        arguments.seconds = 120.0 if arguments.devices else 0.0
    lengths = [] if arguments.devices else [f"at least {arguments.kills} kills"]
    lengths += [f"{arguments.seconds:.0f} s"] if arguments.seconds else []
    length = " and ".join(lengths)
    print(f"{length} by the plan of seed {seed}", flush=True)
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
            say = partial(print, flush=True) if arguments.verbose else str
            outcome: Outcome | DevicesOutcome
            if arguments.devices:
                given = Length(arguments.seconds)
                outcome = run_jobs(seed, folder, arguments.devices, given, plant=arguments.plant, say=say)
            else:
                crew = SMALL_CREW if arguments.small else CREW
                kills, seconds = arguments.kills, arguments.seconds
                outcome = run(kills, seed, folder, seconds=seconds, crew=crew, plant=arguments.plant, say=say)
        except (Stuck, Died) as error:
            print(f"{error}\n\n{type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr)
            print(_replay(arguments, seed), file=sys.stderr)
            return 1
    print(outcome.table())
    idle = outcome.idle if isinstance(outcome, DevicesOutcome) else unexercised(outcome, arguments.kills)
    failures = outcome.failures + idle
    for failure in failures:
        print(failure, file=sys.stderr)
    if failures:
        print(_replay(arguments, seed), file=sys.stderr)
    else:
        print("nothing was lost, doubled or invented")
    return 1 if failures else 0


def unexercised(outcome: Outcome, kills: int) -> list[str]:
    """A run that met no trouble proves nothing: what a long one must have seen."""
    if kills < 100:
        return []
    seen = {
        "redelivered": outcome.redelivered,
        "duplicates filtered": outcome.verdict.duplicates,
        "stale settles": outcome.stale,
        "dead letters": outcome.verdict.dead,
        "orders in an outbox": outcome.verdict.ordered,
        "journals put back": outcome.verdict.restored["back"],
        "journals gone on with": outcome.verdict.restored["on"],
        "items sent again by their ids": outcome.verdict.again,
        "items in order behind one of their key": outcome.verdict.keyed,
    }
    return [f"not once: {name}" for name, count in seen.items() if not count]


def _replay(arguments: argparse.Namespace, seed: int) -> str:
    plant = f" --plant {arguments.plant}" if arguments.plant else ""
    length = f"--devices {arguments.devices}" if arguments.devices else f"--kills {arguments.kills}"
    if arguments.seconds:
        length += f" --seconds {arguments.seconds:g}"
    length += " --small" if arguments.small else ""
    return f"to do the same again: python -m tests.chaos {length} --seed {seed}{plant}"


if __name__ == "__main__":
    sys.exit(main())
