// The 512 bytes in front of a checkpoint's HDF5 part: checked before the HDF5 library sees a byte of the file.
//
//   0..7    magic "QUERNCKP"
//   8..11   u32 format version
//   12..15  zero
//   16..23  u64 length of the file after these 512 bytes
//   24..31  u64 XXH3 (64 bits, seed 0) of those bytes
//   32..511 zero
// Numbers are little endian. So no bit of a checkpoint can change unnoticed.
#pragma once

#include <cstdint>
#include <string>

#include "math/result.hpp"

namespace quern::internal {

inline constexpr std::int64_t kUserBlockBytes = 512;
inline constexpr std::uint32_t kCheckpointVersion = 1;

/// Hashes what follows the user block of the file and fills the block in. The file is at least kUserBlockBytes long.
[[nodiscard]] Result<void> write_user_block(const std::string& path);

/// Reads the whole file once and checks magic, version, length and hash. Error bad_input says which is wrong; io what the
/// system refused.
[[nodiscard]] Result<void> check_user_block(const std::string& path);

}  // namespace quern::internal
