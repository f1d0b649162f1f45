#include "infer/random_weights.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "math/aligned_buffer.hpp"
#include "math/block_formats.hpp"
#include "math/philox.hpp"
#include "math/quantize.hpp"

namespace quern {
namespace {

/// Elements of a piece: a whole number of every format's blocks.
constexpr std::int64_t kPieceElements = 256;
/// The most pieces of a pool: of Q4_K 576 KiB, which the second-level cache holds while tensors are filled from it. Of rows
/// of 4,096 elements one pair in 256 has a piece in common at the same place.
constexpr std::int64_t kMaxPoolPieces = 4096;
/// Bytes of a thread's task; of the same order as a huge page, so that a page is first touched by one thread.
constexpr std::size_t kTaskBytes = std::size_t{1} << 20;
constexpr float kVectorDeviation = 0.02F;
/// Purposes of RandomStream, apart from each other and from dropout's sites, which count from 0.
constexpr std::uint32_t kPoolPurpose = 0xB0011001U;
constexpr std::uint32_t kVectorPurpose = 0xB0011002U;

/// The finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): 64 mixed bits of a counter.
std::uint64_t mixed(std::uint64_t counter) {
  std::uint64_t z = counter * 0x9E3779B97F4A7C15U;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  return z ^ (z >> 31);
}

bool is_matrix(const GgufTensor& tensor) { return tensor.dimensions >= 2 && tensor.name.ends_with(".weight"); }

/// Pieces of one type for matrices of so many inputs, one after the other.
struct Pool {
  std::int64_t pieces = 0;
  std::vector<std::byte> bytes;  ///< empty until a tensor asks
};

class Maker {
 public:
  Maker(const KernelTable& kernels, ThreadTeam& team, std::uint64_t seed, std::span<const GgufTensor> tensors)
      : kernels_(kernels), team_(team), seed_(seed) {
    for (const GgufTensor& tensor : tensors) {
      if (!is_matrix(tensor)) continue;
      std::int64_t& pieces = pools_[{tensor.type, tensor.shape[0]}].pieces;
      pieces = std::clamp((tensor.elements() + kPieceElements - 1) / kPieceElements, pieces, kMaxPoolPieces);
    }
  }

  void fill(const GgufTensor& tensor, std::uint32_t number, std::byte* out) {
    const bool ones = tensor.name.ends_with("_norm.weight") || tensor.name == "rope_freqs.weight";
    if (is_matrix(tensor)) {
      fill_matrix(tensor, number, out);
    } else {
      const std::span<float> values(reinterpret_cast<float*>(out), static_cast<std::size_t>(tensor.elements()));
      if (ones) {
        std::fill(values.begin(), values.end(), 1.0F);
      } else {
        fill_normal(values, 0.0F, kVectorDeviation, {.seed = seed_, .purpose = kVectorPurpose, .stream = number});
      }
    }
  }

 private:
  void fill_matrix(const GgufTensor& tensor, std::uint32_t number, std::byte* out) {
    const Pool& pool = pool_of(tensor.type, tensor.shape[0]);
    const auto pieces = static_cast<std::uint64_t>(pool.pieces);
    const std::size_t piece_bytes = pool.bytes.size() / pieces;
    const std::size_t pieces_per_task = std::max<std::size_t>(1, kTaskBytes / piece_bytes);
    const std::size_t task_bytes = pieces_per_task * piece_bytes;
    const std::uint64_t start = mixed(seed_ + mixed(number));
    team_.run([&](TeamMember& member) {
      member.for_each(static_cast<std::int64_t>((tensor.bytes + task_bytes - 1) / task_bytes), [&](std::int64_t task) {
        std::size_t at = static_cast<std::size_t>(task) * task_bytes;
        const std::size_t end = std::min(tensor.bytes, at + task_bytes);
        std::uint64_t piece = start + static_cast<std::uint64_t>(task) * pieces_per_task;
        for (; at < end; at += piece_bytes, ++piece) {
          const std::size_t from = static_cast<std::size_t>(mixed(piece) % pieces) * piece_bytes;
          std::memcpy(out + at, pool.bytes.data() + from, std::min(piece_bytes, end - at));
        }
      });
    });
  }

  const Pool& pool_of(ElementType type, std::int64_t inputs) {
    Pool& pool = pools_[{type, inputs}];
    if (!pool.bytes.empty()) return pool;
    std::vector<float> values(static_cast<std::size_t>(pool.pieces * kPieceElements));
    const float deviation = static_cast<float>(1.0 / std::sqrt(static_cast<double>(inputs)));
    team_.run([&](TeamMember& member) {
      member.for_each(pool.pieces, [&](std::int64_t piece) {
        const auto first = static_cast<std::size_t>(piece * kPieceElements);
        fill_normal(std::span(values).subspan(first, static_cast<std::size_t>(kPieceElements)), 0.0F, deviation,
                    {.seed = seed_, .purpose = kPoolPurpose, .stream = static_cast<std::uint32_t>(type)}, first);
      });
    });
    pool.bytes.resize(static_cast<std::size_t>(pool.pieces) * bytes_of(type, kPieceElements).value_or(0));
    (void)quantize(
        kernels_, team_,
        {.type = type, .x = values.data(), .rows = pool.pieces, .cols = kPieceElements, .out = pool.bytes.data()});
    return pool;
  }

  const KernelTable& kernels_;
  ThreadTeam& team_;
  std::uint64_t seed_;
  std::map<std::pair<ElementType, std::int64_t>, Pool> pools_;  // by type and inputs
};

}  // namespace

Result<RandomWeights> RandomWeights::make(const PublishedShape& shape, const KernelTable& kernels, ThreadTeam& team,
                                          const RandomWeightOptions& options) {
  auto types = shape_types(shape, options.mix);
  if (!types) return tl::make_unexpected(types.error());
  RandomWeights weights;
  weights.mix_ = options.mix;
  weights.seed_ = options.seed;
  weights.types_ = std::move(*types);
  std::vector<GgufTensor>& tensors = weights.types_.tensors;
  std::size_t total = 0;
  for (const GgufTensor& tensor : tensors) {
    total += (tensor.bytes + kBufferAlignment - 1) / kBufferAlignment * kBufferAlignment;
  }
  weights.memory_ = PageBlock(total, options.huge_pages);
  if (weights.memory_.data() == nullptr) {
    return no_memory(fmt::format("{}: the system refuses {} bytes for weights", shape.name, total));
  }
  Maker maker(kernels, team, options.seed, tensors);
  std::size_t at = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    std::byte* const data = weights.memory_.data() + at;
    maker.fill(tensors[i], static_cast<std::uint32_t>(i), data);
    tensors[i].data = data;
    at += (tensors[i].bytes + kBufferAlignment - 1) / kBufferAlignment * kBufferAlignment;
    if (options.progress) options.progress(at, total);
  }
  return weights;
}

Result<void> check_model_fits(std::string_view name, const ModelNeeds& needs, std::uint64_t usable_bytes) {
  if (usable_bytes == 0) return {};
  // A double says when the sum is beyond any machine; below that it is exact to a part in 10^15.
  const auto real = [](std::size_t bytes) { return static_cast<double>(bytes); };
  const double all = real(needs.weight_bytes) + real(needs.cache_bytes) + real(needs.working_bytes);
  if (all <= static_cast<double>(usable_bytes)) return {};
  constexpr double kGib = 1024.0 * 1024.0 * 1024.0;
  return bad_input(fmt::format(
      "{} needs {:.2f} GiB ({:.2f} of weights, {:.2f} of KV cache, {:.2f} of working memory), this process may take {:.2f} "
      "GiB; a smaller --type, fewer --sequences or a shorter --depth need less",
      name, all / kGib, real(needs.weight_bytes) / kGib, real(needs.cache_bytes) / kGib, real(needs.working_bytes) / kGib,
      static_cast<double>(usable_bytes) / kGib));
}

}  // namespace quern
