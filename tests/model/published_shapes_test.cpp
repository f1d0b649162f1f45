#include "model/published_shapes.hpp"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>

#include "model/gguf_architectures.hpp"

namespace quern {
namespace {

/// Numbers of parameters that the models' pages and papers give, in full where they are.
TEST(PublishedShapes, ParametersAreThoseThatWerePublished) {
  const std::map<std::string, double> published{
      {"tinyllama-1.1b", 1100048384.0}, {"phi3-mini", 3821079552.0},  {"llama2-7b", 6738415616.0},
      {"mistral-7b", 7248023552.0},     {"qwen2.5-7b", 7615616512.0}, {"llama3.1-8b", 8030261248.0 + 64},
      {"qwen3-8b", 8190735360.0},       {"gemma2-9b", 9241705984.0},  {"phi4", 14659507200.0},
      {"qwen2.5-14b", 14770033664.0},   {"qwen3-14b", 14768307200.0}, {"gpt-oss-20b", 20914757184.0},
      {"qwen3-30b-a3b", 30532122624.0}};
  for (const PublishedShape& shape : published_shapes()) {
    double parameters = 0.0;
    for (const ShapeTensor& tensor : tensors_of(shape)) parameters += static_cast<double>(tensor.elements());
    const auto known = published.find(std::string(shape.name));
    if (known != published.end()) {
      EXPECT_EQ(parameters, known->second) << shape.name;
    } else {
      EXPECT_EQ(shape.name, "gemma3-12b");
      EXPECT_NEAR(parameters, 11.77e9, 0.01e9);  // its language part, without the image encoder
    }
  }
}

TEST(PublishedShapes, EveryShapeIsAValidModelOfItsArchitecture) {
  std::set<std::string_view> names;
  for (const PublishedShape& shape : published_shapes()) {
    EXPECT_TRUE(names.insert(shape.name).second) << shape.name;
    EXPECT_FALSE(shape.title.empty());
    const auto valid = validate(shape.config);
    EXPECT_TRUE(valid) << shape.name << ": " << (valid ? "" : valid.error().message);
    const ArchitectureRow* const row = find_gguf_architecture(shape.architecture);
    ASSERT_NE(row, nullptr) << shape.name;
    EXPECT_EQ(obstacle_to(*row, shape.config), "") << shape.name;
    std::set<std::string> tensors;
    for (const ShapeTensor& tensor : tensors_of(shape)) {
      EXPECT_TRUE(tensors.insert(tensor.name).second) << shape.name << ' ' << tensor.name;
      for (int i = 0; i < 4; ++i) EXPECT_GE(tensor.shape[static_cast<std::size_t>(i)], 1);
    }
    EXPECT_EQ(tensors.count("output.weight") == 0, shape.config.tied_embeddings);
  }
}

/// The layout of all parameters, which training uses, counts the same numbers, but for RoPE's factors.
TEST(PublishedShapes, AgreeWithTheParameterLayout) {
  for (const PublishedShape& shape : published_shapes()) {
    std::int64_t parameters = 0;
    for (const ShapeTensor& tensor : tensors_of(shape)) {
      if (tensor.name != "rope_freqs.weight") parameters += tensor.elements();
    }
    EXPECT_EQ(parameters, parameter_layout(shape.config).parameter_count()) << shape.name;
  }
}

TEST(PublishedShapes, FoundByNameInAnyCase) {
  const PublishedShape* const shape = find_published_shape("GPT-OSS-20b");
  ASSERT_NE(shape, nullptr);
  EXPECT_EQ(shape->config.experts, 32);
  EXPECT_EQ(find_published_shape("gpt-oss"), nullptr);
  EXPECT_EQ(find_published_shape(""), nullptr);
}

}  // namespace
}  // namespace quern
