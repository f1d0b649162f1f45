#!/usr/bin/env python3
"""Learning curves of one run's variants over seeds, and how many steps each needs to the same loss.

    tools/compare_runs.py configs/shakespeare_char.yaml --out runs/optimizers --seeds 1,2,3 \\
      --variant "AdamW" --variant "Muon: optimizer.kind=muon optimizer.muon_learning_rate=0.02" train.steps=1000 train.eval_every=100

Each variant is a name and, behind a colon, keys that it sets; keys behind the options are set in all. Every variant is trained
with every seed, in folders of --out. What has ended is not run again, what was stopped is resumed: Ctrl-C saves, the same command
goes on. --print trains nothing. The tables, Markdown, are of what there is: val_loss at each validated step as mean [lowest -
highest] over seeds, and for each loss in the first variant's curve the step at which the others' mean curves come to it (between
validations: a straight line) and the ratio of both. A variant counts up to where all its seeds have come.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def parse_variant(text):
    name, _, keys = text.partition(":")
    if not name.strip():
        sys.exit(f"compare_runs.py: --variant: expected NAME or NAME: KEY=VALUE ..., found `{text}`")
    bad = [key for key in keys.split() if "=" not in key]
    if bad:
        sys.exit(f"compare_runs.py: --variant {name}: expected KEY=VALUE, found `{bad[0]}`")
    return name.strip(), keys.split()


def curve_of(folder):
    """val_loss by step, from metrics.jsonl; a line that a kill cut is not one."""
    curve = {}
    try:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
    except OSError:
        return curve
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record.get("val_loss") is not None:
            curve[record["step"]] = record["val_loss"]
    return curve


def has_ended(folder):
    """Whether the last step of the resolved run has been validated."""
    try:
        match = re.search(r"^train:.*?^  steps: (\d+)", (folder / "run.yaml").read_text(), re.M | re.S)
    except OSError:
        return False
    return match is not None and int(match[1]) in curve_of(folder)


def train(options, folder, seed, keys):
    command = [options.quern, "train", options.config, f"run.dir={folder}", f"train.seed={seed}", "sample.tokens=0"]
    command += keys + options.keys
    if (folder / "checkpoints" / "last.h5").exists():
        command.append("--resume")
    elif folder.exists():
        command.append("--force")  # stopped before its first checkpoint
    print("$", " ".join(command), flush=True)
    code = subprocess.run(command).returncode
    if code:
        sys.exit(code if code > 0 else 128 - code)


def mean_curve(curves):
    """(step, losses of all seeds) in the order of steps, for steps that all seeds have."""
    common = set.intersection(*(set(curve) for curve in curves)) if curves else set()
    return [(step, [curve[step] for curve in curves]) for step in sorted(common)]


def step_at(curve, loss):
    """Where the mean curve first comes down to `loss`; None where it does not, or before its first validation."""
    before = None
    for step, losses in curve:
        mean = statistics.mean(losses)
        if mean <= loss:
            if before is None:
                return None
            return before[0] + (step - before[0]) * (before[1] - loss) / (before[1] - mean)
        before = (step, mean)
    return None


def table(head, rows):
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, *rows]]
    lines.insert(1, "|" + "---|" * len(head))
    return "\n".join(lines)


def report(curves):
    steps = sorted({step for curve in curves.values() for step, _ in curve})
    cell = lambda losses: f"{statistics.mean(losses):.4f} [{min(losses):.4f} - {max(losses):.4f}]"
    by_step = {name: dict(curve) for name, curve in curves.items()}
    rows = [[str(step)] + [cell(c[step]) if step in c else "-" for c in by_step.values()] for step in steps]
    print(table(["step", *curves], rows))
    (first, reference), *others = curves.items()
    rows = []
    for step, losses in reference:
        loss = statistics.mean(losses)
        at = [step_at(curve, loss) for _, curve in others]
        if any(at):
            rows.append([f"{loss:.4f}", str(step)] + ["-" if a is None else f"{a:.0f}, {step / a:.2f} times fewer" for a in at])
    if rows:
        print()
        print(table(["mean val_loss", first, *(name for name, _ in others)], rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a run, YAML")
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE", help="keys of all variants")
    parser.add_argument("--out", required=True, type=Path, help="folder of the runs' folders")
    parser.add_argument("--seeds", default="1,2,3", help="integers between commas; default 1,2,3")
    parser.add_argument("--variant", action="append", required=True, metavar="NAME[: KEY=VALUE ...]", help="one for each curve")
    parser.add_argument("--quern", default=str(ROOT / "build/release/tools/quern"), help="the program; default build/release")
    parser.add_argument("--print", action="store_true", dest="only_print", help="train nothing, print what there is")
    options = parser.parse_intermixed_args()
    variants = dict(parse_variant(text) for text in options.variant)
    if not re.fullmatch(r"\d+(,\d+)*", options.seeds):
        sys.exit(f"compare_runs.py: --seeds: expected integers between commas, found `{options.seeds}`")
    seeds = options.seeds.split(",")
    if not options.only_print and not os.access(options.quern, os.X_OK):
        sys.exit(f"compare_runs.py: {options.quern}: not a program; build it or give --quern")

    folder = lambda name, seed: options.out / f"{re.sub(r'[^A-Za-z0-9.]+', '_', name)}-{seed}"
    for seed in seeds:  # all variants of a seed before the next, so that early tables compare
        for name, keys in variants.items():
            if not options.only_print and not has_ended(folder(name, seed)):
                train(options, folder(name, seed), seed, keys)
    curves = {}
    for name in variants:
        found = [curve for curve in (curve_of(folder(name, seed)) for seed in seeds) if curve]
        curves[name] = mean_curve(found)
    report(curves)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
