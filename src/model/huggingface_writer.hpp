// What tests of huggingface_writer.cpp reach beside model_stream.hpp.
#pragma once

#include <cstddef>
#include <string>

#include "math/result.hpp"
#include "model/model_stream.hpp"

namespace quern::internal {

/// Published folders cut their files at this size.
inline constexpr std::size_t kShardBytes = 5'000'000'000;

/// write_huggingface with shards of at most `shard_bytes` (a larger tensor is a shard of its own).
[[nodiscard]] Result<void> write_huggingface_shards(const ModelStream& stream, const std::string& folder,
                                                    const StreamWriteOptions& options, std::size_t shard_bytes);

}  // namespace quern::internal
