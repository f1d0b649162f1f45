// Damaged GGUF files: cut at every byte and with every bit flipped, they are read or refused, never more.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "model/gguf_file.hpp"
#include "support/gguf_builder.hpp"
#include "support/shared_data.hpp"

namespace quern {
namespace {

// Reads all that a file offers, so that a view beyond the image would be touched (and seen by the address sanitizer).
std::size_t touch(const GgufFile& file) {
  std::size_t sum = 0;
  const auto add = [&](const void* data, std::size_t bytes) {
    const auto* const at = static_cast<const unsigned char*>(data);
    if (bytes > 0) sum += at[0] + at[bytes / 2] + at[bytes - 1];
  };
  for (const GgufValue& value : file.metadata()) {
    add(value.key.data(), value.key.size());
    if (const auto* text = std::get_if<std::string_view>(&value.value)) add(text->data(), text->size());
    if (const auto* array = std::get_if<GgufArray>(&value.value)) {
      add(array->bytes.data(), array->bytes.size());
      for (const std::string_view text : array->strings) add(text.data(), text.size());
    }
    sum += file.integers(value.key).has_value() + file.floats(value.key).has_value() + file.strings(value.key).has_value();
  }
  for (const GgufTensor& tensor : file.tensors()) {
    add(tensor.data, tensor.bytes);
    sum += tensor.name.size();
  }
  return sum;
}

// A copy of its own length on the heap: one byte beyond it is out of bounds.
bool reads(std::span<const std::byte> image) {
  const auto copy = std::make_unique<std::byte[]>(image.size());
  std::copy(image.begin(), image.end(), copy.get());
  const auto file = GgufFile::parse({copy.get(), image.size()}, "damaged");
  if (!file) {
    EXPECT_EQ(file.error().code, ErrorCode::bad_input);
    EXPECT_EQ(file.error().message.rfind("damaged: ", 0), 0U) << file.error().message;
    EXPECT_LT(file.error().message.size(), 1000U);
    return false;
  }
  EXPECT_GT(touch(*file) + 1, 0U);
  return true;
}

std::vector<std::byte> small_image() {
  const std::vector<float> values(24, 0.5F);
  return GgufBuilder()
      .text("general.architecture", "llama")
      .u32("general.alignment", 32)
      .u32("llama.block_count", 1)
      .f32("llama.rope.freq_base", 10000)
      .boolean("tokenizer.ggml.add_bos_token", true)
      .texts("tokenizer.ggml.tokens", {"<s>", "a", "", "bc"})
      .f32s("tokenizer.ggml.scores", {0, -1, -2, -3})
      .i32s("tokenizer.ggml.token_type", {3, 1, 1, 1})
      .bools("flags", {true, false, true})
      .f32_tensor("token_embd.weight", {6, 4}, values)
      .tensor("blk.0.attn_q.weight", 8, {32, 2}, std::string(68, 'q'))
      .f32_tensor("output_norm.weight", {6}, std::span(values).first(6))
      .build();
}

// Cuts the image at every byte below `end`; where nothing of the format may be missing, none of them reads.
void cut_everywhere(std::span<const std::byte> image, std::size_t end) {
  for (std::size_t bytes = 0; bytes < std::min(end, image.size()); ++bytes) {
    ASSERT_FALSE(reads(image.first(bytes))) << "cut at " << bytes;
  }
}

TEST(GgufDamage, CutAtEveryByte) {
  const auto image = small_image();
  ASSERT_TRUE(reads(image));
  cut_everywhere(image, image.size());
}

TEST(GgufDamage, EveryBitFlipped) {
  auto image = small_image();
  int read = 0;
  for (std::size_t bit = 0; bit < image.size() * 8; ++bit) {
    const auto mask = std::byte{1} << (bit % 8);
    image[bit / 8] ^= mask;
    read += reads(image) ? 1 : 0;
    image[bit / 8] ^= mask;
  }
  EXPECT_GT(read, 0);  // those of values and tensor data
  EXPECT_LT(read, static_cast<int>(image.size() * 8));
}

// Every 4 and 8 bytes of the image set to numbers that lie at the edges of what arithmetic can hold.
TEST(GgufDamage, EveryFieldSetToExtremes) {
  const auto image = small_image();
  for (std::size_t at = 0; at + 8 <= image.size(); ++at) {
    for (const std::uint64_t value : {~std::uint64_t{0}, std::uint64_t{1} << 63, (std::uint64_t{1} << 63) - 1,
                                      ~std::uint64_t{0} - 31, std::uint64_t{1} << 32, std::uint64_t{0x7FFFFFFF}}) {
      for (const std::size_t bytes : {4, 8}) {
        auto damaged = image;
        std::memcpy(damaged.data() + at, &value, bytes);
        (void)reads(damaged);
      }
    }
  }
}

class GgufDamageOfRealFile : public testing::Test {
 protected:
  void SetUp() override {
    const auto path = shared_data("testdata/stories260K/stories260K-f32.gguf");
    if (!path) GTEST_SKIP() << "shared data absent: testdata/stories260K/stories260K-f32.gguf";
    std::ifstream file(*path, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    image_.resize(text.size());
    std::memcpy(image_.data(), text.data(), text.size());
  }
  // Reading without a copy, for files that are too large to copy thousands of times.
  static bool parses(std::span<const std::byte> image) {
    const auto file = GgufFile::parse(image, "damaged");
    if (!file) return false;
    EXPECT_GT(touch(*file) + 1, 0U);
    return true;
  }
  std::vector<std::byte> image_;
};

TEST_F(GgufDamageOfRealFile, CutInItsFirst4KiB) { cut_everywhere(image_, 4096); }

TEST_F(GgufDamageOfRealFile, CutInItsData) {
  for (std::size_t bytes = 4096; bytes < image_.size(); bytes += 4099) ASSERT_FALSE(parses(std::span(image_).first(bytes)));
  EXPECT_TRUE(parses(image_));
}

TEST_F(GgufDamageOfRealFile, BitsFlippedInFrontOfItsData) {
  const auto whole = GgufFile::parse(image_, "whole");
  ASSERT_TRUE(whole) << whole.error().message;
  const auto head = static_cast<std::size_t>(whole->tensors()[0].data - image_.data());
  ASSERT_GT(head, 4096U);
  for (std::size_t at = 0; at < head; ++at) {
    const auto mask = std::byte{1} << (at * 5 % 8);
    image_[at] ^= mask;
    (void)parses(image_);
    image_[at] ^= mask;
  }
}

}  // namespace
}  // namespace quern
