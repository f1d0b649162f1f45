#!/usr/bin/env python3
"""Training speed beside PyTorch: the same models, on the same machine, in turns.

    tools/setup.sh pytorch
    tools/compare_pytorch.py [--rows loop_small,gpt2_124m] [--rounds 5] [--precision both|bf16|f32] [--json OUT]

Each row is a file of configs/. A round is one process of `quern bench train` and one of PyTorch for each precision, a few steps
each; rounds alternate so that both see the same machine. The first steps of each process are dropped; a process counts with its
median step, a row with the median of its rounds. A step is batch, forward, loss, backward, AdamW, on random tokens that are
already in memory; dropout and gradient clipping are off on both sides. PyTorch's attention is written out (matmul, mask,
softmax, matmul), bf16 is autocast, and its process gets the settings that make it fastest on CPUs (TUNED below; --untuned
leaves them out). Both speeds are divided, with the same FLOP count (6 N_matmul + 6 L C T), by the peaks that Quern measured in
the same rounds: multiply-adds on registers, and 2 x 2 matrix tiles fed from L1. PyTorch's process also times a product of 1024 x
1024 matrices (oneDNN in bf16, the BLAS in f32). Memory is the most that was resident at once in the whole process.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# OpenBLAS takes its AVX2 kernels on processors that it does not know, ATen takes AVX-512 only when told to, and by default
# glibc gives large buffers back to the system after every operation.
TUNED = {
    "OPENBLAS_CORETYPE": "SkylakeX",
    "ATEN_CPU_CAPABILITY": "avx512",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}

# Steps of one process, and how many of the first do not count: f32, bf16. About 3 to 15 seconds each.
ROWS = {
    "shakespeare_char_cpu": {"f32": (60, 20), "bf16": (90, 30)},
    "loop_small": {"f32": (8, 3), "bf16": (12, 4)},
    "loop_base": {"f32": (5, 2), "bf16": (8, 3)},
    "shakespeare_char": {"f32": (3, 1), "bf16": (5, 2)},
    "gpt2_124m": {"f32": (3, 1), "bf16": (6, 2)},
}


def read_config(path):
    """The values of one of our YAML files: sections with scalar keys and comments, nothing else."""
    values, section = {}, ""
    for line in path.read_text().splitlines():
        if match := re.match(r"(\w+):\s*(#.*)?$", line):
            section = match[1]
        elif match := re.match(r"  (\w+):\s*(\"[^\"]*\"|[^#]*?)\s*(#.*)?$", line):
            values[f"{section}.{match[1]}"] = match[2]
    return values


def quern_round(options, row, precision):
    """What `quern bench train` says of one round of steps."""
    steps, skip = ROWS[row][precision]
    command = [options.quern, "bench", "train", str(ROOT / "configs" / f"{row}.yaml"), "--json", "--rounds", "1",
               "--steps", str(steps - skip), "--warmup", str(skip), "--precision", precision,
               "--threads", str(options.threads), "train.dropout=0", "optimizer.clip_norm=0"]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"failed: {' '.join(command)}\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)[0]


def pytorch_round(options, row, shape):
    environment = dict(os.environ, OMP_NUM_THREADS=str(options.threads))
    if not options.untuned:
        environment.update(TUNED)
    command = [options.python, __file__, "--worker", json.dumps(shape)]
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"PyTorch failed on {row}:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def peak_resident_bytes():
    """The most that was resident since this process began (getrusage would count its parent's)."""
    return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def worker(shape):
    """Trains in this process and prints the median speed of the counted steps."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.set_num_threads(shape["threads"])
    torch.manual_seed(1)
    width, heads, context, vocab = shape["width"], shape["heads"], shape["context"], shape["vocab"]
    bf16 = shape["precision"] == "bf16"

    def product_flops():
        """Of a product of 1024 x 1024 matrices: the best of five bursts."""
        a, b = (torch.randn(1024, 1024, dtype=torch.bfloat16 if bf16 else torch.float32) for _ in range(2))
        torch.mm(a, b)
        best = 0.0
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(10):
                torch.mm(a, b)
            best = max(best, 10 * 2 * 1024**3 / (time.perf_counter() - start))
        return best

    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(width))
            self.bias = nn.Parameter(torch.zeros(width)) if shape["norm_bias"] else None

        def forward(self, x):
            return F.layer_norm(x, (width,), self.weight, self.bias, 1e-5)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = Norm(), Norm()
            self.qkv = nn.Linear(width, 3 * width, bias=shape["attention_bias"])
            self.out = nn.Linear(width, width, bias=shape["attention_bias"])
            self.up = nn.Linear(width, shape["mlp_width"], bias=shape["mlp_bias"])
            self.down = nn.Linear(shape["mlp_width"], width, bias=shape["mlp_bias"])

        def forward(self, x, hidden):
            batch, length, _ = x.shape
            q, k, v = (t.view(batch, length, heads, width // heads).transpose(1, 2)
                       for t in self.qkv(self.norm1(x)).split(width, dim=2))
            scores = (q @ k.transpose(-2, -1)) * (width // heads) ** -0.5
            probabilities = F.softmax(scores.masked_fill(hidden, float("-inf")), dim=-1)
            attended = (probabilities @ v).transpose(1, 2).reshape(batch, length, width)
            x = x + self.out(attended)
            return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(vocab, width)
            self.positions = nn.Embedding(shape["positions"], width)
            self.blocks = nn.ModuleList(Block() for _ in range(shape["layers"]))
            self.norm = Norm()
            self.head = nn.Linear(width, vocab, bias=False)
            if shape["tied_embeddings"]:
                self.head.weight = self.tokens.weight
            self.register_buffer("hidden", torch.ones(context, context, dtype=torch.bool).triu(1))
            for parameter in self.parameters():
                if parameter.dim() == 2:
                    nn.init.normal_(parameter, std=0.02)

        def forward(self, inputs, targets):
            x = self.tokens(inputs) + self.positions.weight[:context]
            for block in self.blocks:
                x = block(x, self.hidden)
            return F.cross_entropy(self.head(self.norm(x)).view(-1, vocab), targets.view(-1))

    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    text = torch.randint(vocab, (shape["batch"], context + 1))
    seconds = []
    for _ in range(shape["steps"]):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = model(text[:, :-1].contiguous(), text[:, 1:].contiguous())
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[shape["skip"]:])
    print(json.dumps({
        "tokens_per_second": shape["batch"] * context / median,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "loss": loss.item(),
        "peak_resident_bytes": peak_resident_bytes(),
        "product_flops": product_flops(),
        "version": torch.__version__,
    }))


def shape_of(options, row, precision):
    config = read_config(ROOT / "configs" / f"{row}.yaml")
    expected = {"model.norm": "layer_norm", "model.position": "learned", "model.mlp": "gelu"}
    for key, value in expected.items():
        if config.get(key) != value:
            sys.exit(f"configs/{row}.yaml: `{key}` must be {value} to be compared, found {config.get(key)}")
    width = int(config["model.width"])
    flag = lambda key, default: config.get(key, default) == "true"  # noqa: E731
    return {
        "width": width,
        "layers": int(config["model.layers"]),
        "heads": int(config["model.heads"]),
        "positions": int(config["model.context"]),
        "context": int(config.get("train.context", config["model.context"])),
        "mlp_width": int(config.get("model.mlp_width", 4 * width)),
        "batch": int(config["train.batch"]),
        "attention_bias": flag("model.attention_bias", "false"),
        "mlp_bias": flag("model.mlp_bias", "false"),
        "norm_bias": flag("model.norm_bias", "false"),
        "tied_embeddings": flag("model.tied_embeddings", "true"),
        "vocab": int(config["model.vocab"]),
        "precision": precision,
        "threads": options.threads,
        "steps": ROWS[row][precision][0],
        "skip": ROWS[row][precision][1],
    }


def median(rounds, key):
    return statistics.median(one[key] for one in rounds)


def side(rounds, flop):
    values = [one["tokens_per_second"] for one in rounds]
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "gflops": statistics.median(values) * flop * 1e-9,
        "peak_resident_bytes": max(one["peak_resident_bytes"] for one in rounds),
    }


def compare(options, row):
    """Figures of a row, one dictionary for each precision; precisions take turns within a round too."""
    rounds = {precision: ([], []) for precision in options.precisions}
    for number in range(options.rounds):
        for precision, (ours, theirs) in rounds.items():
            ours.append(quern_round(options, row, precision))
            theirs.append(pytorch_round(options, row, shape_of(options, row, precision)))
            if theirs[-1]["parameters"] != ours[-1]["parameters"]:
                sys.exit(f"{row}: PyTorch's model has {theirs[-1]['parameters']} parameters, ours {ours[-1]['parameters']}")
            print(f"{row} {precision} round {number + 1}: Quern {ours[-1]['tokens_per_second']:.0f} tokens/s, "
                  f"PyTorch {theirs[-1]['tokens_per_second']:.0f}", file=sys.stderr)
    results = []
    for precision, (ours, theirs) in rounds.items():
        flop = ours[0]["flops_per_token"]
        result = {
            "row": row,
            "precision": precision,
            "threads": options.threads,
            "rounds": options.rounds,
            "tokens_per_step": ours[0]["tokens_per_step"],
            "parameters": ours[0]["parameters"],
            "flops_per_token": flop,
            "quern": side(ours, flop),
            "pytorch": side(theirs, flop),
            "quern_plan_bytes": ours[0]["plan_bytes"] + ours[0]["program_bytes"],
            "register_peak_gflops": median(ours, "register_peak_gflops"),
            "tile_peak_gflops": median(ours, "tile_peak_gflops") if "tile_peak_gflops" in ours[0] else None,
            "product_gflops": median(theirs, "product_flops") * 1e-9,
            "pytorch_version": theirs[0]["version"],
            "pytorch_tuned": not options.untuned,
        }
        result["ratio"] = result["quern"]["median"] / result["pytorch"]["median"]
        results.append(result)
    return results


def print_table(results):
    first = results[0]
    print(f"\n{first['threads']} threads, {first['rounds']} rounds in turns; PyTorch {first['pytorch_version']} "
          f"{'tuned' if first['pytorch_tuned'] else 'as shipped'}\n")
    print("| run | precision | Quern tokens/s | PyTorch tokens/s | ratio | GFLOP/s | register peak | L1 tiles "
          "| 1024-cubed product | resident MiB: plan, Quern, PyTorch |\n|---|---|---|---|---|---|---|---|---|---|")

    def speed(one):
        return f"{one['median']:,.0f} [{one['min']:,.0f}–{one['max']:,.0f}]"

    def share(gflops, peak):
        return f"{peak:,.0f}, {100 * gflops / peak:.1f} %" if peak else "-"

    for one in results:
        gflops = one["quern"]["gflops"]
        memory = (one["quern_plan_bytes"], one["quern"]["peak_resident_bytes"], one["pytorch"]["peak_resident_bytes"])
        print(f"| {one['row']} | {one['precision']} | {speed(one['quern'])} | {speed(one['pytorch'])} | {one['ratio']:.2f} "
              f"| {gflops:,.0f} | {share(gflops, one['register_peak_gflops'])} | {share(gflops, one['tile_peak_gflops'])} "
              f"| {share(gflops, one['product_gflops'])} | {', '.join(f'{size / 2**20:,.0f}' for size in memory)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS), help=f"comma-separated, of {', '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=("both", "bf16", "f32"), default="both")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--untuned", action="store_true", help="PyTorch with its default settings")
    parser.add_argument("--quern", default=str(ROOT / "build/release/tools/quern"), help="the program to measure")
    parser.add_argument("--json", metavar="OUT", help="also write every figure to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(json.loads(options.worker))
    options.rows = options.rows.split(",")
    if unknown := [row for row in options.rows if row not in ROWS]:
        parser.error(f"unknown row {unknown[0]!r}; there are {', '.join(ROWS)}")
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    if not Path(options.quern).exists():
        parser.error(f"{options.quern} is not there; tools/quickstart.sh or cmake --build --preset release makes it")
    options.quern = str(Path(options.quern).resolve())
    # Debian's PyTorch belongs to Debian's Python, which another one may hide.
    for options.python in (sys.executable, "/usr/bin/python3"):
        if subprocess.run([options.python, "-c", "import torch"], capture_output=True).returncode == 0:
            break
    else:
        parser.error("PyTorch is missing: tools/setup.sh pytorch (or apt-get install python3-torch)")

    options.precisions = ("f32", "bf16") if options.precision == "both" else (options.precision,)
    results = []
    for row in options.rows:
        results += compare(options, row)
    print_table(results)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2) + "\n")
    return None


if __name__ == "__main__":
    main()
