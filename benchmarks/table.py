"""Turn the JSON of pytest-benchmark into a Markdown table: python table.py IN.json OUT.md."""

import json
import sys
from pathlib import Path


def table(report: dict) -> str:
    """The machine, the versions and a row per benchmark."""
    machine = report["machine_info"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    cpu = machine["cpu"]
    lines = [
        f"Measured on {cpu['brand_raw']}, {cpu['count']} cores, {machine['system']}; {versions}.",
        f"Revision {report['commit_info']['id'][:12]}. Medians over the rounds of one run.",
        "",
        "| benchmark | rounds | result |",
        "|---|---|---|",
    ]
    for entry in report["benchmarks"]:
        result = ", ".join(f"{name}: {value}" for name, value in entry["extra_info"].items())
        lines.append(f"| {entry['name']} | {entry['stats']['rounds']} | {result} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(table(json.loads(source.read_text())))
