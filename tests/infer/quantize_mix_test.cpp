// Which tensor gets which type: the mixes against tables written out by hand, overrides, fallbacks.
#include "infer/quantize_mix.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "math/block_formats.hpp"
#include "math/quantize.hpp"
#include "support/gguf_builder.hpp"

namespace quern {
namespace {

constexpr std::uint32_t kIdF32 = 0, kIdF16 = 1, kIdQ8_0 = 8, kIdI32 = 26;

struct Shape {
  std::int64_t layers = 32, cols = 256, heads = 8, kv_heads = 8, experts = 0;
  bool tied = false, fused = false;
  std::uint32_t type = kIdF16;
};

// A llama-like file whose matrices have two rows.
std::vector<std::byte> image_of(const Shape& shape) {
  GgufBuilder builder;
  builder.text("general.architecture", "llama").u32("llama.block_count", static_cast<std::uint32_t>(shape.layers));
  builder.u32("llama.attention.head_count", static_cast<std::uint32_t>(shape.heads));
  builder.u32("llama.attention.head_count_kv", static_cast<std::uint32_t>(shape.kv_heads));
  if (shape.experts > 0) builder.u32("llama.expert_count", static_cast<std::uint32_t>(shape.experts));
  const auto matrix = [&](const std::string& name, std::int64_t matrices = 1) {
    const std::int64_t elements = shape.cols * 2 * matrices;
    const std::int64_t bytes = shape.type == kIdF16    ? elements * 2
                               : shape.type == kIdQ8_0 ? elements / 32 * 34
                                                       : elements * 4;
    std::vector<std::int64_t> sizes{shape.cols, 2};
    if (matrices > 1) sizes.push_back(matrices);
    builder.tensor(name, shape.type, sizes, std::string(static_cast<std::size_t>(bytes), '\0'));
  };
  const auto vector = [&](const std::string& name) { builder.tensor(name, kIdF32, {4}, std::string(16, '\0')); };
  matrix("token_embd.weight");
  for (std::int64_t layer = 0; layer < shape.layers; ++layer) {
    const std::string at = "blk." + std::to_string(layer) + ".";
    vector(at + "attn_norm.weight");
    if (shape.fused) {
      matrix(at + "attn_qkv.weight");
    } else {
      for (const char* name : {"attn_q", "attn_k", "attn_v"}) matrix(at + name + ".weight");
    }
    matrix(at + "attn_output.weight");
    if (shape.experts > 0) {
      matrix(at + "ffn_gate_inp.weight");
      for (const char* name : {"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"})
        matrix(at + name + ".weight", shape.experts);
    } else {
      for (const char* name : {"ffn_gate", "ffn_up", "ffn_down"}) matrix(at + name + ".weight");
    }
  }
  vector("output_norm.weight");
  if (!shape.tied) matrix("output.weight");
  return builder.build();
}

using Types = std::map<std::string, std::string, std::less<>>;

Result<std::vector<TensorChoice>> choose(const Shape& shape, const MixOptions& options) {
  static std::vector<std::vector<std::byte>> images;  // names and tensors of results point into them
  static std::vector<GgufFile> files;
  images.push_back(image_of(shape));
  auto file = GgufFile::parse(images.back(), "image");
  EXPECT_TRUE(file) << file.error().message;
  files.push_back(std::move(*file));
  return choose_types(files.back(), options);
}

Types types_of(const Shape& shape, const MixOptions& options) {
  const auto choices = choose(shape, options);
  EXPECT_TRUE(choices) << choices.error().message;
  Types types;
  for (const TensorChoice& choice : *choices) {
    types.emplace(choice.tensor->name, block_format(choice.type).name);
    EXPECT_EQ(choice.quantize, choice.type != choice.tensor->type);
  }
  return types;
}

Types types_of(const Shape& shape, const std::string& mix, bool has_importance = false) {
  return types_of(shape, MixOptions{.mix = mix, .has_importance = has_importance});
}

/// Of one kind of tensor in all layers: runs of equal types, "Q6_K*4 Q4_K*2 ...".
std::string runs(const Types& types, const std::string& kind, std::int64_t layers) {
  std::string text, last;
  int count = 0;
  const auto end = [&] {
    if (count > 0) text += (text.empty() ? "" : " ") + last + "*" + std::to_string(count);
    count = 0;
  };
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    const auto at = types.find("blk." + std::to_string(layer) + "." + kind + ".weight");
    if (at == types.end()) return "absent";
    if (at->second != last) end();
    last = at->second;
    ++count;
  }
  end();
  return text;
}

std::string everywhere(const std::string& type) { return type + "*32"; }

const std::string kMoreQ6OverQ4 =
    "Q6_K*4 Q4_K*2 Q6_K*1 Q4_K*2 Q6_K*1 Q4_K*2 Q6_K*1 Q4_K*2 Q6_K*1 Q4_K*2 Q6_K*1 Q4_K*2 Q6_K*1 Q4_K*2 Q6_K*1 Q4_K*2 Q6_K*5";
const std::string kMoreQ6OverQ5 =
    "Q6_K*4 Q5_K*2 Q6_K*1 Q5_K*2 Q6_K*1 Q5_K*2 Q6_K*1 Q5_K*2 Q6_K*1 Q5_K*2 Q6_K*1 Q5_K*2 Q6_K*1 Q5_K*2 Q6_K*1 Q5_K*2 Q6_K*5";

struct Row {
  std::string mix, type, attn_v, attn_output, ffn_down, output;
};

// 32 layers, as many key-value heads as heads, no importance matrix; what is not named has the mix's type.
const std::vector<Row> kDense{
    {"Q2_K_S", "Q2_K", everywhere("Q2_K"), everywhere("Q2_K"), "Q4_K*4 Q2_K*28", "Q6_K"},
    {"Q2_K", "Q2_K", everywhere("Q3_K"), everywhere("Q3_K"), everywhere("Q3_K"), "Q6_K"},
    {"Q3_K_S", "Q3_K", everywhere("Q3_K"), everywhere("Q3_K"), everywhere("Q3_K"), "Q6_K"},
    {"Q3_K_M", "Q3_K", "Q5_K*2 Q4_K*30", everywhere("Q4_K"), "Q5_K*2 Q4_K*30", "Q6_K"},
    {"Q3_K_L", "Q3_K", everywhere("Q5_K"), everywhere("Q5_K"), everywhere("Q5_K"), "Q6_K"},
    {"Q4_0", "Q4_0", everywhere("Q4_0"), everywhere("Q4_0"), everywhere("Q4_0"), "Q6_K"},
    {"Q4_1", "Q4_1", everywhere("Q4_1"), everywhere("Q4_1"), everywhere("Q4_1"), "Q6_K"},
    {"Q4_K_S", "Q4_K", "Q5_K*4 Q4_K*28", everywhere("Q4_K"), "Q5_K*4 Q4_K*28", "Q6_K"},
    {"Q4_K_M", "Q4_K", kMoreQ6OverQ4, everywhere("Q4_K"), kMoreQ6OverQ4, "Q6_K"},
    {"Q5_0", "Q5_0", everywhere("Q5_0"), everywhere("Q5_0"), everywhere("Q5_0"), "Q6_K"},
    {"Q5_1", "Q5_1", everywhere("Q5_1"), everywhere("Q5_1"), everywhere("Q5_1"), "Q6_K"},
    {"Q5_K_S", "Q5_K", everywhere("Q5_K"), everywhere("Q5_K"), everywhere("Q5_K"), "Q6_K"},
    {"Q5_K_M", "Q5_K", kMoreQ6OverQ5, everywhere("Q5_K"), kMoreQ6OverQ5, "Q6_K"},
    {"Q6_K", "Q6_K", everywhere("Q6_K"), everywhere("Q6_K"), everywhere("Q6_K"), "Q6_K"},
    {"Q8_0", "Q8_0", everywhere("Q8_0"), everywhere("Q8_0"), everywhere("Q8_0"), "Q8_0"},
    {"IQ4_NL", "IQ4_NL", everywhere("IQ4_NL"), everywhere("IQ4_NL"), "Q5_K*4 IQ4_NL*28", "Q6_K"},
    {"IQ4_XS", "IQ4_XS", everywhere("IQ4_XS"), everywhere("IQ4_XS"), "Q5_K*4 IQ4_XS*28", "Q6_K"},
    {"MXFP4", "MXFP4", everywhere("MXFP4"), everywhere("MXFP4"), everywhere("MXFP4"), "Q6_K"},
    {"MXFP4_MOE", "Q8_0", everywhere("Q8_0"), everywhere("Q8_0"), everywhere("Q8_0"), "Q8_0"},
    {"F16", "F16", everywhere("F16"), everywhere("F16"), everywhere("F16"), "F16"},
    {"BF16", "BF16", everywhere("BF16"), everywhere("BF16"), everywhere("BF16"), "BF16"},
    {"F32", "F32", everywhere("F32"), everywhere("F32"), everywhere("F32"), "F32"},
};

TEST(QuantizeMixTest, DenseModelsHaveTheTablesTypes) {
  for (const Row& row : kDense) {
    const Types types = types_of({}, row.mix);
    EXPECT_EQ(types.at("token_embd.weight"), row.type) << row.mix;
    EXPECT_EQ(types.at("output.weight"), row.output) << row.mix;
    EXPECT_EQ(types.at("output_norm.weight"), "F32") << row.mix;
    EXPECT_EQ(types.at("blk.3.attn_norm.weight"), "F32") << row.mix;
    for (const char* kind : {"attn_q", "attn_k", "ffn_gate", "ffn_up"}) {
      EXPECT_EQ(runs(types, kind, 32), everywhere(row.type)) << row.mix << " " << kind;
    }
    EXPECT_EQ(runs(types, "attn_v", 32), row.attn_v) << row.mix;
    EXPECT_EQ(runs(types, "attn_output", 32), row.attn_output) << row.mix;
    EXPECT_EQ(runs(types, "ffn_down", 32), row.ffn_down) << row.mix;
    // Tied: the embedding is the head.
    EXPECT_EQ(types_of({.layers = 1, .tied = true}, row.mix).at("token_embd.weight"), row.output) << row.mix;
    // A fused matrix counts as attn_v.
    EXPECT_EQ(runs(types_of({.fused = true}, row.mix), "attn_qkv", 32), row.attn_v) << row.mix;
  }
}

TEST(QuantizeMixTest, EveryMixIsInTheTableAndNamesGoInAnyCase) {
  const auto names = mix_names();
  EXPECT_EQ(names.size(), kDense.size());
  for (const Row& row : kDense) {
    EXPECT_NE(std::find(names.begin(), names.end(), row.mix), names.end()) << row.mix;
    EXPECT_TRUE(is_mix(row.mix));
    std::string lower = row.mix;
    for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    EXPECT_EQ(types_of({.layers = 1}, lower), types_of({.layers = 1}, row.mix)) << row.mix;
  }
  EXPECT_FALSE(is_mix("Q4_K"));
}

TEST(QuantizeMixTest, FileTypesAreLlamaCpps) {
  const std::map<std::string, std::uint32_t> expected{
      {"F32", 0},     {"F16", 1},     {"Q4_0", 2},    {"Q4_1", 3},      {"Q8_0", 7},    {"Q5_0", 8},
      {"Q5_1", 9},    {"Q2_K", 10},   {"Q3_K_S", 11}, {"Q3_K_M", 12},   {"Q3_K_L", 13}, {"Q4_K_S", 14},
      {"Q4_K_M", 15}, {"Q5_K_S", 16}, {"Q5_K_M", 17}, {"Q6_K", 18},     {"Q2_K_S", 21}, {"IQ4_NL", 25},
      {"IQ4_XS", 30}, {"BF16", 32},   {"MXFP4", 38},  {"MXFP4_MOE", 38}};
  for (const std::string_view name : mix_names()) EXPECT_EQ(mix_file_type(name), expected.at(std::string(name))) << name;
}

TEST(QuantizeMixTest, FourHeadsPerKeyValueHeadRaiseAttnV) {
  const Shape grouped{.heads = 8, .kv_heads = 2}, pairs{.heads = 8, .kv_heads = 4};
  for (const auto& [mix, raised, plain] :
       std::vector<std::tuple<std::string, std::string, std::string>>{{"Q2_K", "Q4_K", "Q3_K"},
                                                                      {"Q2_K_S", "Q4_K", "Q2_K"},
                                                                      {"IQ4_NL", "Q5_K", "IQ4_NL"},
                                                                      {"IQ4_XS", "Q5_K", "IQ4_XS"},
                                                                      {"Q3_K_S", "Q3_K", "Q3_K"},
                                                                      {"Q5_K_S", "Q5_K", "Q5_K"},
                                                                      {"Q4_0", "Q4_0", "Q4_0"}}) {
    EXPECT_EQ(runs(types_of(grouped, mix), "attn_v", 32), everywhere(raised)) << mix;
    EXPECT_EQ(runs(types_of(pairs, mix), "attn_v", 32), everywhere(plain)) << mix;
  }
}

TEST(QuantizeMixTest, ImportanceChangesTheFirstEighthOfFfnDown) {
  EXPECT_EQ(runs(types_of({}, "IQ4_XS", true), "ffn_down", 32), everywhere("IQ4_XS"));
  EXPECT_EQ(runs(types_of({}, "IQ4_NL", true), "ffn_down", 32), everywhere("IQ4_NL"));
  EXPECT_EQ(runs(types_of({}, "Q4_0", true), "ffn_down", 32), "Q4_1*4 Q4_0*28");
  EXPECT_EQ(runs(types_of({}, "Q5_0", true), "ffn_down", 32), "Q5_1*4 Q5_0*28");
  EXPECT_EQ(runs(types_of({}, "Q4_K_M", true), "ffn_down", 32), kMoreQ6OverQ4);
}

TEST(QuantizeMixTest, EightExpertsRaiseWhatTheyShare) {
  const Shape mixtral{.heads = 8, .kv_heads = 2, .experts = 8};
  const std::map<std::string, std::string> attn_output{
      {"Q2_K", "Q5_K"},   {"Q2_K_S", "Q2_K"}, {"Q3_K_S", "Q5_K"}, {"Q3_K_M", "Q5_K"}, {"Q3_K_L", "Q3_K"}, {"Q4_K_S", "Q5_K"},
      {"Q4_K_M", "Q5_K"}, {"Q5_K_M", "Q5_K"}, {"IQ4_NL", "Q5_K"}, {"IQ4_XS", "Q5_K"}, {"Q4_0", "Q4_0"},   {"Q6_K", "Q6_K"}};
  for (const auto& [mix, type] : attn_output) {
    const Types types = types_of(mixtral, mix);
    EXPECT_EQ(runs(types, "attn_k", 32), everywhere("Q8_0")) << mix;
    EXPECT_EQ(runs(types, "attn_v", 32), everywhere("Q8_0")) << mix;
    EXPECT_EQ(runs(types, "attn_output", 32), everywhere(type)) << mix;
    EXPECT_EQ(runs(types, "ffn_gate_inp", 32), everywhere("F16")) << "routers stay as they are: " << mix;
  }
  EXPECT_EQ(runs(types_of(mixtral, "Q4_K_M"), "ffn_down_exps", 32), kMoreQ6OverQ4);
  // Other numbers of experts are like dense models.
  const Types four = types_of({.heads = 8, .kv_heads = 2, .experts = 4}, "Q4_K_M");
  EXPECT_EQ(runs(four, "attn_k", 32), everywhere("Q4_K"));
  EXPECT_EQ(runs(four, "attn_v", 32), kMoreQ6OverQ4);
  EXPECT_EQ(runs(four, "attn_output", 32), everywhere("Q4_K"));
}

TEST(QuantizeMixTest, Mxfp4MoeTakesMxfp4ForExpertsOnly) {
  const Types types = types_of({.layers = 2, .experts = 4}, "MXFP4_MOE");
  for (const char* kind : {"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"}) EXPECT_EQ(runs(types, kind, 2), "MXFP4*2");
  for (const char* kind : {"attn_q", "attn_k", "attn_v", "attn_output"}) EXPECT_EQ(runs(types, kind, 2), "Q8_0*2");
  EXPECT_EQ(types.at("token_embd.weight"), "Q8_0");
  EXPECT_EQ(types.at("output.weight"), "Q8_0");
  const Types all = types_of({.layers = 2, .experts = 8}, "MXFP4");
  for (const char* kind : {"attn_k", "attn_v", "attn_output", "ffn_down_exps"}) EXPECT_EQ(runs(all, kind, 2), "MXFP4*2");
}

TEST(QuantizeMixTest, EightyLayersOfGroupedHeadsRaiseAttnV) {
  const auto attn_v = [](std::int64_t layers, std::int64_t kv_heads, const char* mix) {
    return runs(types_of({.layers = layers, .heads = 8, .kv_heads = kv_heads}, mix), "attn_v", layers);
  };
  EXPECT_EQ(attn_v(80, 1, "Q3_K_S"), "Q5_K*80");
  EXPECT_EQ(attn_v(80, 1, "Q4_K_S"), "Q5_K*80");
  EXPECT_EQ(attn_v(80, 1, "Q2_K"), "Q5_K*80");  // Q4_K at first
  EXPECT_EQ(attn_v(80, 8, "Q3_K_S"), "Q3_K*80");
  EXPECT_EQ(attn_v(79, 1, "Q3_K_S"), "Q3_K*79");
}

// Layers below 8 (or 16) have no first eighth (or sixteenth).
TEST(QuantizeMixTest, FewLayers) {
  EXPECT_EQ(runs(types_of({.layers = 3}, "Q4_K_M"), "ffn_down", 3), "Q4_K*2 Q6_K*1");
  EXPECT_EQ(runs(types_of({.layers = 7}, "Q4_K_S"), "ffn_down", 7), "Q4_K*7");
  EXPECT_EQ(runs(types_of({.layers = 15}, "Q3_K_M"), "ffn_down", 15), "Q4_K*15");
  EXPECT_EQ(runs(types_of({.layers = 9}, "Q4_K_M"), "attn_v", 9), "Q6_K*1 Q4_K*2 Q6_K*1 Q4_K*2 Q6_K*3");
}

TEST(QuantizeMixTest, RowsThatATypeDoesNotDivideGetTheFallback) {
  const std::map<std::string, std::string> expected{
      {"Q2_K", "Q4_0"},     {"Q3_K_S", "Q4_0"}, {"Q4_K_S", "Q5_0"}, {"Q5_K_S", "Q5_1"}, {"Q6_K", "Q8_0"},
      {"IQ4_XS", "IQ4_NL"}, {"Q4_0", "Q4_0"},   {"Q8_0", "Q8_0"},   {"MXFP4", "MXFP4"}, {"F16", "F16"}};
  for (const auto& [mix, type] : expected) {
    EXPECT_EQ(runs(types_of({.layers = 1, .cols = 288}, mix), "attn_q", 1), type + "*1") << mix;
    // The head: Q8_0 where the mix's type does not divide its rows; where it does, Q6_K, whose fallback is Q8_0 again.
    EXPECT_EQ(types_of({.layers = 1, .cols = 288}, mix).at("output.weight"), mix == "F16" ? "F16" : "Q8_0") << mix;
    EXPECT_EQ(runs(types_of({.layers = 1, .cols = 48}, mix), "attn_q", 1), "F16*1") << mix;
  }
  const auto choices = choose({.layers = 1, .cols = 288}, {.mix = "Q4_K_M"});
  ASSERT_TRUE(choices);
  EXPECT_EQ((*choices)[0].note, "rows of 288 are no multiple of 256: Q5_0 for Q4_K");
  EXPECT_EQ((*choices)[1].note, "");
  for (const ElementType type : {ElementType::q2_k, ElementType::q4_0, ElementType::f32, ElementType::iq4_xs}) {
    EXPECT_EQ(fallback_type(type, 512), type);
  }
  EXPECT_EQ(fallback_type(ElementType::q4_0, 40), ElementType::f16);
}

TEST(QuantizeMixTest, PureTakesOneType) {
  for (const char* mix : {"Q4_K_M", "Q2_K", "MXFP4", "MXFP4_MOE", "Q8_0"}) {
    const Types types =
        types_of({.layers = 4, .heads = 8, .kv_heads = 1, .experts = 8}, MixOptions{.mix = mix, .pure = true});
    const std::string type = types.at("token_embd.weight");
    for (const auto& [name, found] : types) {
      const bool kept = name.find("norm") != std::string::npos || name.find("gate_inp") != std::string::npos;
      EXPECT_TRUE(kept || found == type) << name << " " << found;
    }
  }
}

TEST(QuantizeMixTest, OverridesAreSearchedInOrder) {
  MixOptions options{
      .mix = "Q4_K_M",
      .overrides = {
          {R"(blk\.[01]\.attn_v)", ElementType::q8_0}, {"attn_v", ElementType::q5_0}, {"^output", ElementType::bf16}}};
  const Types types = types_of({.layers = 4}, options);
  EXPECT_EQ(runs(types, "attn_v", 4), "Q8_0*2 Q5_0*2");
  EXPECT_EQ(types.at("output.weight"), "BF16");
  EXPECT_EQ(types.at("output_norm.weight"), "F32") << "found in its name, but never quantized";
  EXPECT_EQ(runs(types, "attn_q", 4), "Q4_K*4");
  // --keep-output comes before patterns, and is of the tied embedding where there is no head.
  options.output = ElementType::f16;
  EXPECT_EQ(types_of({.layers = 4}, options).at("output.weight"), "F16");
  options.overrides.clear();
  EXPECT_EQ(types_of({.layers = 4, .tied = true}, options).at("token_embd.weight"), "F16");
  EXPECT_EQ(types_of({.layers = 4}, options).at("token_embd.weight"), "Q4_K");
  // They hold in files of plain numbers and with --pure too.
  const MixOptions plain{.mix = "F32", .pure = true, .overrides = {{"ffn_up", ElementType::q6_k}}};
  EXPECT_EQ(runs(types_of({.layers = 4}, plain), "ffn_up", 4), "Q6_K*4");
  EXPECT_EQ(runs(types_of({.layers = 4}, plain), "ffn_down", 4), "F32*4");
}

TEST(QuantizeMixTest, MistakesAreTold) {
  const auto error_of = [](const MixOptions& options, const Shape& shape = {.layers = 1}) {
    const auto choices = choose(shape, options);
    EXPECT_FALSE(choices);
    return choices ? std::string() : choices.error().message;
  };
  EXPECT_TRUE(error_of({.mix = "Q4_K"}).starts_with("unknown type 'Q4_K'; there are Q2_K_S, Q2_K, "));
  EXPECT_EQ(error_of({.mix = "Q8_0", .overrides = {{"ffn_(", ElementType::q4_0}}}),
            "tensor type pattern 'ffn_(': missing closing parenthesis at character 6");
  EXPECT_EQ(error_of({.mix = "Q8_0", .overrides = {{"ffn_dwon", ElementType::q4_0}}}),
            "tensor type pattern 'ffn_dwon': found in the name of no tensor of image that is quantized");
  EXPECT_EQ(error_of({.mix = "Q8_0", .overrides = {{"ffn", ElementType::iq2_xs}}}),
            "tensor type pattern 'ffn': type IQ2_XS can be read but not written");
  EXPECT_EQ(error_of({.mix = "Q8_0", .output = ElementType::i8}), "output type: type I8 can be read but not written");
  EXPECT_EQ(error_of({.mix = "Q8_0"}, {.layers = 1, .type = kIdI32}),
            "image: tensor 'token_embd.weight': expected floats or blocks to quantize, found I32");
}

TEST(QuantizeMixTest, TensorsThatHaveTheirTypeAreCopied) {
  const auto choices = choose({.layers = 2, .type = kIdQ8_0}, {.mix = "Q8_0"});
  ASSERT_TRUE(choices);
  for (const TensorChoice& choice : *choices) EXPECT_FALSE(choice.quantize) << choice.tensor->name;
}

TEST(QuantizeMixTest, WhichTensorsAreQuantized) {
  const auto is = [](std::string_view name, std::array<std::int64_t, 4> shape = {256, 2, 1, 1}) {
    GgufTensor tensor;
    tensor.name = name;
    tensor.shape = shape;
    return is_quantized_tensor(tensor);
  };
  for (const char* name : {"token_embd.weight", "output.weight", "blk.0.ffn_up.weight", "blk.0.ffn_gate_exps.weight"}) {
    EXPECT_TRUE(is(name)) << name;
  }
  for (const char* name : {"blk.0.attn_q.bias", "position_embd.weight", "token_types.weight", "blk.0.ffn_gate_inp.weight",
                           "blk.0.attn_q_norm.weight", "output.weight.scale", "blk.0.ssm_conv1d.weight"}) {
    EXPECT_FALSE(is(name)) << name;
  }
  EXPECT_FALSE(is("blk.0.ffn_up.weight", {256, 1, 1, 1})) << "a vector with dimensions of 1";
  EXPECT_TRUE(is("blk.0.ffn_up.weight", {256, 1, 3, 1}));
}

// Files that are no model (no block_count): layers are counted.
TEST(QuantizeMixTest, LayersAreCountedWhereTheFileDoesNotSay) {
  GgufBuilder builder;
  for (int layer = 0; layer < 8; ++layer) {
    builder.tensor("blk." + std::to_string(layer) + ".ffn_down.weight", kIdF16, {256, 2}, std::string(1024, '\0'));
  }
  const auto image = builder.build();
  const auto file = GgufFile::parse(image, "image");
  ASSERT_TRUE(file);
  const auto choices = choose_types(*file, {.mix = "Q4_K_S"});
  ASSERT_TRUE(choices) << choices.error().message;
  EXPECT_EQ((*choices)[0].type, ElementType::q5_k);
  EXPECT_EQ((*choices)[1].type, ElementType::q4_k);
}

// A file can claim any number of layers: the rules' arithmetic must stand it.
TEST(QuantizeMixTest, AbsurdNumbersOfLayersAreNoTrouble) {
  GgufBuilder builder;
  builder.text("general.architecture", "llama");
  builder.raw("llama.block_count", gguf::kU64, GgufBuilder::bytes_of_number(std::uint64_t{1} << 62));
  builder.tensor("blk.9223372036854775807.ffn_down.weight", kIdF16, {256, 2}, std::string(1024, '\0'));
  builder.tensor("blk.-9223372036854775808.attn_v.weight", kIdF16, {256, 2}, std::string(1024, '\0'));
  const auto image = builder.build();
  const auto file = GgufFile::parse(image, "image");
  ASSERT_TRUE(file);
  const auto choices = choose_types(*file, {.mix = "Q4_K_M"});
  ASSERT_TRUE(choices) << choices.error().message;
  EXPECT_EQ((*choices)[0].type, ElementType::q6_k);  // the last of 2^20
  EXPECT_EQ((*choices)[1].type, ElementType::q6_k);  // the only attn_v is the last, too
}

}  // namespace
}  // namespace quern
