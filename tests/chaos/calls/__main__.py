"""The command line of the chaos of calls: servers killed and stopped at random, and callers who must be told.

python -m tests.chaos.calls                         five minutes
python -m tests.chaos.calls --seconds 60 --seed 7   shorter, by the plan that this seed draws
python -m tests.chaos.calls --rounds 1              a round of the plan; shares and waits are not judged
python -m tests.chaos.calls --devices 1             queues between them; only these are harmed, after as long alone
python -m tests.chaos.calls --plant careless-server plant a bug; it must be found
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

from tests.chaos.calls.run import Outcome, run
from tests.chaos.devices.outcome import Length
from tests.chaos.devices.outcome import Outcome as DevicesOutcome
from tests.chaos.devices.run import run_calls
from tests.chaos.fleet import Died, Stuck

PLANTS = ("careless-server", "secretive-server", "rounding-caller")


def main() -> int:
    """Returns the exit status: 0 when every outcome was true."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.calls", description="Kill servers under calls.")
    parser.add_argument("--seconds", type=float, default=300.0, help="how long (300)")
    parser.add_argument("--rounds", type=int, help="so many rounds of the plan instead")
    parser.add_argument("--devices", type=int, choices=(1, 2), default=0, help="kill only so many queues in a row")
    parser.add_argument("--seed", type=int, help="of the plan; drawn anew if not given")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write histories and journals here, and keep them")
    parser.add_argument("--plant", choices=PLANTS, default="", help="plant a bug, which must be found")
    parser.add_argument("--verbose", action="store_true", help="tell each step")
    arguments = parser.parse_args()
    if arguments.devices and arguments.rounds is not None:
        parser.error("--rounds is of servers; with --devices say --seconds")
    seed = secrets.randbelow(1 << 32) if arguments.seed is None else arguments.seed
    length = f"{arguments.seconds:.0f} s" if arguments.rounds is None else f"{arguments.rounds} rounds"
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
                outcome = run_calls(seed, folder, arguments.devices, given, plant=arguments.plant, say=say)
            else:
                outcome = run(
                    seed,
                    folder,
                    rounds=arguments.rounds,
                    seconds=None if arguments.rounds is not None else arguments.seconds,
                    plant=arguments.plant,
                    say=say,
                )
        except (Stuck, Died) as error:
            print(f"{error}\n\n{type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr)
            print(_replay(arguments, seed), file=sys.stderr)
            return 1
    print(outcome.table())
    failures = outcome.failures + (outcome.idle if isinstance(outcome, DevicesOutcome) else [])
    for failure in failures:
        print(failure, file=sys.stderr)
    if failures:
        print(_replay(arguments, seed), file=sys.stderr)
    else:
        print("every call ended, and what it was told was true")
    return 1 if failures else 0


def _replay(arguments: argparse.Namespace, seed: int) -> str:
    plant = f" --plant {arguments.plant}" if arguments.plant else ""
    length = f"--seconds {arguments.seconds}" if arguments.rounds is None else f"--rounds {arguments.rounds}"
    length += f" --devices {arguments.devices}" if arguments.devices else ""
    return f"to do the same again: python -m tests.chaos.calls {length} --seed {seed}{plant}"


if __name__ == "__main__":
    sys.exit(main())
