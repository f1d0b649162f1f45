// A model's block-quantized matrices with their rows interleaved, in memory or in a file beside the model's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "infer/weight_placement.hpp"
#include "math/exec.hpp"
#include "math/page_block.hpp"
#include "math/result.hpp"
#include "math/thread_team.hpp"
#include "model/gguf_mapping.hpp"
#include "model/weights.hpp"

namespace quern {

/// A matrix that can be interleaved, and where it lies among all of them.
struct InterleavedPiece {
  Weight* weight = nullptr;  ///< in the ModelWeights that were asked about
  std::size_t offset = 0;    ///< multiple of kBufferAlignment
  std::size_t bytes = 0;
};

/// Every matrix of `weights` that can be interleaved for `backend`, in a fixed order: products with blocks against int8
/// exist for its type, its rows (each expert's) are whole groups, and it is not the embedding table too, whose rows are
/// read one by one.
[[nodiscard]] std::vector<InterleavedPiece> interleaved_pieces(const Backend& backend, ModelWeights& weights);
/// Bytes of all pieces with the gaps between them.
[[nodiscard]] std::size_t interleaved_bytes(const std::vector<InterleavedPiece>& pieces);

/// Owns the memory, or the mapping, that weights view once they were interleaved. Move-only; views stay valid.
class InterleavedWeights {
 public:
  /// Called when a piece's source is no longer read.
  using Release = std::function<void(const Weight& source)>;

  InterleavedWeights() = default;

  /// Copies all pieces into memory and makes their weights views of it. Errors: no_memory where the system refuses; io
  /// "interrupted" where options.stop said so.
  [[nodiscard]] static Result<InterleavedWeights> in_memory(const Backend& backend, ThreadTeam& team,
                                                            const std::vector<InterleavedPiece>& pieces,
                                                            const PlacementOptions& options, const Release& release);

  /// Interleaves the pieces where they lie: the memory is the caller's, who can write it.
  static void in_place(const Backend& backend, ThreadTeam& team, const std::vector<InterleavedPiece>& pieces);

  /// Writes all pieces to a file at `path`, beside it and renamed. `key` says which weights they are (interleaved_key).
  [[nodiscard]] static Result<void> write_file(const std::string& path, std::uint64_t key, const Backend& backend,
                                               ThreadTeam& team, const std::vector<InterleavedPiece>& pieces,
                                               const PlacementOptions& options, const Release& release);

  /// Maps a file of write_file() and makes the pieces' weights views of it. Error bad_input where the file is another one:
  /// other weights, instruction set, version or length.
  [[nodiscard]] static Result<InterleavedWeights> from_file(const std::string& path, std::uint64_t key,
                                                            const std::vector<InterleavedPiece>& pieces);

  /// What the weights lie in; empty without any.
  [[nodiscard]] std::span<const std::byte> bytes() const;
  /// Bytes that lie in huge pages now.
  [[nodiscard]] std::uint64_t huge_page_bytes() const { return memory_.huge_bytes(); }

 private:
  PageBlock memory_;
  internal::MappedFile file_;
};

/// What tells a model file's interleaved weights from others: the layout, the types and shapes of the pieces, and the
/// file's length and time of last change.
[[nodiscard]] std::uint64_t interleaved_key(const Backend& backend, const std::vector<InterleavedPiece>& pieces,
                                            std::uint64_t file_bytes, std::int64_t file_time);

/// Where the file for `model` is kept: beside it, its name with ".interleaved8" or ".interleaved16" appended.
[[nodiscard]] std::string interleaved_path(const std::string& model, const Backend& backend);

}  // namespace quern
