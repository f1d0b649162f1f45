#include "math/aligned_buffer.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>

namespace quern {
namespace {

bool is_zero(const AlignedBuffer& buffer) {
  return std::all_of(buffer.data(), buffer.data() + buffer.bytes(), [](std::byte b) { return b == std::byte{0}; });
}

TEST(AlignedBuffer, IsAlignedZeroedAndWritableAtAwkwardSizes) {
  constexpr std::size_t kMapped = std::size_t{4} << 20;
  for (const std::size_t bytes : {std::size_t{1}, std::size_t{63}, std::size_t{64}, std::size_t{65}, std::size_t{4095},
                                  kMapped - 1, kMapped, kMapped + 1, kMapped + 4097}) {
    SCOPED_TRACE(bytes);
    // Twice, so that the second may get memory that the first has dirtied.
    for (int round = 0; round < 2; ++round) {
      Result<AlignedBuffer> buffer = AlignedBuffer::allocate(bytes);
      ASSERT_TRUE(buffer) << buffer.error().message;
      EXPECT_EQ(buffer->bytes(), bytes);
      const std::uintptr_t alignment = bytes >= kMapped ? std::uintptr_t{2} << 20 : kBufferAlignment;
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer->data()) % alignment, 0U);
      EXPECT_TRUE(is_zero(*buffer));
      std::fill_n(buffer->data(), bytes, std::byte{0xAB});
    }
  }
}

TEST(AlignedBuffer, ZeroBytesAreAllowed) {
  const Result<AlignedBuffer> buffer = AlignedBuffer::allocate(0);
  ASSERT_TRUE(buffer);
  EXPECT_EQ(buffer->bytes(), 0U);
  EXPECT_EQ(AlignedBuffer().bytes(), 0U);
}

TEST(AlignedBuffer, RefusesWhatCannotBeAndNamesTheBytes) {
  for (const std::size_t bytes : {std::numeric_limits<std::size_t>::max(), std::numeric_limits<std::size_t>::max() / 2,
                                  std::size_t{1} << 60, (std::size_t{1} << 60) + 1}) {
    const Result<AlignedBuffer> buffer = AlignedBuffer::allocate(bytes);
    ASSERT_FALSE(buffer) << bytes;
    EXPECT_EQ(buffer.error().code, ErrorCode::no_memory);
    EXPECT_NE(buffer.error().message.find(std::to_string(bytes)), std::string::npos) << buffer.error().message;
  }
}

TEST(AlignedBuffer, MovesOwnership) {
  for (const std::size_t bytes : {std::size_t{100}, std::size_t{5} << 20}) {
    Result<AlignedBuffer> made = AlignedBuffer::allocate(bytes);
    ASSERT_TRUE(made);
    AlignedBuffer first = std::move(*made);
    std::byte* const memory = first.data();
    AlignedBuffer second = std::move(first);
    EXPECT_EQ(second.data(), memory);
    EXPECT_EQ(second.bytes(), bytes);
    EXPECT_EQ(first.data(), nullptr);  // NOLINT(bugprone-use-after-move): the state after a move is what is tested
    EXPECT_EQ(first.bytes(), 0U);
    second.as<float>()[3] = 1.5F;
    second = AlignedBuffer();
    EXPECT_EQ(second.bytes(), 0U);
  }
}

}  // namespace
}  // namespace quern
