// SHA-256 checksums of a GGUF file's tensors, kept in its metadata.
//
// The key `quern.sha256` is an array of strings, one for each tensor in the order of the file:
//
//     HASH TYPE SHAPE NAME        for example "9f86d081... Q4_K 4096x11008 blk.0.ffn_down.weight"
//
// HASH is the SHA-256 (FIPS 180-4) of the tensor's data in 64 lower-case hex digits, without padding: the number that
// llama.cpp's gguf-hash prints per tensor. TYPE and SHAPE (contiguous dimension first) are what the descriptor must say, so
// a tensor whose bytes are as they were but whose description is not is noticed too. NAME comes last: it may hold blanks.
//
// Writing them takes one option: GgufWriter::create(path, {.checksums = true}) hashes the data as they pass and patches the
// reserved entry in finish(); an entry that add() is given from another file is left out. Nothing else is to be done.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "math/element_type.hpp"
#include "math/result.hpp"
#include "math/thread_team.hpp"
#include "model/gguf_file.hpp"

namespace quern {

/// The metadata key.
inline constexpr std::string_view kChecksumKey = "quern.sha256";
/// Hex digits of a hash.
inline constexpr std::size_t kSha256Digits = 64;

/// SHA-256 of bytes that come in pieces. Move-only, not thread-safe.
class Sha256 {
 public:
  Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;
  ~Sha256();
  void update(std::span<const std::byte> bytes);
  /// The hash of all bytes since construction or the last finish(), as kSha256Digits hex digits; begins anew.
  [[nodiscard]] std::string finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// One element of the array.
[[nodiscard]] std::string checksum_line(std::string_view hash, ElementType type, std::span<const std::int64_t> shape,
                                        std::string_view name);

/// What verification found about one tensor.
struct TensorCheck {
  enum class Verdict {
    intact,
    changed,     ///< other data
    described,   ///< the data are as they were, but type or shape are not
    renamed,     ///< the data belong to a listed tensor that is not there: `note` names it
    not_listed,  ///< no checksum
    missing      ///< listed, but not in the file (nor under another name)
  };
  std::string name;
  Verdict verdict = Verdict::intact;
  std::string note;  ///< expected and found; empty when intact
  std::size_t bytes = 0;
};

struct ChecksumReport {
  std::vector<TensorCheck> tensors;  ///< in the file's order, the missing ones at the end
  [[nodiscard]] std::size_t count(TensorCheck::Verdict verdict) const;
  [[nodiscard]] bool intact() const { return count(TensorCheck::Verdict::intact) == tensors.size(); }
};

/// Hashes every tensor of the file, threads side by side, and compares. Mapped pages are given back as they are read.
/// `progress` (may be empty) is called by one thread at a time with bytes hashed and all bytes; an error ends the work.
/// Errors: bad_input where the file has no checksums, or a line that is none.
[[nodiscard]] Result<ChecksumReport> verify_checksums(
    const GgufFile& file, ThreadTeam& team, const std::function<Result<void>(std::size_t done, std::size_t all)>& progress);

}  // namespace quern
