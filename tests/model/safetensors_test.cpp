// Safetensors: what is written is what another reader's rules expect, and what is read is what was there.
#include "model/safetensors.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "support/safetensors_image.hpp"

namespace quern {
namespace {

std::span<const std::byte> bytes_of_text(const std::string& text) { return std::as_bytes(std::span(text)); }

std::string contents(const std::string& path) {
  std::ostringstream out;
  out << std::ifstream(path, std::ios::binary).rdbuf();
  return out.str();
}

TEST(Safetensors, ReadsTensorsOfEveryDtype) {
  std::vector<ImageTensor> tensors;
  for (const char* const dtype : {"BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "I16", "U16", "F16", "BF16", "I32",
                                  "U32", "F32", "F64", "I64", "U64"}) {
    const auto bytes = safetensors_dtype_bytes(dtype);
    ASSERT_TRUE(bytes) << dtype;
    tensors.push_back({std::string("t.") + dtype,
                       dtype,
                       {2, 3},
                       std::string(static_cast<std::size_t>(6 * *bytes), static_cast<char>('a' + tensors.size()))});
  }
  const std::string image = safetensors_image(tensors);
  const auto file = SafetensorsFile::parse(bytes_of_text(image), "image");
  ASSERT_TRUE(file) << file.error().message;
  ASSERT_EQ(file->tensors().size(), tensors.size());
  for (const ImageTensor& wanted : tensors) {
    const SafetensorsTensor* found = file->find(wanted.name);
    ASSERT_NE(found, nullptr) << wanted.name;
    EXPECT_EQ(found->dtype, wanted.dtype);
    EXPECT_EQ(found->shape, wanted.shape);
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(found->data.data()), found->data.size()), wanted.data);
  }
  EXPECT_EQ(file->find("t.none"), nullptr);
  ASSERT_EQ(file->metadata().size(), 1U);
  EXPECT_EQ(file->metadata()[0], (std::pair<std::string, std::string>("format", "pt")));
}

TEST(Safetensors, ReadsScalarsEmptyTensorsAndAnyOrder) {
  // "b" comes first in the header and last in the data; "none" has no element; "one" has no dimension.
  const std::string image = safetensors_image(
      R"({"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},"none":{"shape":[0,7],"data_offsets":[4,4],"dtype":"F32"},)"
      R"("one":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}   )",
      "onetwo_8");
  const auto file = SafetensorsFile::parse(bytes_of_text(image), "image");
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->find("none")->data.size(), 0U);
  EXPECT_TRUE(file->find("one")->shape.empty());
  EXPECT_EQ(std::memcmp(file->find("b")->data.data(), "wo_8", 4), 0);
  EXPECT_EQ(file->tensors().front().name, "one");
}

TEST(Safetensors, WritesWhatItReads) {
  const ScratchFolder scratch;
  const std::string path = scratch.path("out.safetensors");
  const std::array<float, 6> a{1, -2, 3.5F, 4, 5, 6};
  const std::array<std::uint16_t, 2> b{0x3F80, 0xC000};
  auto writer = SafetensorsWriter::create(path, {{"a \"quoted\"", "F32", {2, 3}}, {"b", "BF16", {2}}, {"c", "F16", {1, 0}}});
  ASSERT_TRUE(writer) << writer.error().message;
  ASSERT_TRUE(writer->write(std::as_bytes(std::span(a)).first(5)));  // pieces need not be whole numbers
  EXPECT_FALSE(std::filesystem::exists(path));
  ASSERT_TRUE(writer->write(std::as_bytes(std::span(a)).subspan(5)));
  EXPECT_FALSE(writer->finish());
  ASSERT_TRUE(writer->write(std::as_bytes(std::span(b))));
  EXPECT_FALSE(writer->write(std::as_bytes(std::span(b))));
  ASSERT_TRUE(writer->finish());

  const auto file = SafetensorsFile::open(path);
  ASSERT_TRUE(file) << file.error().message;
  ASSERT_EQ(file->tensors().size(), 3U);
  const SafetensorsTensor* first = file->find("a \"quoted\"");
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(first->shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(std::memcmp(first->data.data(), a.data(), sizeof a), 0);
  EXPECT_EQ(std::memcmp(file->find("b")->data.data(), b.data(), sizeof b), 0);
  EXPECT_EQ(file->find("b")->dtype, "BF16");
  EXPECT_EQ(file->find("c")->dtype, "F16");

  // By the format's own words: length, JSON that begins with '{', padded so that data begin at a multiple of 8.
  const std::string raw = contents(path);
  std::uint64_t length = 0;
  std::memcpy(&length, raw.data(), 8);
  EXPECT_EQ((8 + length) % 8, 0U);
  EXPECT_EQ(raw[8], '{');
  const auto json = nlohmann::json::parse(raw.substr(8, length));
  EXPECT_EQ(json["__metadata__"]["format"], "pt");
  EXPECT_EQ(json["b"]["data_offsets"], (std::vector<int>{24, 28}));
  EXPECT_EQ(raw.size(), 8 + length + 28);
}

TEST(Safetensors, AnUnfinishedFileIsLeftNowhere) {
  const ScratchFolder scratch;
  scratch.write("out.safetensors", "what was there");
  {
    auto writer = SafetensorsWriter::create(scratch.path("out.safetensors"), {{"a", "F32", {2}}});
    ASSERT_TRUE(writer);
  }
  EXPECT_EQ(contents(scratch.path("out.safetensors")), "what was there");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(scratch.path()), std::filesystem::directory_iterator()), 1);
}

TEST(Safetensors, RefusesToWriteWhatTheFormatCannotSay) {
  const ScratchFolder scratch;
  const std::string path = scratch.path("x");
  const auto message = [&](const std::vector<SafetensorsDeclaration>& list) {
    const auto writer = SafetensorsWriter::create(path, list);
    return writer ? std::string("written") : writer.error().message;
  };
  EXPECT_NE(message({{"q", "Q8_0", {32}}}).find("tensor q: dtype \"Q8_0\" is not known"), std::string::npos);
  EXPECT_NE(message({{"a", "F32", {1}}, {"a", "F32", {1}}}).find("tensor a is there already"), std::string::npos);
  EXPECT_NE(message({{"a", "F32", {std::int64_t{1} << 40, std::int64_t{1} << 40}}}).find("too many bytes"),
            std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(Safetensors, ReadsFoldersOfShards) {
  const ScratchFolder scratch;
  const std::array<float, 2> a{1, 2}, b{3, 4}, c{5, 6};
  scratch.write("model-00001-of-00002.safetensors",
                safetensors_image({f32_image_tensor("a", {2}, a), f32_image_tensor("b", {2}, b)}));
  scratch.write("model-00002-of-00002.safetensors", safetensors_image({f32_image_tensor("c", {2}, c)}));
  scratch.write("model.safetensors.index.json",
                R"({"metadata":{"total_size":24},"weight_map":{"a":"model-00001-of-00002.safetensors",)"
                R"("b":"model-00001-of-00002.safetensors","c":"model-00002-of-00002.safetensors"}})");
  auto folder = SafetensorsFolder::open(scratch.path());
  ASSERT_TRUE(folder) << folder.error().message;
  const SafetensorsFolder moved = std::move(*folder);
  EXPECT_EQ(moved.files().size(), 2U);
  const auto found = moved.find("c");
  ASSERT_NE(found.tensor, nullptr);
  EXPECT_EQ(std::memcmp(found.tensor->data.data(), c.data(), sizeof c), 0);
  found.file->release(found.tensor->data);
  EXPECT_EQ(std::memcmp(found.tensor->data.data(), c.data(), sizeof c), 0);
  EXPECT_EQ(moved.find("d").tensor, nullptr);
}

TEST(Safetensors, ReadsShardsThroughLinks) {  // as the cache of Hugging Face's own tools lays them out
  const ScratchFolder scratch;
  const std::array<float, 2> a{1, 2};
  scratch.write("blobs/123", safetensors_image({f32_image_tensor("a", {2}, a)}));
  std::filesystem::create_directories(scratch.path("snapshot"));
  std::filesystem::create_symlink("../blobs/123", scratch.path("snapshot/model.safetensors"));
  const auto folder = SafetensorsFolder::open(scratch.path("snapshot"));
  ASSERT_TRUE(folder) << folder.error().message;
  EXPECT_NE(folder->find("a").tensor, nullptr);
}

}  // namespace
}  // namespace quern
