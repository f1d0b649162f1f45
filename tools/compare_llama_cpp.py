#!/usr/bin/env python3
"""Inference speed beside llama.cpp: the same GGUF files, on the same machine, in turns.

    mkdir peer && (cd peer && npm init -y && npm install --ignore-scripts node-llama-cpp)
    tools/compare_llama_cpp.py --peer peer [--ik LLAMA_BENCH] MODEL.gguf... [--prompt 512] [--decode 24] [--rounds 3] [--json OUT]

llama.cpp is the build inside the npm package node-llama-cpp, which picks its own kernels for this processor; ik_llama.cpp, if its
llama-bench is given, takes part as a third (with fused experts). A round is one process of each, who goes
first changes; each warms up before it measures. Prefill computes a prompt of --prompt tokens (batches of 512 on all sides);
decode then computes --decode tokens, one by one, after that prompt (in Quern after --depth tokens, if that is given). Prompts
are random, and so are the tokens that Quern and ik_llama.cpp decode; llama.cpp decodes the likeliest ones. KV caches are f16 on
all sides. A model counts with the median of its rounds. Shares of memory are the bytes that a decoded token reads (matrices,
keys and values) times the rate, over the memory bandwidth that Quern measured in the same round.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = {"llama_cpp": "llama.cpp", "ik_llama_cpp": "ik_llama.cpp"}

# Reads its settings from the environment, prints one JSON object.
PEER = """
import {getLlama} from "node-llama-cpp";

const {path, prompt, decode, threads, flash} = JSON.parse(process.env.COMPARE_SETTINGS);
const now = () => performance.now() / 1000;
const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
const model = await llama.loadModel({modelPath: path, useMmap: true});
const context = await model.createContext(
    {contextSize: prompt + decode + 16, batchSize: 512, threads, flashAttention: flash});
const sequence = context.getSequence();

// Ids from the middle of the vocabulary: its first ones may be control tokens.
let state = 1337;
const vocabulary = model.trainContextSize ? [...model.iterateAllTokens()].length : 0;
const draw = () => {
  state = (state * 1103515245 + 12345) % 2147483648;
  return 300 + Math.floor(state / 2147483648 * (vocabulary - 600));
};

async function measure(promptTokens, decodeTokens) {
  await sequence.clearHistory();
  const prefillStart = now();
  await sequence.evaluateWithoutGeneratingNewTokens(Array.from({length: promptTokens}, draw));
  const prefill = promptTokens / (now() - prefillStart);
  if (decodeTokens === 0) return {prefill, decode: null};
  // The first token's step is not counted: what starts a generation is no step of it.
  let start = null, tokens = 0;
  for await (const _ of sequence.evaluate([draw()], {temperature: 0, yieldEogToken: true})) {
    if (start === null) start = now();
    else if (++tokens === decodeTokens) break;
  }
  return {prefill, decode: tokens / (now() - start)};
}

await measure(Math.min(prompt, 64), Math.min(decode, 2));
const result = await measure(prompt, decode);
console.log(JSON.stringify({...result, cpu: llama.systemInfo}));
process.exit(0);
"""


def run(command, what, **settings):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, **settings)
    if done.returncode != 0:
        sys.exit(f"{what} failed: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def quern_round(options, model):
    command = [*options.wrap, options.quern, "bench", "infer", model, "--json", "--warmup", "1", "--rounds", "1", "--prompt",
               str(options.prompt), "--decode", str(options.decode), "--depth", str(options.depth), "--threads",
               str(options.threads), "--kv-type", options.kv_type]
    return json.loads(run(command, "Quern"))


def peer_round(options, model):
    settings = {"path": str(model), "prompt": options.prompt, "decode": options.decode, "threads": options.threads,
                "flash": options.flash}
    environment = dict(os.environ, COMPARE_SETTINGS=json.dumps(settings))
    # The import is looked for from the script's folder upwards.
    with tempfile.NamedTemporaryFile("w", dir=options.peer, prefix="compare_", suffix=".mjs") as script:
        script.write(PEER)
        script.flush()
        output = run([*options.wrap, options.node, script.name], "llama.cpp", env=environment)
    return json.loads(output.splitlines()[-1])


def ik_round(options, model):
    """llama-bench's two rows: a prompt alone, and tokens generated after one."""
    output = run([*options.wrap, options.ik, "-m", model, "-p", str(options.prompt), "-n", "0", "-gp",
                  f"{options.prompt},{options.decode}", "-t", str(options.threads), "-r", "1", "-fa", str(int(options.flash)),
                  "-fmoe", "1", "-o", "json"], "ik_llama.cpp")
    if "[" not in output:
        sys.exit(f"ik_llama.cpp: expected llama-bench's JSON, found:\n{output}")
    rows = json.loads(output[output.index("["):])
    return {"prefill": next(row["avg_ts"] for row in rows if row["n_gen"] == 0),
            "decode": next(row["avg_ts"] for row in rows if row["n_gen"] > 0)}


def side(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": values}


def compare(options, model):
    measure = {"quern": quern_round, "llama_cpp": peer_round} | ({"ik_llama_cpp": ik_round} if options.ik else {})
    rounds = {name: [] for name in measure}
    for number in range(options.rounds):
        for turn in range(len(measure)):
            name = list(measure)[(turn + number) % len(measure)]
            rounds[name].append(measure[name](options, model))
        rows = rounds["quern"][-1]["rows"]
        told = [f"Quern {rows[0]['tokens_per_second']:.2f} and {rows[1]['tokens_per_second']:.2f} tokens/s"]
        told += [f"{PEERS[name]} {rounds[name][-1]['prefill']:.2f} and {rounds[name][-1]['decode']:.2f}" for name in PEERS
                 if name in rounds]
        print(f"{model.name} round {number + 1}: {', '.join(told)}", file=sys.stderr)
    ours = rounds["quern"]
    prefill, decode = ([one["rows"][row] for one in ours] for row in (0, 1))
    bandwidth = [row["machine"]["memory_bytes_per_second"] for row in decode]
    step_bytes = decode[0]["weight_bytes_per_step"] + decode[0]["kv_bytes_per_step"]
    result = {
        "model": model.name,
        "isa": ours[0]["isa"],
        "threads": options.threads,
        "rounds": options.rounds,
        "prompt": options.prompt,
        "decode": options.decode,
        "depth": options.depth,
        "llama_cpp": options.version,
        "bytes_per_step": step_bytes,
        "memory_bytes_per_second": side(bandwidth),
        "quern_prefill": side([row["tokens_per_second"] for row in prefill]),
        "quern_decode": side([row["tokens_per_second"] for row in decode]),
        "quern_memory_share": statistics.median(row["memory_share"] for row in decode),
        "quern_tile_share": statistics.median(row["bf16_tile_share"] for row in prefill),
        "quern_runs": ours,
    }
    peers = [name for name in PEERS if name in rounds]
    for name in peers:
        for phase in ("prefill", "decode"):
            result[f"{name}_{phase}"] = side([one[phase] for one in rounds[name]])
        result[f"{name}_memory_share"] = statistics.median(
            one["decode"] * step_bytes / rate for one, rate in zip(rounds[name], bandwidth))
    for phase in ("prefill", "decode"):
        result[f"{phase}_ratio"] = result[f"quern_{phase}"]["median"] / max(result[f"{n}_{phase}"]["median"] for n in peers)
    return result


def speed(one):
    digits = 2 if one["median"] < 100 else 0
    if len(one["rounds"]) == 1:
        return f"{one['median']:.{digits}f}"
    return f"{one['median']:.{digits}f} [{one['min']:.{digits}f}–{one['max']:.{digits}f}]"


def print_tables(results):
    first = results[0]
    peers = {name: title for name, title in PEERS.items() if f"{name}_decode" in first}
    print(f"\n{first['threads']} threads, {first['rounds']} round{'' if first['rounds'] == 1 else 's'} in turns, medians "
          f"[slowest–fastest]; Quern on {first['isa']}, llama.cpp of node-llama-cpp {first['llama_cpp']}; ratio to the faster "
          "other\n")
    names = "".join(f" {title} tokens/s |" for title in peers.values())
    print(f"| prefill {first['prompt']} | Quern tokens/s |{names} ratio | of bf16 tiles |\n|{'---|' * (4 + len(peers))}")
    for one in results:
        tiles = f"{100 * one['quern_tile_share']:.1f} %" if one["quern_tile_share"] else "-"
        theirs = "".join(f" {speed(one[f'{name}_prefill'])} |" for name in peers)
        print(f"| {one['model']} | {speed(one['quern_prefill'])} |{theirs} {one['prefill_ratio']:.2f} | {tiles} |")
    shares = "".join(f" {title} |" for title in peers.values())
    print(f"\n| decode {first['decode']} at {first['depth']} | Quern tokens/s |{names} ratio | GB a token | memory GB/s "
          f"| of it: Quern |{shares}\n|{'---|' * (6 + 2 * len(peers))}")
    for one in results:
        theirs = "".join(f" {speed(one[f'{name}_decode'])} |" for name in peers)
        shares = "".join(f" {100 * one[f'{name}_memory_share']:.0f} % |" for name in peers)
        print(f"| {one['model']} | {speed(one['quern_decode'])} |{theirs} {one['decode_ratio']:.2f} "
              f"| {one['bytes_per_step'] * 1e-9:.3f} | {one['memory_bytes_per_second']['median'] * 1e-9:.1f} "
              f"| {100 * one['quern_memory_share']:.0f} % |{shares}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="GGUF files")
    parser.add_argument("--peer", type=Path, default=ROOT / "build/peer", help="the folder with node_modules/node-llama-cpp")
    parser.add_argument("--ik", metavar="LLAMA_BENCH", help="ik_llama.cpp's llama-bench, as a third")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--decode", type=int, default=24)
    parser.add_argument("--depth", type=int, help="tokens before Quern's decoded ones; default: --prompt, as in llama.cpp")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--kv-type", default="f16", help="of Quern's cache; default: f16, as llama.cpp's is")
    parser.add_argument("--flash", action="store_true", help="the others' flash attention")
    parser.add_argument("--quern", default=str(ROOT / "build/release/tools/quern"), help="the program to measure")
    parser.add_argument("--node", default=shutil.which("node"), help="Node.js 20 or newer")
    parser.add_argument("--wrap", default="", help="words in front of every measured process, such as 'taskset -c 0,1'")
    parser.add_argument("--json", metavar="OUT", help="also write every figure to this file")
    options = parser.parse_args()
    if min(options.prompt, options.decode, options.rounds, options.threads) < 1:
        parser.error("--prompt, --decode, --rounds and --threads must be at least 1")
    if options.depth is None:
        options.depth = options.prompt
    options.wrap = options.wrap.split()
    if not Path(options.quern).exists():
        parser.error(f"{options.quern} is not there; tools/quickstart.sh or cmake --build --preset release makes it")
    options.quern = str(Path(options.quern).resolve())
    if options.ik and not Path(options.ik).is_file():
        parser.error(f"--ik: {options.ik}: no such file")
    if not options.node or not shutil.which(options.node):
        parser.error("Node.js is missing: apt-get install nodejs npm")
    package = options.peer / "node_modules/node-llama-cpp/package.json"
    if not package.exists():
        parser.error(f"{package} is not there; mkdir -p {options.peer} && cd {options.peer} && npm init -y && "
                     "npm install --ignore-scripts node-llama-cpp makes it")
    options.version = json.loads(package.read_text())["version"]
    options.models = [model.resolve() for model in options.models]
    if missing := [model for model in options.models if not model.is_file()]:
        parser.error(f"{missing[0]}: no such file")

    results = [compare(options, model) for model in options.models]
    print_tables(results)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
