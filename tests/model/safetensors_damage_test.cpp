// Damaged and lying safetensors files: each gets a sentence that names the file and what is wrong in it.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "model/json_document.hpp"
#include "model/safetensors.hpp"
#include "support/safetensors_image.hpp"

namespace quern {
namespace {

std::string outcome(const std::string& image) {
  const auto file = SafetensorsFile::parse(std::as_bytes(std::span(image)), "x.safetensors");
  return file ? std::string("accepted") : file.error().message;
}

std::string with_length(std::uint64_t length, const std::string& rest) {
  std::string image(8, '\0');
  std::memcpy(image.data(), &length, 8);
  return image + rest;
}

/// The outcome with one tensor "t" whose entry has this text, over eight bytes of data.
std::string entry(const std::string& fields) { return outcome(safetensors_image("{\"t\":" + fields + "}", "12345678")); }

void expect_says(const std::string& found, const std::string& wanted) {
  EXPECT_EQ(found.rfind("x.safetensors: ", 0), 0U) << found;
  EXPECT_NE(found.find(wanted), std::string::npos) << "wanted: " << wanted << "\nfound: " << found;
}

TEST(SafetensorsDamage, HeaderLengths) {
  expect_says(outcome(""), "too short");
  expect_says(outcome("1234567"), "too short");
  const std::string header = R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  expect_says(outcome(with_length(0, header)), "malformed");
  expect_says(outcome(with_length(header.size() + 5, header + "data")), "truncated");
  expect_says(outcome(with_length(std::uint64_t{1} << 63, header)), "at most 100000000 bytes, found 9223372036854775808");
  expect_says(outcome(with_length((std::uint64_t{1} << 63) - 1, header)), "at most 100000000");
  expect_says(outcome(with_length(~std::uint64_t{0}, header)), "at most 100000000");
  expect_says(outcome(with_length(~std::uint64_t{0} - 7, header)), "at most 100000000");
  expect_says(outcome(with_length(header.size() - 1, header + "data")), "malformed");
  EXPECT_EQ(outcome(with_length(header.size(), header + "data")), "accepted");
}

TEST(SafetensorsDamage, HeaderText) {
  expect_says(outcome(safetensors_image("[]", "")), "must be a JSON object, found an array");
  expect_says(outcome(safetensors_image("7", "")), "must be a JSON object, found 7");
  expect_says(outcome(safetensors_image("{", "")), "malformed at byte");
  expect_says(outcome(safetensors_image("{}x", "")), "malformed at byte");
  expect_says(outcome(safetensors_image("{\"\xff\":1}", "")), "malformed at byte");
  expect_says(outcome(safetensors_image(std::string(100000, '['), "")), "must be a JSON object");
  expect_says(outcome(safetensors_image("{\"a\":" + std::string(100000, '['), "")), "tensor a: expected an object");
  expect_says(outcome(safetensors_image(R"({"__metadata__":{"a":{}}})", "")), "__metadata__: key a must be a string");
  expect_says(outcome(safetensors_image(R"({"__metadata__":{"a":"b","a":"c"}})", "")), "__metadata__: key a is there twice");
  expect_says(outcome(safetensors_image(R"({"__metadata__":[]})", "")), "__metadata__ must be an object");
  EXPECT_EQ(outcome(safetensors_image("{}", "")), "accepted");
}

TEST(SafetensorsDamage, Entries) {
  EXPECT_EQ(entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})"), "accepted");
  expect_says(entry("1"), "tensor t: expected an object, found 1");
  expect_says(entry("null"), "tensor t: expected an object, found null");
  expect_says(entry(R"({"shape":[2],"data_offsets":[0,8]})"), "tensor t: key dtype is missing");
  expect_says(entry(R"({"dtype":"F32","data_offsets":[0,8]})"), "tensor t: key shape is missing");
  expect_says(entry(R"({"dtype":"F32","shape":[2]})"), "tensor t: key data_offsets is missing");
  expect_says(entry(R"({"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]})"),
              "tensor t: key dtype is there twice");
  expect_says(entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1})"), "tensor t: key more is not known");
  expect_says(entry(R"({"dtype":32,"shape":[2],"data_offsets":[0,8]})"), "tensor t: dtype must be a string, found 32");
  expect_says(entry(R"({"dtype":"F33","shape":[2],"data_offsets":[0,8]})"), "tensor t: dtype \"F33\" is not known");
  expect_says(entry(R"({"dtype":"F16","shape":[2],"data_offsets":[0,8]})"), "tensor t: F16 [2] takes 4 bytes");
  expect_says(entry(R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})"), "tensor t: shape must be an array");
  expect_says(entry(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})"),
              "a size in shape must be a whole number, found -2");
  expect_says(entry(R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})"), "a size in shape must be a whole number");
  expect_says(entry(R"({"dtype":"F32","shape":[[2]],"data_offsets":[0,8]})"), "a size in shape must be a whole number");
  expect_says(entry(R"({"dtype":"F32","shape":["2"],"data_offsets":[0,8]})"), "a size in shape must be a whole number");
  expect_says(entry(R"({"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,8]})"), "below 2^63");
  expect_says(entry(R"({"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,8]})"), "must be a whole number");
  expect_says(entry(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]})"), "has too many bytes");
  expect_says(entry(R"({"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]})"), "has too many bytes");
  expect_says(entry(R"({"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]})"),
              "at most 16 sizes");
}

TEST(SafetensorsDamage, Offsets) {
  expect_says(entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0]})"), "data_offsets must hold two numbers, found 1");
  expect_says(entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8,8]})"),
              "data_offsets must hold two numbers, found more");
  expect_says(entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,-8]})"), "two whole numbers, found -8");
  expect_says(entry(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})"), "not inside the file's 8 bytes");
  expect_says(entry(R"({"dtype":"F32","shape":[3],"data_offsets":[0,12]})"), "not inside the file's 8 bytes");
  expect_says(entry(R"({"dtype":"F32","shape":[2],"data_offsets":[18446744073709551608,18446744073709551615]})"),
              "not inside");
  expect_says(entry(R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})"), "tensor t: its data begin at 4, leaving a hole");
  expect_says(entry(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})"), "4 bytes follow the last tensor's data");
  const std::string overlap =
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})";
  expect_says(outcome(safetensors_image(overlap, "123456789012")), "tensor b: its data begin at 4, inside another");
  const std::string same =
      R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  expect_says(outcome(safetensors_image(same, "1234")), "inside another tensor's data");
  const std::string twice =
      R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})";
  expect_says(outcome(safetensors_image(twice, "12345678")), "tensor a is there twice");
}

TEST(SafetensorsDamage, EveryTruncationIsRefused) {
  const std::string image = safetensors_image({{"a", "F32", {3}, "123456789012"}, {"b", "U8", {2, 2}, "1234"}});
  ASSERT_EQ(outcome(image), "accepted");
  for (std::size_t length = 0; length < image.size(); ++length) {
    EXPECT_NE(outcome(image.substr(0, length)), "accepted") << length;
  }
  EXPECT_NE(outcome(image + "x"), "accepted");
}

TEST(SafetensorsDamage, RandomChangesNeverDoHarm) {
  const std::string image = safetensors_image({{"a", "F32", {3}, "123456789012"}, {"b", "U8", {2, 2}, "1234"}});
  std::mt19937 random(7);
  for (int round = 0; round < 20000; ++round) {
    std::string changed = image;
    for (int i = 0; i < 1 + round % 3; ++i) changed[random() % changed.size()] = static_cast<char>(random() & 0xFF);
    const auto file = SafetensorsFile::parse(std::as_bytes(std::span(changed)), "x");
    if (!file) continue;
    for (const SafetensorsTensor& tensor : file->tensors()) {
      EXPECT_GE(tensor.data.data(), reinterpret_cast<const std::byte*>(changed.data()));
      EXPECT_LE(tensor.data.data() + tensor.data.size(),
                reinterpret_cast<const std::byte*>(changed.data() + changed.size()));
    }
  }
}

class ShardDamage : public testing::Test {
 protected:
  ShardDamage() {
    scratch_.write("one.safetensors", safetensors_image({{"a", "U8", {1}, "a"}, {"b", "U8", {1}, "b"}}));
    scratch_.write("two.safetensors", safetensors_image({{"c", "U8", {1}, "c"}}));
  }
  std::string with_map(const std::string& map) {
    scratch_.write("model.safetensors.index.json", R"({"weight_map":)" + map + "}");
    return open();
  }
  std::string open() {
    const auto folder = SafetensorsFolder::open(scratch_.path());
    if (folder) return "accepted";
    EXPECT_EQ(folder.error().message.rfind(scratch_.path(), 0), 0U) << folder.error().message;
    return folder.error().message;
  }
  ScratchFolder scratch_;
};

TEST_F(ShardDamage, IndexesThatLie) {
  const auto says = [&](const std::string& map, const std::string& wanted) {
    const std::string found = with_map(map);
    EXPECT_NE(found.find(wanted), std::string::npos) << "wanted: " << wanted << "\nfound: " << found;
  };
  EXPECT_EQ(with_map(R"({"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors"})"), "accepted");
  for (const char* const bad : {"/etc/passwd", "../one.safetensors", "sub/one.safetensors", "..", ".", "", "a\\\\b"}) {
    says(R"({"a":")" + std::string(bad) + R"("})", "tensor a is said to be in");
  }
  says(R"({"a":"one.safetensors\u0000x"})", "tensor a is said to be in");
  says(R"({"a":"one.safetensors","b":"one.safetensors","c":"three.safetensors"})", "shard three.safetensors is missing");
  says(R"({"a":"one.safetensors","b":"two.safetensors","c":"two.safetensors"})",
       "weight_map says that tensor b is in two.safetensors, found it in one.safetensors");
  says(R"({"a":"one.safetensors","c":"two.safetensors"})", "tensor b of one.safetensors is not in weight_map");
  says(R"({"a":"one.safetensors","b":"one.safetensors","d":"one.safetensors"})",
       "tensor d is in one.safetensors, which does not have it");
  says(R"({"a":"one.safetensors","a":"two.safetensors"})", "key \"a\" is there twice");
  says(R"({"a":7})", "tensor a must have a file's name, found an integer");
  says("{}", "names no tensor");
  says("[]", "weight_map must be an object, found an array");
  scratch_.write("two.safetensors", safetensors_image({{"c", "U8", {1}, "c"}, {"a", "U8", {1}, "a"}}));
  says(R"({"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors"})", "tensor a is there twice");
}

TEST_F(ShardDamage, IndexesThatAreNone) {
  scratch_.write("model.safetensors.index.json", "{}");
  EXPECT_NE(open().find("weight_map must be an object, found none"), std::string::npos);
  scratch_.write("model.safetensors.index.json", "[1]");
  EXPECT_NE(open().find("expected a JSON object"), std::string::npos);
  scratch_.write("model.safetensors.index.json", "{\"a\":");
  EXPECT_NE(open().find("malformed at byte"), std::string::npos);
  scratch_.write("model.safetensors.index.json", "{\"a\":" + std::string(1000, '[') + std::string(1000, ']') + "}");
  EXPECT_NE(open().find("levels deep"), std::string::npos);
  std::filesystem::remove(scratch_.path("model.safetensors.index.json"));
  EXPECT_NE(open().find("neither model.safetensors nor"), std::string::npos);
  scratch_.write("pytorch_model.bin", "x");
  EXPECT_NE(open().find("pytorch_model.bin holds Python pickles"), std::string::npos);
}

}  // namespace
}  // namespace quern
