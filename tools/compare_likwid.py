#!/usr/bin/env python3
"""Holds `quern hardware --measure` against likwid-bench (Debian package likwid), in turns.

  tools/compare_likwid.py [--quern build/release/tools/quern] [--rounds 10] [--out FILE]

Each round runs Quern's measurement once and then likwid's loops over blocks of the same size with as many threads. Prints a
Markdown table: medians of the rounds, and the median of the rounds' ratios. --out FILE keeps every round as a line of JSON and
counts the rounds that are there already. x86-64 with AVX-512 only, because likwid's loops are named by instruction set.
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


def quern_figures(program):
    """Figures with the most threads: {name: (value, bytes, threads)}."""
    text = subprocess.run([program, "hardware", "--measure", "--json", "--warmup", "1", "--repeats", "3"],
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
    small = report["measurement"]["pages"][0]  # likwid's blocks lie in small pages
    figures["memory read, small pages"] = (small["read_bytes_per_second"]["median"], small["bytes"], threads)
    return figures


def likwid_figure(name, rate, size, threads):
    """The same by likwid-bench, for about SECONDS (by Quern's rate)."""
    peak = name == "f32 peak"
    test = "peakflops_sp_avx512_fma" if peak else ACCESS[name.split(",")[0].split(" ", 1)[1]]
    passes = int(SECONDS * rate / size / (8 if peak else 1)) + 2
    command = ["likwid-bench", "-t", test, "-w", f"S0:{size // 1000}kB:{threads}", "-i", str(passes)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"^%s:\s+([0-9.]+)" % ("MFlops/s" if peak else "MByte/s"), result.stdout, re.MULTILINE)
    if not found:
        sys.exit(f"{' '.join(command)}: expected a rate, found:\n{result.stdout}{result.stderr}")
    return float(found.group(1)) * 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quern", default="build/release/tools/quern")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out")
    options = parser.parse_args()
    rounds = []
    if options.out and os.path.exists(options.out):
        with open(options.out, encoding="utf-8") as file:
            rounds = [json.loads(line) for line in file]
    for _ in range(options.rounds - len(rounds)):
        figures = quern_figures(options.quern)
        rounds.append({name: [value, likwid_figure(name, value, size, threads)]
                       for name, (value, size, threads) in figures.items()})
        if options.out:
            with open(options.out, "a", encoding="utf-8") as file:
                file.write(json.dumps(rounds[-1]) + "\n")
    print(f"{len(rounds)} rounds in turns, medians\n\n| | Quern | likwid-bench | ratio [least-most] |\n|---|---|---|---|")
    for name in rounds[0]:
        pairs = [one[name] for one in rounds]
        ratios = [ours / theirs for ours, theirs in pairs]
        ours, theirs = (statistics.median(pair[i] for pair in pairs) * 1e-9 for i in (0, 1))
        unit = "GFLOP/s" if name == "f32 peak" else "GB/s"
        print(f"| {name}, {unit} | {ours:.1f} | {theirs:.1f} | {statistics.median(ratios):.3f} [{min(ratios):.2f}-{max(ratios):.2f}] |")


if __name__ == "__main__":
    main()
