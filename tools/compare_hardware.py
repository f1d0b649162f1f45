#!/usr/bin/env python3
"""Holds `quern hardware --measure` against independent loops, in turns.

  tools/compare_hardware.py [--quern build/release/tools/quern] [--with likwid|loops] [--rounds 10] [--out FILE]

Each round runs Quern's measurement once and then the other side's loops over blocks of the same size with as many threads:

  likwid   likwid-bench (Debian package likwid), whose blocks lie in small pages
  loops    build/bench/bench/machine_loops (bench/math/machine_loops.cpp), in huge pages as Quern's

Prints a Markdown table: medians of the rounds, and the median of the rounds' ratios. --out FILE keeps every round as a line of JSON
and counts the rounds that are there already. x86-64 with AVX-512 only.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys

SECONDS = 0.1  # of a run of likwid
ACCESS = {"read": "load_avx512", "write": "store_avx512", "copy": "copy_avx512", "non-temporal write": "store_mem_avx512"}
LEVELS = ["L1", "L2", "L3", "memory"]


def quern_figures(program):
    """Figures with the most threads: {name: (value, bytes of all threads, threads)}."""
    text = subprocess.run([program, "hardware", "--measure", "--no-models", "--json", "--warmup", "1", "--repeats", "3"],
                          check=True, capture_output=True, text=True).stdout
    report = json.loads(text)
    threads = report["default_threads"]
    figures = {}
    for peak in report["measurement"]["peaks"]:
        if peak["type"] == "f32" and peak["threads"] == threads:
            figures["f32 peak"] = (peak["ops_per_second"]["median"], 16384 * threads, threads)
    for stream in report["measurement"]["streams"]:
        past = stream["access"] == "non-temporal write"
        if stream["threads"] == threads and (not past or stream["level"] == 0):
            level = f"L{stream['level']}" if stream["level"] else "memory"
            figures[f"{level} {stream['access']}"] = (stream["bytes_per_second"]["median"], stream["bytes"], threads)
    small = report["measurement"]["pages"][0]
    figures["memory read, small pages"] = (small["read_bytes_per_second"]["median"], small["bytes"], threads)
    return figures


def likwid_figure(name, rate, size, threads):
    """One figure by likwid-bench, for about SECONDS (by Quern's rate)."""
    peak = name == "f32 peak"
    test = "peakflops_sp_avx512_fma" if peak else ACCESS[name.split(",")[0].split(" ", 1)[1]]
    passes = int(SECONDS * rate / size / (8 if peak else 1)) + 2
    command = ["likwid-bench", "-t", test, "-w", f"S0:{size // 1000}kB:{threads}", "-i", str(passes)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"^%s:\s+([0-9.]+)" % ("MFlops/s" if peak else "MByte/s"), result.stdout, re.MULTILINE)
    if not found:
        sys.exit(f"{' '.join(command)}: expected a rate, found:\n{result.stdout}{result.stderr}")
    return float(found.group(1)) * 1e6


def likwid_figures(figures):
    return {name: likwid_figure(name, *figure) for name, figure in figures.items()}


def loops_figures(program, figures):
    threads = figures["f32 peak"][2]
    sizes = [figures[f"{level} read"][1] // threads for level in LEVELS] + [figures["memory read, small pages"][1] // threads]
    text = subprocess.run([program, *map(str, sizes)], check=True, capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": str(threads)}).stdout
    return {name: float(value) for name, value in (line.split("=") for line in text.splitlines())}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quern", default="build/release/tools/quern")
    parser.add_argument("--with", dest="other", choices=["likwid", "loops"], default="likwid")
    parser.add_argument("--loops", default="build/bench/bench/machine_loops", metavar="PROGRAM")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out")
    options = parser.parse_args()
    if options.other == "loops" and not os.path.exists(options.loops):
        parser.error(f"{options.loops} is not there; cmake --build --preset bench --target machine_loops makes it")
    rounds = []
    if options.out and os.path.exists(options.out):
        with open(options.out, encoding="utf-8") as file:
            rounds = [json.loads(line) for line in file]
    for _ in range(options.rounds - len(rounds)):
        figures = quern_figures(options.quern)
        others = likwid_figures(figures) if options.other == "likwid" else loops_figures(options.loops, figures)
        rounds.append({name: [figures[name][0], other] for name, other in others.items()})
        if options.out:
            with open(options.out, "a", encoding="utf-8") as file:
                file.write(json.dumps(rounds[-1]) + "\n")
    print(f"{len(rounds)} rounds in turns, medians\n\n| | Quern | {options.other} | ratio [least-most] |\n|---|---|---|---|")
    for name in rounds[0]:
        pairs = [one[name] for one in rounds]
        ratios = [ours / theirs for ours, theirs in pairs]
        ours, theirs = (statistics.median(pair[i] for pair in pairs) * 1e-9 for i in (0, 1))
        unit = "GFLOP/s" if name == "f32 peak" else "GB/s"
        print(f"| {name}, {unit} | {ours:.1f} | {theirs:.1f} | {statistics.median(ratios):.3f} [{min(ratios):.2f}-{max(ratios):.2f}] |")


if __name__ == "__main__":
    main()
