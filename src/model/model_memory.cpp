#include "model/model_memory.hpp"

#include <algorithm>
#include <limits>

#include "model/kv_cache.hpp"

namespace quern {
namespace {

// Elements that a decoder keeps for a batch, all of 4 bytes; the terms are its buffers. In double: no product of valid
// fields overflows, and an estimate needs no more digits.
double working_elements(const ModelConfig& c, std::int64_t batch) {
  const auto real = [](std::int64_t value) { return static_cast<double>(value); };
  const double pre_and_activation = (c.gated() ? 3.0 : 1.0) * real(c.mlp_width);
  double row = 2.0 * real(c.width);                    // residual stream, norm
  row += real(c.qkv_width()) + real(c.query_width());  // projections, attention
  row += c.post_norms ? real(c.width) : 0.0;           // a half's output before its norm
  if (c.experts > 0) {
    row += real(c.experts);  // router
    row += real(c.experts_used) * (pre_and_activation + 2.0 * real(c.width));
  } else {
    row += pre_and_activation;
  }
  return real(batch) * row + 2.0 * real(c.width) + real(c.vocab);  // and one row of logits
}

std::size_t saturated(double bytes) {
  constexpr double kMost = 9e18;
  return bytes < kMost ? static_cast<std::size_t>(bytes) : std::numeric_limits<std::size_t>::max();
}

}  // namespace

std::optional<std::size_t> RunMemory::total_bytes(std::size_t kv_type) const {
  std::size_t total = 0;
  if (!kv_bytes[kv_type] || __builtin_add_overflow(weight_bytes, *kv_bytes[kv_type], &total) ||
      __builtin_add_overflow(total, working_bytes, &total)) {
    return std::nullopt;
  }
  return total;
}

RunMemory run_memory(const ModelConfig& config, std::size_t weight_bytes, std::int64_t context_tokens,
                     std::int64_t batch_tokens) {
  RunMemory memory;
  memory.context_tokens = context_tokens;
  memory.batch_tokens = std::min(batch_tokens, context_tokens);
  memory.weight_bytes = weight_bytes;
  for (std::size_t i = 0; i < kReportedKvTypes.size(); ++i) {
    const std::size_t bytes = KvCache::bytes_needed(config, kReportedKvTypes[i], context_tokens, 1, memory.batch_tokens);
    if (bytes != std::numeric_limits<std::size_t>::max()) memory.kv_bytes[i] = bytes;
  }
  memory.working_bytes = saturated(4.0 * working_elements(config, memory.batch_tokens));
  return memory;
}

}  // namespace quern
