"""Tables of what `compare.py --record` has written: python benches/peers/table.py FILE..."""

import json
import statistics
import sys

COLUMNS = {
    "lens-installed": "TransformerLens, installed",
    "lens-installed+forced": "installed, forced",
    "lens-tuned": "tuned",
    "lens-tuned+forced": "tuned, forced",
    "lens-original": "original settings",
    "lens-original+forced": "original settings, forced",
    "expert": "PyTorch, batched",
    "expert+forced": "PyTorch, batched, forced",
    "expert-tf32": "PyTorch, batched, TF32",
    "expert-bf16": "PyTorch, batched, bf16",
}


def seconds(value):
    return f"{1e3 * value:.3g} ms" if value < 1 else f"{value:.3g} s" if value < 100 else f"{value:.0f} s"


def median(side):
    return statistics.median(side["seconds"])


def ours(record):
    return next(iter(record["sides"].values()))


def share(record, side):
    return f"{100 * record['flops'] / record['peak'] / median(side):.0f} %" if record["peak"] else ""


def run(record):
    """What was the same for all sides of a record."""
    return (
        f"{record['shape']}, {record['prompts']} prompts of {record['tokens']} tokens; {record['processor']}, "
        f"{record['device']}, torch {', '.join(record['torch'])}; {record['date']}"
    )


def long_table(records):
    """Every side of every record."""
    lines, heading = [], None
    for record in records:
        if run(record) != heading:
            heading = run(record)
            titles = "workload | side | median | fastest - slowest (repetitions) | x ours | share of peak | cells run"
            lines += ["", heading, "", f"| {titles} | difference | memory, GB |", "|---" * 9 + "|"]
        base = median(ours(record))
        for name, side in record["sides"].items():
            spread = f"{seconds(min(side['seconds']))} - {seconds(max(side['seconds']))} ({len(side['seconds'])})"
            cells = "{} of {}".format(*side["sampled"]) if "sampled" in side else "all"
            difference = "" if side["difference"] is None else f"{side['difference']:.0e}"
            lines.append(
                f"| {record['workload']} | {name} | {seconds(median(side))} | {spread} | {median(side) / base:.2f} "
                f"| {share(record, side)} | {cells} | {difference} | {side['memory'] / 1e9:.2f} |"
            )
    return "\n".join(lines).strip()


def wide_table(records):
    """A line per workload: ours, and every peer's time with its ratio to ours in the same record."""
    rows = {}
    for record in records:
        rows.setdefault((record["shape"], record["workload"]), []).append(record)
    present = {name for record in records for name in record["sides"]}
    peers = [name for name in COLUMNS if name in present]
    titles = ["workload", "actpatch", "share of peak", "memory, GB", *(COLUMNS[name] for name in peers)]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for (shape, workload), group in rows.items():
        first = max(group, key=lambda record: len(record["sides"]))
        own = ours(first)
        cells = [f"{shape} {workload}", seconds(median(own)), share(first, own), f"{own['memory'] / 1e9:.2f}"]
        for name in peers:
            found = [record for record in group if name in record["sides"]]
            times = [(median(record["sides"][name]), median(ours(record))) for record in found]
            cells.append("; ".join(f"{seconds(peer)}, {peer / base:.2f} x" for peer, base in times))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    read = [json.loads(line) for path in sys.argv[1:] for line in open(path)]
    print(wide_table(read), long_table(read), sep="\n\n")
