#!/usr/bin/env python3
"""Training speed beside PyTorch: the same models, on the same machine, in turns.

    tools/setup.sh pytorch
    tools/compare_pytorch.py [--rows loop_small,shakespeare_char] [--rounds 5] [--precision bf16|f32] [--json OUT]

Each row is a file of configs/. A round is one process of `quern train` and one of PyTorch, a few steps each; rounds alternate so
that both see the same machine. The first steps of each process are dropped; a process counts with its median step, a row
with the median of its rounds. Dropout and gradient clipping are off on both sides. A step is batch, forward, loss,
backward, AdamW; PyTorch's batch is random tokens that are already in memory. Its attention is written out (matmul, mask,
softmax, matmul), bf16 is autocast, and its process gets the settings that make it fastest on CPUs (TUNED below; --untuned
leaves them out). Percentages divide both speeds, with the same FLOP count (6 N_matmul + 6 L C T), by the register peak that
Quern measured.
"""

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
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

# Steps of one process, and how many of the first do not count. About 3 to 10 seconds each.
ROWS = {
    "shakespeare_char_cpu": (90, 30),
    "loop_small": (12, 4),
    "shakespeare_char": (5, 2),
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


def run_quern(options, row, extra):
    command = [options.quern, "train", str(ROOT / "configs" / f"{row}.yaml"), *extra]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"failed: {' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def make_corpora(options, folder):
    """The corpus of each row. What the text says does not change the speed, so the characters are random."""
    corpora = {}
    letters = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    for row in options.rows:
        words = row == "loop_small"
        path = folder / ("words.h5" if words else "characters.h5")
        corpora[row] = path
        if path.exists():
            continue
        if words:
            arguments = ["kjv", "--tokenizer", "bpe", "--vocab", "10000"]
        else:
            text = folder / "characters.txt"
            text.write_text(letters + "".join(random.Random(1).choices(letters, k=1_115_394)))
            arguments = [str(text), "--tokenizer", "char"]
        command = [options.quern, "data", "prepare", *arguments, "--out", str(path)]
        done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"failed: {' '.join(command)}\n{done.stdout}{done.stderr}")
    return corpora


def quern_overrides(options, row, corpus, folder):
    return [
        f"run.dir={folder / 'run'}",
        f"data.corpus={corpus}",
        f"train.steps={ROWS[row][0]}",
        f"train.precision={options.precision}",
        f"system.threads={options.threads}",
        "train.dropout=0",
        "optimizer.clip_norm=0",
        "optimizer.warmup_steps=2",
        "train.log_every=1",
        "train.eval_every=0",
        "sample.tokens=0",
    ]


def quern_round(options, row, corpus, folder):
    """Medians over the counted steps of one training process."""
    run_quern(options, row, ["--force", *quern_overrides(options, row, corpus, folder)])
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    counted = [line for line in lines if line["step"] > ROWS[row][1]]
    tokens_per_second = statistics.median(line["tokens_per_second"] for line in counted)
    last = counted[-1]
    return {
        "tokens_per_second": tokens_per_second,
        "flop_per_token": last["gflops"] * 1e9 / last["tokens_per_second"],
        "peak_flops": last["gflops"] * 1e9 / last["peak_fraction"],
    }


def pytorch_round(options, row, shape):
    environment = dict(os.environ, OMP_NUM_THREADS=str(options.threads))
    if not options.untuned:
        environment.update(TUNED)
    command = [options.python, __file__, "--worker", json.dumps(shape)]
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"PyTorch failed on {row}:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def worker(shape):
    """Trains in this process and prints the median speed of the counted steps."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.set_num_threads(shape["threads"])
    torch.manual_seed(1)
    width, heads, context, vocab = shape["width"], shape["heads"], shape["context"], shape["vocab"]

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
            self.positions = nn.Embedding(context, width)
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
            x = self.tokens(inputs) + self.positions.weight
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
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=shape["precision"] == "bf16"):
            loss = model(text[:, :-1].contiguous(), text[:, 1:].contiguous())
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[shape["skip"]:])
    print(json.dumps({
        "tokens_per_second": shape["batch"] * context / median,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "loss": loss.item(),
        "version": torch.__version__,
    }))


def shape_of(options, row, vocab):
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
        "context": int(config["model.context"]),
        "mlp_width": int(config.get("model.mlp_width", 4 * width)),
        "batch": int(config["train.batch"]),
        "attention_bias": flag("model.attention_bias", "false"),
        "mlp_bias": flag("model.mlp_bias", "false"),
        "norm_bias": flag("model.norm_bias", "false"),
        "tied_embeddings": flag("model.tied_embeddings", "true"),
        "vocab": vocab,
        "precision": options.precision,
        "threads": options.threads,
        "steps": ROWS[row][0],
        "skip": ROWS[row][1],
    }


def compare(options, row, corpus, folder):
    plan = run_quern(options, row, ["--dry-run", *quern_overrides(options, row, corpus, folder)])
    vocab = re.search(r"vocabulary (\d+)", plan)
    parameters = re.search(r"parameters\s+(\d+)", plan)
    if not vocab or not parameters:
        sys.exit(f"`quern train --dry-run` printed no vocabulary or parameter count:\n{plan}")
    shape = shape_of(options, row, int(vocab[1]))
    ours, theirs = [], []
    for number in range(options.rounds):
        ours.append(quern_round(options, row, corpus, folder))
        theirs.append(pytorch_round(options, row, shape))
        if theirs[-1]["parameters"] != int(parameters[1]):
            sys.exit(f"{row}: PyTorch's model has {theirs[-1]['parameters']} parameters, ours {parameters[1]}")
        print(f"{row} round {number + 1}: Quern {ours[-1]['tokens_per_second']:.0f} tokens/s, "
              f"PyTorch {theirs[-1]['tokens_per_second']:.0f}", file=sys.stderr)

    def speeds(rounds):
        values = [one["tokens_per_second"] for one in rounds]
        return {"median": statistics.median(values), "min": min(values), "max": max(values)}

    flop = ours[0]["flop_per_token"]
    peak = statistics.median(one["peak_flops"] for one in ours)
    result = {
        "row": row,
        "precision": options.precision,
        "threads": options.threads,
        "rounds": options.rounds,
        "tokens_per_step": shape["batch"] * shape["context"],
        "parameters": int(parameters[1]),
        "flop_per_token": flop,
        "peak_gflops": peak * 1e-9,
        "quern": speeds(ours),
        "pytorch": speeds(theirs),
        "pytorch_version": theirs[0]["version"],
        "pytorch_tuned": not options.untuned,
    }
    for side in ("quern", "pytorch"):
        result[side]["peak_fraction"] = result[side]["median"] * flop / peak
    result["ratio"] = result["quern"]["median"] / result["pytorch"]["median"]
    return result


def cell(side):
    return (f"{side['median']:,.0f} [{side['min']:,.0f}–{side['max']:,.0f}], {100 * side['peak_fraction']:.1f} %")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS), help=f"comma-separated, of {', '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=("bf16", "f32"), default="bf16")
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

    results = []
    with tempfile.TemporaryDirectory(prefix="quern-compare-") as folder:
        folder = Path(folder)
        corpora = make_corpora(options, folder)
        for row in options.rows:
            results.append(compare(options, row, corpora[row], folder))
    first = results[0]
    print(f"\n{first['precision']}, {first['threads']} threads, {first['rounds']} rounds; tokens/s: median [min–max], share of "
          f"the measured register peak; PyTorch {first['pytorch_version']} {'tuned' if first['pytorch_tuned'] else 'as shipped'}\n")
    print("| run | tokens per step | peak GFLOP/s | Quern | PyTorch | ratio |\n|---|---|---|---|---|---|")
    for one in results:
        print(f"| {one['row']} | {one['tokens_per_step']} | {one['peak_gflops']:.0f} | {cell(one['quern'])} "
              f"| {cell(one['pytorch'])} | {one['ratio']:.2f} |")
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2) + "\n")
    return None


if __name__ == "__main__":
    main()
