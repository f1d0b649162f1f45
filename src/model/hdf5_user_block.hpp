// The 512 bytes in front of the HDF5 part of a checkpoint or corpus: checked before the HDF5 library sees a byte of the
// file.
//
//   0..7    magic, by the kind of file
//   8..11   u32 format version
//   12..15  zero
//   16..23  u64 length of the file after these 512 bytes
//   24..31  u64 XXH3 (64 bits, seed 0) of those bytes
//   32..511 zero
// Numbers are little endian. So no bit of such a file can change unnoticed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "math/result.hpp"

namespace quern::internal {

inline constexpr std::int64_t kUserBlockBytes = 512;

/// A kind of file with a user block.
struct UserBlockKind {
  std::string_view magic;  ///< 8 bytes
  std::uint32_t version = 1;
  std::string_view word;  ///< in messages
};
inline constexpr UserBlockKind kCheckpointBlock{"QUERNCKP", 1, "checkpoint"};
inline constexpr UserBlockKind kCorpusBlock{"QUERNCRP", 2, "corpus"};

/// Hashes what follows the user block of the file and fills the block in. The file is at least kUserBlockBytes long.
[[nodiscard]] Result<void> write_user_block(const std::string& path, const UserBlockKind& kind);

/// Reads the whole file once and checks magic, version, length and hash. Error bad_input says which is wrong; io what the
/// system refused.
[[nodiscard]] Result<void> check_user_block(const std::string& path, const UserBlockKind& kind);

}  // namespace quern::internal
