// Prepared corpora: one HDF5 file of tokens, read lazily, that carries its tokenizer.
//
// File (format 1): attributes of /: format "quern-corpus", format_version, quern_version, source, source_bytes, source_xxh3
// (16 hex digits), vocab_size. Dataset /tokenizer: Tokenizer::to_json as bytes. Groups /train and /validation, each with the
// attribute text_bytes and the datasets `tokens` (uint16 where vocab_size <= 65536, else uint32; chunks with checksums, not
// compressed, so that any window costs one or two small reads) and `documents` (int64: the index of each document's first
// token, ascending from 0). Where there are several documents, each ends with the tokenizer's end-of-text token.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "math/result.hpp"
#include "model/tokenizer.hpp"

namespace quern {

enum class Split : std::uint8_t { train, validation };
inline constexpr std::array<Split, 2> kSplits = {Split::train, Split::validation};
[[nodiscard]] std::string_view split_name(Split split);

/// Where a corpus came from.
struct CorpusInfo {
  std::string source;             ///< as named when it was prepared
  std::int64_t source_bytes = 0;  ///< bytes of text in all documents
  std::string source_xxh3;        ///< XXH3 (64 bits, 16 hex digits) of those bytes
  std::string quern_version;
};

/// An open corpus: a handle, cheap to copy; all members may be called from any thread.
class Corpus {
 public:
  struct Options {
    std::size_t cache_bytes = std::size_t{16} << 20;  ///< decoded tokens kept in memory, per split; allocated at open
  };

  /// Checks the format, every attribute, the types, shapes and stored sizes of all datasets, the tokenizer and the document
  /// starts; tokens are checked when read. Errors name the file, the object, what was expected and what was found.
  [[nodiscard]] static Result<Corpus> open(const std::string& path, const Options& options);
  [[nodiscard]] static Result<Corpus> open(const std::string& path) { return open(path, Options()); }

  [[nodiscard]] const std::string& path() const;
  [[nodiscard]] const CorpusInfo& info() const;
  [[nodiscard]] const Tokenizer& tokenizer() const;
  /// Tokens of a split, end-of-text tokens included.
  [[nodiscard]] std::int64_t tokens(Split split) const;
  /// Bytes of text that a split's tokens stand for: bits per byte = nats * tokens / (ln 2 * text_bytes).
  [[nodiscard]] std::int64_t text_bytes(Split split) const;
  /// Index of each document's first token, ascending from 0. Valid as long as any copy of the corpus.
  [[nodiscard]] std::span<const std::int64_t> documents(Split split) const;

  /// Reads tokens offset .. offset+out.size()-1, through a cache of whole blocks. Error bad_input where the range leaves the
  /// split, a token is not below vocab_size, or a chunk fails its checksum; `out` is then undefined.
  [[nodiscard]] Result<void> read(Split split, std::int64_t offset, std::span<std::int32_t> out) const;

 private:
  struct State;
  explicit Corpus(std::shared_ptr<State> state) : state_(std::move(state)) {}
  std::shared_ptr<State> state_;
};

/// Writes a corpus, document by document, beside its target; finish() puts it in place. Memory does not grow with the tokens
/// (8 bytes per document do stay).
class CorpusWriter {
 public:
  [[nodiscard]] static Result<CorpusWriter> create(const std::string& path, const Tokenizer& tokenizer);
  CorpusWriter(CorpusWriter&&) noexcept;
  CorpusWriter& operator=(CorpusWriter&&) noexcept;
  ~CorpusWriter();

  /// The next tokens of `split` begin a document. Each split's first tokens must.
  void begin_document(Split split);
  /// Appends tokens (0 .. vocab_size-1) that stand for `text_bytes` bytes of text.
  [[nodiscard]] Result<void> append(Split split, std::span<const std::int32_t> tokens, std::int64_t text_bytes);
  [[nodiscard]] std::int64_t tokens(Split split) const;
  [[nodiscard]] std::int64_t text_bytes(Split split) const;

  /// Writes what is left and the description, and renames the file into place. Error bad_input where a split has no tokens.
  [[nodiscard]] Result<void> finish(const CorpusInfo& info);

 private:
  struct State;
  explicit CorpusWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace quern
