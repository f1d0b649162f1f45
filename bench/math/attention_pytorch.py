#!/usr/bin/env python3
"""Attention of one layer beside PyTorch's explicit form (matmul, mask, softmax, matmul and their gradients), in turns.

    bench/math/attention_pytorch.py build/bench/bench/attention_bench [--rounds 3] [--threads 2] [--f32]

A round is one process of attention_bench and one of PyTorch, with the settings that make PyTorch fastest on CPUs (TUNED of
tools/compare_pytorch.py); figures are medians of the rounds' medians, in milliseconds. PyTorch's tensors are bf16 (or f32)
throughout, [batch, heads, tokens, head_dim] contiguous, which spares it the copies that its training step makes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

# Name, tokens, head size, heads, batch; as attention_bench names them.
ROWS = [
    ("shakespeare_char_cpu", 64, 32, 4, 12),
    ("loop_small", 128, 32, 8, 32),
    ("loop_base", 256, 64, 6, 16),
    ("shakespeare_char", 256, 64, 6, 64),
    ("gpt2_124m", 256, 64, 12, 4),
    ("length", 1024, 64, 4, 4),
]


def worker(shape):
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(shape["threads"])
    kind = torch.float32 if shape["f32"] else torch.bfloat16
    size = (shape["batch"], shape["heads"], shape["tokens"], shape["head_dim"])
    q, k, v = (torch.randn(size).to(kind).requires_grad_() for _ in range(3))
    gradient = torch.randn(size).to(kind)
    hidden = torch.ones(shape["tokens"], shape["tokens"], dtype=torch.bool).triu(1)
    forward, backward = [], []
    begin = time.perf_counter()
    while len(forward) < 8 or (time.perf_counter() - begin < 1.0 and len(forward) < 200):
        start = time.perf_counter()
        scores = (q @ k.transpose(-2, -1)) * shape["head_dim"] ** -0.5
        out = F.softmax(scores.masked_fill(hidden, float("-inf")), dim=-1) @ v
        middle = time.perf_counter()
        torch.autograd.grad(out, (q, k, v), gradient)
        backward.append(time.perf_counter() - middle)
        forward.append(middle - start)
    print(json.dumps([1e3 * statistics.median(x[2:]) for x in (forward, backward)]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bench", nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--f32", action="store_true")
    parser.add_argument("--python", default="/usr/bin/python3")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(json.loads(options.worker))
    if not options.bench:
        parser.error("the path of attention_bench is missing")
    from compare_pytorch import TUNED

    environment = dict(os.environ, OMP_NUM_THREADS=str(options.threads), **TUNED)
    print(f"{'':22} {'ours: forward':>14} {'backward':>9} {'PyTorch: forward':>17} {'backward':>9} {'times':>6}")
    for name, tokens, head_dim, heads, batch in ROWS:
        shape = dict(tokens=tokens, head_dim=head_dim, heads=heads, batch=batch, threads=options.threads, f32=options.f32)
        table = "avx512.*/f32" if options.f32 else "amx/bf16"
        pattern = f"attention/{table}/{name}/T:{tokens}/.*batch:{batch}/threads:{options.threads}/"
        ours, theirs = [], []
        for _ in range(options.rounds):
            command = [options.bench, f"--benchmark_filter={pattern}", "--benchmark_format=json", "--benchmark_min_time=0.2"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout)["benchmarks"][0]
            ours.append((found["forward_ms"], found["backward_ms"]))
            command = [options.python, __file__, "--worker", json.dumps(shape)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            theirs.append(json.loads(done.stdout))
        a = [statistics.median(x) for x in zip(*ours)]
        b = [statistics.median(x) for x in zip(*theirs)]
        print(f"{name:22} {a[0]:14.3f} {a[1]:9.3f} {b[0]:17.3f} {b[1]:9.3f} {sum(b) / sum(a):6.2f}", flush=True)


if __name__ == "__main__":
    main()
