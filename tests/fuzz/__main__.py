"""`python -m fuzz`: run all parts, show what became of the cases, and write build/fuzz.json."""

import argparse
import json
import logging
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

from fuzz import commands, files, kills

parser = argparse.ArgumentParser(prog="python -m fuzz")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--only", default=":", metavar="PART:NUMBER", help="repeat one case")
parts = {"kills": (kills, 100), "files": (files, 2000), "commands": (commands, 150)}  # forks first
for part, (_, count) in parts.items():
    parser.add_argument(f"--{part}", type=int, default=count, help=f"how many (default {count})")
options = parser.parse_args()
logging.basicConfig(handlers=[logging.NullHandler()])
counts, wrong = defaultdict(Counter), []
only, _, number = options.only.partition(":")
for part, (module, _) in parts.items():
    numbers = range(getattr(options, part)) if not only else [int(number)] * (part == only)
    with tempfile.TemporaryDirectory() as folder:
        for case in module.run(options.seed, numbers, Path(folder)) if numbers else ():
            counts[f"{part}: {case.about}"][case.outcome] += 1
            if case.wrong:
                wrong.append(f"--seed {options.seed} --only {part}:{case.number}  {case.wrong}")
                sys.stdout.write(f"{case.about} {wrong[-1]}\n")
for about, outcomes in counts.items():
    found = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
    sys.stdout.write(f"{about:45} {found}\n")
Path("build").mkdir(exist_ok=True)
Path("build/fuzz.json").write_text(json.dumps({"counts": counts, "wrong": wrong}, indent=1))
sys.exit(f"{len(wrong)} cases went wrong." if wrong else 0)
