#include "model/hdf5_file.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <thread>

#include "model/atomic_file.hpp"

// The HDF5 library leaks a little when it meets damaged metadata, which these tests make it do.
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() { return "leak:libhdf5"; }

namespace quern {
namespace {

class Hdf5FileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) / ("quern_hdf5_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  std::filesystem::path folder_;
};

template <class T>
std::string message(const Result<T>& result) {
  return result ? std::string("no error") : result.error().message;
}

template <class T>
void round_trip(const std::string& path, std::int64_t rows, std::int64_t columns, std::int64_t chunk_rows, int deflate) {
  SCOPED_TRACE(std::string(hdf5_type_name(hdf5_type_of<T>())) + " " + std::to_string(rows) + "x" + std::to_string(columns) +
               " chunk " + std::to_string(chunk_rows));
  std::vector<T> values(static_cast<std::size_t>(rows * columns));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<T>(i * 37 + 5);
  {
    auto file = Hdf5File::create(path);
    ASSERT_TRUE(file) << message(file);
    auto dataset = file->root().create_dataset("a/b", {.type = hdf5_type_of<T>(),
                                                       .shape = {rows, columns},
                                                       .chunk_rows = chunk_rows,
                                                       .checksum = chunk_rows > 0,
                                                       .deflate = deflate});
    ASSERT_TRUE(dataset) << message(dataset);
    // In two uneven pieces.
    const std::int64_t half = rows / 3;
    const std::span<const T> all(values);
    ASSERT_TRUE(dataset->write_rows(0, half, all.first(static_cast<std::size_t>(half * columns))));
    ASSERT_TRUE(dataset->write_rows(half, rows - half, all.subspan(static_cast<std::size_t>(half * columns))));
    ASSERT_TRUE(file->close());
  }
  auto file = Hdf5File::open(path);
  ASSERT_TRUE(file) << message(file);
  auto dataset = file->root().open_dataset("a/b");
  ASSERT_TRUE(dataset) << message(dataset);
  EXPECT_EQ(dataset->type(), hdf5_type_of<T>());
  EXPECT_EQ(dataset->shape(), (std::vector<std::int64_t>{rows, columns}));
  EXPECT_EQ(dataset->compressed(), deflate > 0);
  std::vector<T> read(values.size());
  ASSERT_TRUE(dataset->read(std::span(read)));
  EXPECT_EQ(read, values);
  for (std::int64_t first = 0; first < rows; first += 3) {
    const std::int64_t count = std::min<std::int64_t>(rows - first, 4);
    std::vector<T> part(static_cast<std::size_t>(count * columns));
    ASSERT_TRUE(dataset->read_rows(first, count, std::span(part)));
    EXPECT_TRUE(std::equal(part.begin(), part.end(), values.begin() + first * columns));
  }
}

TEST_F(Hdf5FileTest, DatasetsRoundTrip) {
  for (const std::int64_t rows : {0, 1, 7, 8, 9, 30}) {
    for (const std::int64_t chunk : {0, 1, 8}) {
      round_trip<std::uint16_t>(path("x"), rows, 3, chunk, 0);
      round_trip<float>(path("x"), rows, 1, chunk, chunk > 0 ? 4 : 0);
    }
  }
  round_trip<std::uint8_t>(path("x"), 9, 2, 4, 0);
  round_trip<std::int8_t>(path("x"), 9, 2, 4, 0);
  round_trip<std::int16_t>(path("x"), 9, 2, 4, 1);
  round_trip<std::uint32_t>(path("x"), 9, 2, 0, 0);
  round_trip<std::int32_t>(path("x"), 9, 2, 4, 0);
  round_trip<std::uint64_t>(path("x"), 9, 2, 4, 0);
  round_trip<std::int64_t>(path("x"), 9, 2, 4, 0);
  round_trip<double>(path("x"), 9, 2, 4, 0);
}

TEST_F(Hdf5FileTest, AttributesRoundTripAndReplace) {
  {
    auto file = Hdf5File::create(path("x"));
    ASSERT_TRUE(file);
    ASSERT_TRUE(file->root().set_attribute("step", std::int64_t{3}));
    ASSERT_TRUE(file->root().set_attribute("step", std::int64_t{INT64_MIN}));
    ASSERT_TRUE(file->root().set_attribute("loss", 0.1));
    ASSERT_TRUE(file->root().set_attribute("name", "gr\xC3\xBC\xC3\x9F"));
    ASSERT_TRUE(file->root().set_attribute("empty", std::string_view()));
    ASSERT_TRUE(file->root().set_attribute("long", std::string(60'000, 'q')));
    EXPECT_FALSE(file->root().set_attribute("too long", std::string(60'001, 'q')));
    EXPECT_FALSE(file->root().set_attribute("nul", std::string_view("a\0b", 3)));
    auto dataset = file->root().create_dataset("d", {.type = Hdf5Type::i32, .shape = {2}});
    ASSERT_TRUE(dataset);
    ASSERT_TRUE(dataset->set_attribute("unit", "ms"));
    ASSERT_TRUE(file->close());
  }
  auto file = Hdf5File::open(path("x"));
  ASSERT_TRUE(file);
  const Hdf5Group& root = file->root();
  EXPECT_EQ(*root.int64_attribute("step"), INT64_MIN);
  EXPECT_EQ(*root.double_attribute("loss"), 0.1);
  EXPECT_EQ(*root.string_attribute("name"), "gr\xC3\xBC\xC3\x9F");
  EXPECT_EQ(*root.string_attribute("empty"), "");
  EXPECT_EQ(root.string_attribute("long")->size(), 60'000u);
  EXPECT_EQ(*root.open_dataset("d")->string_attribute("unit"), "ms");
  EXPECT_TRUE(root.has_attribute("step"));
  EXPECT_FALSE(root.has_attribute("steps"));
  const auto missing = root.int64_attribute("steps");
  EXPECT_EQ(message(missing), path("x") + ": /: attribute \"steps\" is missing");
  EXPECT_EQ(message(root.int64_attribute("loss")), path("x") + ": /: attribute \"loss\": expected int64, found float64");
  EXPECT_FALSE(root.double_attribute("step"));
  EXPECT_FALSE(root.string_attribute("step"));
}

TEST_F(Hdf5FileTest, GroupsListAndRefuse) {
  auto file = Hdf5File::create(path("x"));
  ASSERT_TRUE(file);
  auto group = file->root().create_group("a");
  ASSERT_TRUE(group);
  ASSERT_TRUE(group->create_group("z"));
  ASSERT_TRUE(group->create_dataset("d", {.type = Hdf5Type::f32, .shape = {3, 2}}));
  EXPECT_EQ(*group->names(), (std::vector<std::string>{"d", "z"}));
  EXPECT_TRUE(file->root().has("a/d"));
  EXPECT_FALSE(file->root().has("a/e"));
  EXPECT_FALSE(file->root().create_group("a"));
  EXPECT_EQ(message(file->root().open_dataset("a/e")), path("x") + ": /a/e is missing");
  EXPECT_NE(message(file->root().open_dataset("a/z")).find("expected a dataset"), std::string::npos);
  EXPECT_NE(message(file->root().open_group("a/d")).find("expected a group"), std::string::npos);
  const auto dataset = group->open_dataset("d");
  ASSERT_TRUE(dataset);
  const std::vector<std::int64_t> any = {-1, 2};
  const std::vector<std::int64_t> wrong = {-1, 4};
  EXPECT_TRUE(dataset->expect(Hdf5Type::f32, any));
  EXPECT_EQ(message(dataset->expect(Hdf5Type::f32, wrong)), path("x") + ": /a/d: expected shape [any, 4], found [3, 2]");
  EXPECT_EQ(message(dataset->expect(Hdf5Type::u8, any)), path("x") + ": /a/d: expected uint8, found float32");
  std::vector<float> buffer(6);
  std::vector<double> doubles(6);
  EXPECT_FALSE(dataset->read(std::span(doubles)));
  EXPECT_FALSE(dataset->read_rows(1, 3, std::span(buffer)));
  EXPECT_FALSE(dataset->read_rows(-1, 3, std::span(buffer)));
  EXPECT_FALSE(dataset->read_rows(0, 2, std::span(buffer)));
}

TEST_F(Hdf5FileTest, RowsGrow) {
  auto file = Hdf5File::create(path("x"));
  ASSERT_TRUE(file);
  auto dataset = file->root().create_dataset("d", {.type = Hdf5Type::i32, .shape = {0}, .chunk_rows = 4, .growable = true});
  ASSERT_TRUE(dataset) << message(dataset);
  std::vector<std::int32_t> values(11);
  std::iota(values.begin(), values.end(), 100);
  ASSERT_TRUE(dataset->resize_rows(5));
  ASSERT_TRUE(dataset->write_rows(0, 5, std::span<const std::int32_t>(values).first(5)));
  ASSERT_TRUE(dataset->resize_rows(11));
  ASSERT_TRUE(dataset->write_rows(5, 6, std::span<const std::int32_t>(values).subspan(5)));
  std::vector<std::int32_t> read(11);
  ASSERT_TRUE(dataset->read(std::span(read)));
  EXPECT_EQ(read, values);
}

TEST_F(Hdf5FileTest, TextsAndUserBlocks) {
  const std::string text(200'000, 'k');
  {
    auto file = Hdf5File::create(path("x"), 512);
    ASSERT_TRUE(file) << message(file);
    ASSERT_TRUE(file->root().write_text("tokenizer", text));
    ASSERT_TRUE(file->root().write_text("nothing", ""));
    ASSERT_TRUE(file->close());
  }
  {
    std::fstream raw(path("x"), std::ios::in | std::ios::out | std::ios::binary);
    raw << "QUERN";
  }
  auto file = Hdf5File::open(path("x"));
  ASSERT_TRUE(file) << message(file);
  EXPECT_EQ(*file->root().read_text("tokenizer", 1'000'000), text);
  EXPECT_EQ(*file->root().read_text("nothing", 0), "");
  EXPECT_FALSE(file->root().read_text("tokenizer", 199'999));
  EXPECT_FALSE(Hdf5File::create(path("y"), 500)) << "not a power of two";
}

TEST_F(Hdf5FileTest, BadFilesAreErrors) {
  EXPECT_EQ(Hdf5File::open(path("none")).error().code, ErrorCode::io);
  ASSERT_TRUE(write_file_atomically(path("text"), "this is no HDF5 file"));
  EXPECT_EQ(Hdf5File::open(path("text")).error().code, ErrorCode::bad_input);
  ASSERT_TRUE(write_file_atomically(path("empty"), ""));
  EXPECT_FALSE(Hdf5File::open(path("empty")));
  EXPECT_FALSE(Hdf5File::create(path("no/folder/x")));
  {
    auto file = Hdf5File::create(path("x"));
    ASSERT_TRUE(file);
    auto dataset =
        file->root().create_dataset("d", {.type = Hdf5Type::u16, .shape = {5000}, .chunk_rows = 1000, .checksum = true});
    ASSERT_TRUE(dataset);
    const std::vector<std::uint16_t> values(5000, 0x5151);
    ASSERT_TRUE(dataset->write(std::span<const std::uint16_t>(values)));
    ASSERT_TRUE(file->close());
  }
  const std::string whole = *read_whole_file(path("x"), 1'000'000);
  for (const std::size_t keep : {std::size_t{9}, std::size_t{100}, whole.size() / 2, whole.size() - 1}) {
    ASSERT_TRUE(write_file_atomically(path("cut"), whole.substr(0, keep)));
    EXPECT_FALSE(Hdf5File::open(path("cut"))) << keep;
  }
  // One flipped bit in the data: the chunk's checksum notices.
  std::string flipped = whole;
  flipped[whole.find("QQQQQQQQ") + 10] ^= 1;
  ASSERT_TRUE(write_file_atomically(path("flip"), flipped));
  auto file = Hdf5File::open(path("flip"));
  ASSERT_TRUE(file) << message(file);
  auto dataset = file->root().open_dataset("d");
  ASSERT_TRUE(dataset) << message(dataset);
  std::vector<std::uint16_t> read(5000);
  const auto status = dataset->read(std::span(read));
  ASSERT_FALSE(status);
  EXPECT_NE(message(status).find("flip: /d: cannot read rows 0 to 5000"), std::string::npos) << message(status);
  // Flipped bits in the metadata never crash; HDF5's checksums find nearly all.
  for (std::size_t at = 0; at < whole.size(); at += whole[at] == 'Q' ? 997 : 11) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x41);
    { std::ofstream(path("damaged"), std::ios::binary) << damaged; }
    auto opened = Hdf5File::open(path("damaged"));
    if (!opened) continue;
    auto inside = opened->root().open_dataset("d");
    if (!inside) continue;
    if (inside->expect(Hdf5Type::u16, std::vector<std::int64_t>{5000})) (void)inside->read(std::span(read));
  }
}

TEST_F(Hdf5FileTest, TheSameContentGivesTheSameBytes) {
  for (const std::string name : {"x", "y"}) {
    auto file = Hdf5File::create(path(name));
    ASSERT_TRUE(file);
    ASSERT_TRUE(file->root().write_text("a/b/text", "same"));
    ASSERT_TRUE(file->root().create_group("c/d"));
    auto dataset = file->root().create_dataset(
        "c/e", {.type = Hdf5Type::u16, .shape = {0}, .chunk_rows = 1000, .growable = true, .checksum = true});
    ASSERT_TRUE(dataset);
    ASSERT_TRUE(dataset->resize_rows(3));
    const std::vector<std::uint16_t> values = {1, 2, 3};
    ASSERT_TRUE(dataset->write(std::span<const std::uint16_t>(values)));
    ASSERT_TRUE(file->root().set_attribute("step", std::int64_t{3}));
    ASSERT_TRUE(file->close());
    if (name == "x") std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // HDF5's times have seconds
  }
  EXPECT_EQ(*read_whole_file(path("x"), 1'000'000), *read_whole_file(path("y"), 1'000'000));
}

TEST_F(Hdf5FileTest, ThreadsMayReadAndWriteAtOnce) {
  {
    auto file = Hdf5File::create(path("x"));
    ASSERT_TRUE(file);
    auto dataset = file->root().create_dataset("d", {.type = Hdf5Type::i32, .shape = {4096}, .chunk_rows = 64});
    ASSERT_TRUE(dataset);
    std::vector<std::int32_t> values(4096);
    std::iota(values.begin(), values.end(), 0);
    ASSERT_TRUE(dataset->write(std::span<const std::int32_t>(values)));
    ASSERT_TRUE(file->close());
  }
  bool good = true;
  std::thread reader([&] {
    auto file = Hdf5File::open(path("x"));
    auto dataset = file->root().open_dataset("d");
    std::vector<std::int32_t> part(100);
    for (std::int32_t i = 0; i < 300; ++i) {
      good = good && dataset->read_rows(i * 13, 100, std::span(part)) && part[99] == i * 13 + 99;
    }
  });
  for (int i = 0; i < 30; ++i) {
    auto file = Hdf5File::create(path("y"));
    ASSERT_TRUE(file);
    ASSERT_TRUE(file->root().write_text("t", "text"));
    ASSERT_TRUE(file->close());
  }
  reader.join();
  EXPECT_TRUE(good);
}

}  // namespace
}  // namespace quern
