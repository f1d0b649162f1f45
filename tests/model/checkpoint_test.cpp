// What goes into a checkpoint comes out, bit for bit; what is not as it must be is named.
#include "model/checkpoint.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <random>
#include <vector>

#include "model/hdf5_file.hpp"
#include "model/hdf5_user_block.hpp"
#include "support/tests_paths.hpp"

namespace quern {
namespace {

ModelConfig tiny_model() {
  ModelConfig c;
  c.vocab = 11;
  c.context = 6;
  c.layers = 2;
  c.width = 8;
  c.heads = 2;
  c.kv_heads = 1;
  c.head_dim = 4;
  c.mlp_width = 12;
  c.qk_norm = true;
  return c;
}

CheckpointInfo some_info() {
  CheckpointInfo info;
  info.model = tiny_model();
  info.run_yaml = "run:\n  dir: runs/x # \xc3\xa9\n";
  info.tokenizer_json = "{\"kind\": \"char\"}";
  info.step = 250;
  info.micro_batch = 1000;
  info.seed = 0xfedcba9876543210U;
  info.val_loss = 1.875;
  info.best_val_loss = 0.1 + 0.2;
  info.train_seconds = 12.5;
  info.quern_version = "0.1.0";
  return info;
}

// Any bits at all: NaNs with payloads, infinities, denormals, -0.
std::vector<float> random_bits(const ParameterLayout& layout, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<float> block(static_cast<std::size_t>(layout.elements), 0.0F);
  for (const Parameter& p : layout.parameters) {
    for (std::int64_t i = 0; i < p.count(); ++i) {
      const auto bits = static_cast<std::uint32_t>(random());
      std::memcpy(&block[static_cast<std::size_t>(p.offset + i)], &bits, sizeof bits);
    }
  }
  return block;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

class CheckpointTest : public testing::Test {
 protected:
  void save_full() { expect_ok(save_checkpoint(path_, some_info(), layout_, {weights_, m_, v_})); }
  static void expect_ok(const Result<void>& result) { ASSERT_TRUE(result.has_value()) << result.error().message; }

  Result<void> read(const ParameterLayout& layout, bool optimizer = false) {
    std::vector<float> w(static_cast<std::size_t>(layout.elements)), m, v;
    if (optimizer) m = v = w;
    return read_checkpoint_tensors(path_, layout, {w, m, v});
  }
  void expect_error(const Result<void>& result, std::initializer_list<const char*> parts) {
    ASSERT_FALSE(result.has_value());
    EXPECT_EQ(result.error().code, ErrorCode::bad_input);
    EXPECT_NE(result.error().message.find(path_), std::string::npos) << result.error().message;
    for (const char* part : parts) EXPECT_NE(result.error().message.find(part), std::string::npos) << result.error().message;
  }
  // Writes an HDF5 file of the caller's making behind a right user block.
  void write_by_hand(const std::function<Result<void>(Hdf5Group&)>& fill) {
    auto file = Hdf5File::create(path_, internal::kUserBlockBytes);
    ASSERT_TRUE(file.has_value());
    expect_ok(fill(file->root()));
    expect_ok(file->close());
    expect_ok(internal::write_user_block(path_, internal::kCheckpointBlock));
  }

  TemporaryFolder folder_;
  const std::string path_ = (folder_ / "step.h5").string();
  const ParameterLayout layout_ = parameter_layout(tiny_model());
  const std::vector<float> weights_ = random_bits(layout_, 1), m_ = random_bits(layout_, 2), v_ = random_bits(layout_, 3);
};

TEST_F(CheckpointTest, RoundTripIsBitExact) {
  save_full();
  std::vector<float> w(weights_.size()), m(weights_.size()), v(weights_.size());
  expect_ok(read_checkpoint_tensors(path_, layout_, {w, m, v}));
  EXPECT_TRUE(same_bits(w, weights_));
  EXPECT_TRUE(same_bits(m, m_));
  EXPECT_TRUE(same_bits(v, v_));

  const auto info = read_checkpoint_info(path_);
  ASSERT_TRUE(info.has_value()) << info.error().message;
  const CheckpointInfo expected = some_info();
  EXPECT_EQ(to_json(info->model), to_json(expected.model));
  EXPECT_EQ(info->run_yaml, expected.run_yaml);
  EXPECT_EQ(info->tokenizer_json, expected.tokenizer_json);
  EXPECT_EQ(info->step, expected.step);
  EXPECT_EQ(info->micro_batch, expected.micro_batch);
  EXPECT_EQ(info->seed, expected.seed);
  EXPECT_EQ(info->val_loss, expected.val_loss);
  EXPECT_EQ(info->best_val_loss, expected.best_val_loss);
  EXPECT_EQ(info->train_seconds, expected.train_seconds);
  EXPECT_EQ(info->quern_version, expected.quern_version);
  EXPECT_TRUE(info->has_optimizer);
}

// Second moments of some tensors only, in a block of their own.
TEST_F(CheckpointTest, SecondMomentsMayHaveALayoutOfTheirOwn) {
  ParameterLayout some;
  for (const Parameter& p : layout_.parameters) {
    if (p.kind == ParameterKind::matrix) continue;
    some.parameters.push_back(p);
    some.parameters.back().offset = some.elements;
    some.elements += (p.count() + 15) / 16 * 16;
  }
  ASSERT_LT(some.parameters.size(), layout_.parameters.size());
  const std::vector<float> v = random_bits(some, 4);
  expect_ok(save_checkpoint(path_, some_info(), layout_, {weights_, m_, v, &some}));
  std::vector<float> w(weights_.size()), m(weights_.size()), read_v(v.size());
  expect_ok(read_checkpoint_tensors(path_, layout_, {w, m, read_v, &some}));
  EXPECT_TRUE(same_bits(m, m_));
  EXPECT_TRUE(same_bits(read_v, v));
  std::vector<float> whole(weights_.size());
  expect_error(read_checkpoint_tensors(path_, layout_, {w, m, whole}), {"optimizer/v"});
  save_full();
  expect_error(read_checkpoint_tensors(path_, layout_, {w, m, read_v, &some}), {"optimizer/v", "no such tensor"});
}

// Every tensor that any architecture has: experts, sinks, norms after each half, biases of q, k and v alone.
TEST_F(CheckpointTest, TensorsOfPublishedArchitecturesRoundTrip) {
  CheckpointInfo info = some_info();
  ModelConfig& c = info.model;
  c.mlp = MlpKind::swiglu_clamped;
  c.experts = 3;
  c.experts_used = 2;
  c.router_bias = c.mlp_bias = c.qkv_bias = c.attention_sinks = c.post_norms = true;
  c.window = 4;
  c.rope_base_windowed = 50.0F;
  c.rope_scaling = RopeScaling::factors;
  c.rope_factors = {1.0F, 2.5F};
  const ParameterLayout layout = parameter_layout(c);
  const std::vector<float> weights = random_bits(layout, 4);
  expect_ok(save_checkpoint(path_, info, layout, {weights, weights, weights}));
  const auto read = read_checkpoint_info(path_);
  ASSERT_TRUE(read.has_value()) << read.error().message;
  EXPECT_EQ(to_json(read->model), to_json(c));
  std::vector<float> w(weights.size()), m(weights.size()), v(weights.size());
  expect_ok(read_checkpoint_tensors(path_, parameter_layout(read->model), {w, m, v}));
  EXPECT_TRUE(same_bits(w, weights));
  EXPECT_TRUE(same_bits(m, weights));
  EXPECT_TRUE(same_bits(v, weights));
}

TEST_F(CheckpointTest, DefaultsAndEmptyTextsRoundTrip) {
  CheckpointInfo empty;
  empty.model = tiny_model();
  expect_ok(save_checkpoint(path_, empty, layout_, {weights_, {}, {}}));
  const auto info = read_checkpoint_info(path_);
  ASSERT_TRUE(info.has_value()) << info.error().message;
  EXPECT_TRUE(std::isnan(info->val_loss));
  EXPECT_EQ(info->best_val_loss, std::numeric_limits<double>::infinity());
  EXPECT_EQ(info->run_yaml, "");
  EXPECT_EQ(info->tokenizer_json, "");
  EXPECT_EQ(info->quern_version, "");
}

TEST_F(CheckpointTest, LongTextsRoundTrip) {
  CheckpointInfo info = some_info();
  info.tokenizer_json.assign(300'000, 'x');
  info.tokenizer_json += std::string("\0\xff end", 6);
  expect_ok(save_checkpoint(path_, info, layout_, {weights_, {}, {}}));
  const auto read = read_checkpoint_info(path_);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->tokenizer_json, info.tokenizer_json);
}

TEST_F(CheckpointTest, WeightsOnly) {
  expect_ok(save_checkpoint(path_, some_info(), layout_, {weights_, {}, {}}));
  EXPECT_FALSE(read_checkpoint_info(path_)->has_optimizer);
  std::vector<float> w(weights_.size());
  expect_ok(read_checkpoint_tensors(path_, layout_, {w, {}, {}}));
  EXPECT_TRUE(same_bits(w, weights_));
  expect_error(read(layout_, true), {"weights only"});
}

TEST_F(CheckpointTest, WeightsOfAFullCheckpointCanBeReadAlone) {
  save_full();
  expect_ok(read(layout_));
}

TEST_F(CheckpointTest, PaddingBetweenTensorsIsLeftAlone) {
  save_full();
  std::vector<float> w(weights_.size(), 7.0F);
  expect_ok(read_checkpoint_tensors(path_, layout_, {w, {}, {}}));
  std::size_t covered = 0;
  for (const Parameter& p : layout_.parameters) covered += static_cast<std::size_t>(p.count());
  std::size_t sevens = 0;
  for (std::size_t i = 0; i < w.size(); ++i) sevens += w[i] == 7.0F && weights_[i] == 0.0F ? 1U : 0U;
  ASSERT_GT(w.size(), covered) << "this model has no padding to test";
  EXPECT_EQ(sevens, w.size() - covered);
}

TEST_F(CheckpointTest, OverwritesAnOlderCheckpointAndLeavesNothingBeside) {
  save_full();
  CheckpointInfo later = some_info();
  later.step = 251;
  expect_ok(save_checkpoint(path_, later, layout_, {v_, {}, {}}));
  EXPECT_EQ(read_checkpoint_info(path_)->step, 251);
  const auto files = std::filesystem::directory_iterator(folder_.path());
  EXPECT_EQ(std::distance(begin(files), end(files)), 1);
}

TEST_F(CheckpointTest, AnyHdf5ReaderFindsWhatTheHeaderPromises) {
  save_full();
  const auto file = Hdf5File::open(path_);
  ASSERT_TRUE(file.has_value()) << file.error().message;
  const auto names = file->root().names();
  ASSERT_TRUE(names.has_value());
  EXPECT_EQ(*names, (std::vector<std::string>{"model", "optimizer", "run", "tokenizer", "weights"}));
  EXPECT_EQ(file->root().int64_attribute("step"), 250);
  const Parameter& embedding = layout_.parameters[static_cast<std::size_t>(layout_.token_embedding)];
  const auto dataset = file->root().open_dataset("optimizer/v/" + embedding.name);
  ASSERT_TRUE(dataset.has_value()) << dataset.error().message;
  EXPECT_EQ(dataset->shape(), (std::vector<std::int64_t>{11, 8}));
}

TEST_F(CheckpointTest, BlocksOfTheWrongSizeAreRefused) {
  const std::span<const float> whole = weights_;
  expect_error(save_checkpoint(path_, some_info(), layout_, {whole.first(3), {}, {}}), {"weights holds 3 elements"});
  expect_error(save_checkpoint(path_, some_info(), layout_, {whole, whole, {}}), {"second moments holds 0 elements"});
  expect_error(save_checkpoint(path_, some_info(), layout_, {whole, {}, whole}), {"first moments holds 0 elements"});
  EXPECT_FALSE(std::filesystem::exists(path_));
  save_full();
  std::vector<float> small(3);
  expect_error(read_checkpoint_tensors(path_, layout_, {small, {}, {}}), {"weights holds 3 elements"});
}

TEST_F(CheckpointTest, MissingMisshapenAndUnknownTensorsAreNamed) {
  save_full();
  ParameterLayout other = layout_;
  other.parameters[3].name = "blk.7.gone";
  expect_error(read(other), {"/weights/blk.7.gone", "missing"});

  other = layout_;
  Parameter& embedding = other.parameters[static_cast<std::size_t>(other.token_embedding)];
  std::swap(embedding.rows, embedding.cols);
  expect_error(read(other), {("/weights/" + embedding.name).c_str(), "expected shape [8, 11], found [11, 8]"});

  other = layout_;
  const std::string last = other.parameters.back().name;
  other.parameters.pop_back();
  expect_error(read(other), {("/weights/" + last).c_str(), "no such tensor"});
}

TEST_F(CheckpointTest, MistypedTensorIsNamed) {
  const Parameter& first = layout_.parameters[0];
  write_by_hand([&](Hdf5Group& root) -> Result<void> {
    const auto dataset = root.create_dataset("weights/" + first.name, {.type = Hdf5Type::f64, .shape = {11, 8}});
    return dataset ? Result<void>() : tl::make_unexpected(dataset.error());
  });
  expect_error(read(layout_), {first.name.c_str(), "expected float32, found float64"});
}

// Files whose user block is right but whose metadata are not: each field in turn is absent, of another type, out of range.
TEST_F(CheckpointTest, WrongMetadataAreNamed) {
  struct Change {
    const char* field;
    const char* expected;
    std::function<Result<void>(Hdf5Group&)> write;  // instead of the right value
  };
  const auto nothing = [](Hdf5Group&) -> Result<void> { return {}; };
  const auto text = [](const char* name, std::string value) {
    return [name, value](Hdf5Group& root) { return root.write_text(name, value); };
  };
  const auto number = [](const char* name, auto value) {
    return [name, value](Hdf5Group& root) { return root.set_attribute(name, value); };
  };
  std::string bad_shape = to_json(tiny_model());
  bad_shape.replace(bad_shape.find("\"heads\""), 7, "\"haeds\"");
  ModelConfig impossible = tiny_model();
  impossible.kv_heads = 3;
  const std::vector<Change> changes = {
      {"model", "missing", nothing},
      {"model", "/model", text("model", "{")},
      {"model", "heads is missing", text("model", bad_shape)},
      {"model", "kv_heads", text("model", to_json(impossible))},
      {"model", "at most 1048576 bytes", text("model", std::string((1U << 20) + 1, ' '))},
      {"run", "missing", nothing},
      {"tokenizer", "missing", nothing},
      {"step", "\"step\" is missing", nothing},
      {"step", "expected int64", number("step", 2.0)},
      {"step", "found step -1", number("step", std::int64_t{-1})},
      {"micro_batch", "micro_batch -5", number("micro_batch", std::int64_t{-5})},
      {"seed", "\"seed\"", number("seed", std::string_view("x"))},
      {"val_loss", "expected float64", number("val_loss", std::int64_t{1})},
      {"best_val_loss", "missing", nothing},
      {"train_seconds", "train_seconds", number("train_seconds", std::nan(""))},
      {"quern_version", "expected a string", number("quern_version", 1.0)},
  };
  const std::vector<std::pair<const char*, std::function<Result<void>(Hdf5Group&)>>> right = {
      {"model", text("model", to_json(tiny_model()))},
      {"run", text("run", "")},
      {"tokenizer", text("tokenizer", "")},
      {"step", number("step", std::int64_t{1})},
      {"micro_batch", number("micro_batch", std::int64_t{1})},
      {"seed", number("seed", std::int64_t{1})},
      {"val_loss", number("val_loss", 1.0)},
      {"best_val_loss", number("best_val_loss", 1.0)},
      {"train_seconds", number("train_seconds", 1.0)},
      {"quern_version", number("quern_version", std::string_view("1"))},
  };
  const auto write = [&](const Change* change) {
    write_by_hand([&](Hdf5Group& root) -> Result<void> {
      for (const auto& [field, fill] : right) {
        const bool changed = change != nullptr && std::string_view(field) == change->field;
        if (auto filled = changed ? change->write(root) : fill(root); !filled) return filled;
      }
      return {};
    });
  };
  write(nullptr);
  ASSERT_TRUE(read_checkpoint_info(path_).has_value()) << read_checkpoint_info(path_).error().message;
  for (const Change& change : changes) {
    write(&change);
    const auto info = read_checkpoint_info(path_);
    ASSERT_FALSE(info.has_value()) << change.field << " / " << change.expected;
    EXPECT_EQ(info.error().code, ErrorCode::bad_input);
    EXPECT_NE(info.error().message.find(path_), std::string::npos) << info.error().message;
    EXPECT_NE(info.error().message.find(change.expected), std::string::npos) << info.error().message;
  }
}

}  // namespace
}  // namespace quern
