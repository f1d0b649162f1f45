// quern bench infer as a user runs it: tables, JSON that adds up, interrupts, mistakes; and interrupts of quern bench train.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "support/published_models.hpp"
#include "tools/run_quern.hpp"
#include "tools/tiny_run.hpp"

namespace quern {
namespace {

class CliBenchInfer : public WithTinyRun {
 protected:
  static nlohmann::json bench_json(const std::string& arguments) {
    const ProgramResult result = run_quern("bench infer " + arguments + " --json");
    EXPECT_EQ(result.code, 0) << result.err;
    auto json = nlohmann::json::parse(result.out, nullptr, false);
    EXPECT_TRUE(json.is_object()) << result.out;
    return json;
  }
};

TEST_F(CliBenchInfer, FiguresAddUp) {
  const auto json =
      bench_json(model() + " --prompt 16 --depth 20 --sequences 1,3 --decode 6 --warmup 1 --rounds 3 --threads 2" +
                 " --precision f32 --kv-type f16 --batch 8");
  EXPECT_EQ(json["model"], model());
  EXPECT_EQ(json["architecture"], "checkpoint");
  EXPECT_EQ(json["threads"], 2);
  EXPECT_EQ(json["compute"], "f32");
  EXPECT_EQ(json["kv_type"], "f16");
  EXPECT_EQ(json["batch"], 8);
  EXPECT_EQ(json["context"], 26);
  EXPECT_EQ(json["rounds"], 3);
  EXPECT_EQ(json["warmup"], 1);
  EXPECT_EQ(json["interrupted"], false);
  EXPECT_GT(json["peak_memory_bytes"], 1 << 20);
  const double bytes = json["weight_bytes_per_token"].get<double>();
  EXPECT_GT(bytes, 0.0);
  ASSERT_EQ(json["rows"].size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    const auto& row = json["rows"][i];
    SCOPED_TRACE(row.dump());
    const bool decode = i >= 1;
    EXPECT_EQ(row["kind"], decode ? "decode" : "prefill");
    ASSERT_EQ(row["rounds"].size(), 3U);
    const double tokens = row["tokens"].get<double>(), steps = row["steps"].get<double>();
    std::vector<double> rates, shares;
    for (const auto& round : row["rounds"]) {
      rates.push_back(tokens / round["seconds"].get<double>());
      EXPECT_NEAR(round["tokens_per_second"].get<double>(), rates.back(), 1e-9 * rates.back());
      if (!decode) continue;
      const double step_bytes = row["weight_bytes_per_step"].get<double>() + row["kv_bytes_per_step"].get<double>();
      shares.push_back(step_bytes * steps / round["seconds"].get<double>() /
                       round["machine"]["memory_bytes_per_second"].get<double>());
    }
    std::sort(rates.begin(), rates.end());
    EXPECT_NEAR(row["tokens_per_second"].get<double>(), rates[1], 1e-9 * rates[1]);
    EXPECT_NEAR(row["tokens_per_second_min"].get<double>(), rates[0], 1e-9 * rates[0]);
    EXPECT_NEAR(row["tokens_per_second_max"].get<double>(), rates[2], 1e-9 * rates[2]);
    EXPECT_NEAR(row["tokens_per_second_summary"]["median"].get<double>(), rates[1], 1e-9 * rates[1]);
    EXPECT_NEAR(row["flops_per_second"].get<double>(), row["flops"].get<double>() * rates[1] / tokens, 1e-3 * rates[1]);
    if (!decode) continue;
    EXPECT_EQ(row["depth"], 20);
    EXPECT_EQ(row["sequences"], i == 1 ? 1 : 3);
    EXPECT_EQ(steps, 6.0);
    EXPECT_EQ(tokens, i == 1 ? 6.0 : 18.0);
    if (i == 1) {
      EXPECT_EQ(row["weight_bytes_per_step"], bytes);
    }
    // 2 layers, keys and values, one head of 32 elements of 2 bytes, 21 to 26 positions.
    EXPECT_EQ(row["kv_bytes_per_step"].get<double>(), (i == 1 ? 1 : 3) * 2 * 2 * 32 * 2 * 23.5);
    std::sort(shares.begin(), shares.end());
    EXPECT_NEAR(row["memory_share"].get<double>(), shares[1], 1e-9);
  }
}

TEST_F(CliBenchInfer, TablesOfAPublishedModel) {
  const auto models = published_models();
  const auto gpt_oss = std::find_if(models.begin(), models.end(), [](const auto& m) { return m.architecture == "gpt-oss"; });
  ASSERT_NE(gpt_oss, models.end());
  const std::vector<std::byte> image = published_model_image(*gpt_oss, true);
  const std::string path =
      folder().write("gpt-oss.gguf", std::string(reinterpret_cast<const char*>(image.data()), image.size()));
  const ProgramResult result = run_quern("bench infer " + path + " --prompt 9 --decode 5 --depth 12 --rounds 1 --warmup 0");
  ASSERT_EQ(result.code, 0) << result.err;
  for (const char* part : {"gpt-oss.gguf: gpt-oss, ", "KV cache f32", "0 to warm up and 1 that count",
                           "| prefill | tokens/s |", "| 9 | ", "| depth | sequences |", "| 12 | 1 | "}) {
    EXPECT_TRUE(contains(result.out, part)) << part << "\n" << result.out;
  }
  EXPECT_EQ(std::count(result.out.begin(), result.out.end(), '['), 1) << "one round has no range\n" << result.out;
  const ProgramResult decode = run_quern("bench infer " + path + " --prompt 0 --decode 5 --rounds 2 --warmup 0");
  EXPECT_FALSE(contains(decode.out, "| prefill |")) << decode.out;
  EXPECT_EQ(std::count(decode.out.begin(), decode.out.end(), '['), 2) << decode.out;
  const ProgramResult prefill = run_quern("bench infer " + path + " --prompt 9 --decode 0 --rounds 1 --warmup 0");
  EXPECT_FALSE(contains(prefill.out, "| depth |")) << prefill.out;
  const ProgramResult csv =
      run_quern("bench infer " + path + " --prompt 9 --decode 2 --depth 3 --rounds 6 --warmup 0 --csv");
  ASSERT_EQ(csv.code, 0) << csv.err;
  EXPECT_EQ(csv.out.rfind("kind,prompt,depth,sequences,rounds,tokens_per_second,low,high,coverage,spread,", 0), 0U)
      << csv.out;
  EXPECT_TRUE(contains(csv.out, "\nprefill,9,,1,6,")) << csv.out;
  EXPECT_TRUE(contains(csv.out, "\ndecode,,3,1,6,")) << csv.out;
  EXPECT_EQ(std::count(csv.out.begin(), csv.out.end(), '\n'), 3) << csv.out;
}

TEST_F(CliBenchInfer, AShapeNeedsNoFile) {
  const std::string shape = "--shape TinyLlama-1.1B --type q2_k_s --prompt 0 --decode 2 --rounds 1 --warmup 0 ";
  const auto json = bench_json(shape + "--seed 5");
  EXPECT_EQ(json["model"], "tinyllama-1.1b");
  EXPECT_EQ(json["architecture"], "llama");
  EXPECT_EQ(json["random_weights"]["type"], "Q2_K_S");
  EXPECT_EQ(json["random_weights"]["seed"], 5);
  // 22 layers of k, v [2048 -> 256], q, o [2048 -> 2048], gate, up, down [2048, 5632], in 84 bytes for 256 elements, but v
  // in Q4_K (144) as in models with grouped heads, and the first two downs; embedding Q2_K, head Q6_K; 45 norms.
  const double small = 22.0 * (2.0 * 2048 * 2048 + 256 * 2048 + 3.0 * 2048 * 5632) + 32000.0 * 2048;
  const double middle = 22.0 * 256 * 2048, moved = 2.0 * 2048 * 5632;
  EXPECT_EQ(json["weight_bytes"].get<double>(),
            (small - moved) / 256 * 84 + (middle + moved) / 256 * 144 + 32000.0 * 2048 / 256 * 210 + 45 * 2048.0 * 4);
  ASSERT_EQ(json["rows"].size(), 1U);
  EXPECT_GT(json["rows"][0]["tokens_per_second"], 0.0);
  const ProgramResult table = run_quern("bench infer " + shape + "--threads 1 --huge-pages");
  ASSERT_EQ(table.code, 0) << table.err;
  for (const char* part :
       {"tinyllama-1.1b: llama, ", ", made in ", "Random weights in Q2_K_S with seed 1337, ", "| 0 | 1 | "}) {
    EXPECT_TRUE(contains(table.out, part)) << part << "\n" << table.out;
  }
}

TEST_F(CliBenchInfer, ShapesThatCannotBeMadeGetASentence) {
  expect_refused("bench infer", "expected a MODEL or a --shape, found neither");
  expect_refused("bench infer " + model() + " --shape llama2-7b --type q8_0", "found both: `" + model());
  expect_refused("bench infer " + model() + " --type q8_0", "--type is for --shape");
  expect_refused("bench infer " + model() + " --huge-pages", "--huge-pages is for --shape");
  expect_refused("bench infer --shape llama9-1b --type q8_0", "there is no `llama9-1b`; there are tinyllama-1.1b, ");
  expect_refused("bench infer --shape llama2-7b", "--shape llama2-7b: expected a --type too, usual are Q4_0, Q4_K_M");
  expect_refused("bench infer --shape llama2-7b --type q9", "--type: unknown type 'q9'; there are Q2_K_S, ");
  expect_refused("bench infer --shape llama2-7b --type q8_0 --precision bf16", "precision bf16 is for checkpoints");
  // A cache for 16 million sequences of 2 GB each is more than any machine has.
  expect_refused("bench infer --shape llama2-7b --type q2_k --depth 4096 --sequences 16000000", "llama2-7b in Q2_K needs ");
}

TEST_F(CliBenchInfer, AnInterruptKeepsWhatWasMeasured) {
  const std::string line = "timeout --foreground --preserve-status -s INT 2 " QUERN_BINARY " bench infer " + model() +
                           " --prompt 16 --decode 4 --rounds 10000 --warmup 0";
  const ProgramResult text = run_shell(line);
  EXPECT_EQ(text.code, 130) << text.err;
  EXPECT_TRUE(contains(text.out, "| 16 | ")) << text.out;
  EXPECT_TRUE(contains(text.err, "quern: interrupted with 0 of 2 rows complete")) << text.err;
  const ProgramResult result = run_shell(line + " --json");
  EXPECT_EQ(result.code, 130) << result.err;
  const auto json = nlohmann::json::parse(result.out, nullptr, false);
  ASSERT_TRUE(json.is_object()) << result.out;
  EXPECT_EQ(json["interrupted"], true);
  ASSERT_EQ(json["rows"].size(), 1U);
  EXPECT_GE(json["rows"][0]["rounds"].size(), 1U);
}

TEST_F(CliBenchInfer, AnInterruptOfTrainingKeepsWhatWasMeasured) {
  const std::string yaml =
      folder().write("bench.yaml", "run: {dir: " + folder().file("nowhere") +
                                       "}\ndata: {corpus: nowhere.h5}\n"
                                       "model: {vocab: 50, layers: 1, width: 32, heads: 2, context: 16}\n"
                                       "train: {batch: 1}\nsystem: {threads: 1}\n");
  const std::string line = "timeout --foreground --preserve-status -s INT 2 " QUERN_BINARY " bench train " + yaml +
                           " --rounds 10000 --steps 1 --sweep train.batch=1,2";
  const ProgramResult result = run_shell(line + " --json");
  EXPECT_EQ(result.code, 130) << result.err;
  const auto json = nlohmann::json::parse(result.out, nullptr, false);
  ASSERT_TRUE(json.is_array()) << result.out;
  EXPECT_TRUE(contains(result.err, "quern: interrupted with 1 of 2 rows measured")) << result.err;
  ASSERT_EQ(json.size(), 1U);
  EXPECT_GE(json[0]["tokens_per_second_of_rounds"].size(), 1U);
}

TEST_F(CliBenchInfer, WhatIsSwitchedOffIsSaidAndCounted) {
  const auto cached = bench_json(model() + " --prompt 16 --decode 4 --depth 12 --rounds 1");
  const auto off = bench_json(model() + " --prompt 16 --decode 4 --depth 12 --rounds 1 --no-fused --no-arena --no-kv-cache");
  for (const char* key : {"fused", "arena", "kv_cache"}) {
    EXPECT_EQ(cached[key], true) << key;
    EXPECT_EQ(off[key], false) << key;
  }
  EXPECT_EQ(off["rows"][0]["flops"], cached["rows"][0]["flops"]) << "a prompt is computed once either way";
  // 13 to 16 tokens a step, not one: head and attention aside that is 14.5 times the work, in one chunk each.
  const double ratio = off["rows"][1]["flops"].get<double>() / cached["rows"][1]["flops"].get<double>();
  EXPECT_GT(ratio, 5.0);
  EXPECT_LT(ratio, 14.5);
  EXPECT_EQ(off["rows"][1]["kv_bytes_per_step"], 0.0);
  EXPECT_GT(off["rows"][1]["weight_bytes_per_step"].get<double>(), cached["rows"][1]["weight_bytes_per_step"].get<double>());
  const ProgramResult table = run_quern("bench infer " + model() + " --prompt 16 --decode 1 --rounds 1 --no-kv-cache");
  EXPECT_TRUE(contains(table.out, "Switched off: no KV cache")) << table.out;
}

TEST_F(CliBenchInfer, MistakesGetASentence) {
  const std::string start = "bench infer " + model() + " ";
  expect_refused("bench infer " + folder().file("absent.gguf"), "absent.gguf");
  expect_refused(start + "--prompt 16,x", "--prompt: expected numbers as in 512,2048, found `16,x`");
  expect_refused(start + "--prompt 16,", "--prompt");
  expect_refused(start + "--prompt 16,0", "length of a prompt: expected 1 to");
  expect_refused(start + "--prompt 99999999999999999999", "--prompt");
  expect_refused(start + "--depth -1", "depth");
  expect_refused(start + "--sequences 0", "sequences");
  expect_refused(start + "--prompt 0 --decode 0", "nothing to measure");
  expect_refused(start + "--prompt 64 --context 32", "--context: 32 tokens, but the longest row has 64");
  expect_refused(start + "--kv-type q9", "q9");
  EXPECT_EQ(run_quern(start + "--rounds 0").code, 2);
  const ProgramResult large = run_quern(start + "--prompt 8 --depth 8 --sequences 16000000");
  EXPECT_NE(large.code, 0) << "no machine has that much memory";
  EXPECT_EQ(std::count(large.err.begin(), large.err.end(), '\n'), 1) << large.err;
}

}  // namespace
}  // namespace quern
