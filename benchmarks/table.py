"""Turn JSON files of pytest-benchmark into a Markdown table: python table.py IN.json ... OUT.md."""

import json
import sys
from pathlib import Path


def table(reports: list[dict]) -> str:
    """The machine and the versions, those of the first report, and a row per benchmark."""
    machine = reports[0]["machine_info"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    cpu = machine["cpu"]
    lines = [
        f"Measured on {cpu['brand_raw']}, {cpu['count']} cores, {machine['system']}; {versions}.",
        f"Revision {reports[0]['commit_info']['id'][:12]}. Medians over the rounds of one run of "
        "`make bench`, each file in a process",
        "of its own; only numbers of one line may be compared.",
        "",
        "| benchmark | rounds | result |",
        "|---|---|---|",
    ]
    for entry in (entry for report in reports for entry in report["benchmarks"]):
        result = ", ".join(f"{name}: {value}" for name, value in entry["extra_info"].items())
        lines.append(f"| {entry['name']} | {entry['stats']['rounds']} | {result} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    *sources, target = map(Path, sys.argv[1:])
    target.write_text(table([json.loads(source.read_text()) for source in sources]))
