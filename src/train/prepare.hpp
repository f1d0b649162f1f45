// Text in, corpus out: reads the source, makes the tokenizer, encodes on all threads, writes the corpus file.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "math/result.hpp"
#include "model/tokenizer.hpp"

namespace quern {

/// How far a preparation has come; bytes of text.
struct PrepareProgress {
  std::string_view stage;  ///< "reading", "counting words", "merging" (tokens instead of bytes), "encoding"
  std::int64_t done = 0;
  std::int64_t total = 0;  ///< 0: not known yet
};

struct PrepareOptions {
  std::string source;                            ///< "kjv", a text file, a folder, or a JSONL file; see TextSource
  std::string out;                               ///< the corpus to write; missing folders are made
  TokenizerKind tokenizer = TokenizerKind::bpe;  ///< to make: characters, bytes or bpe
  std::optional<Tokenizer> ready_tokenizer{};    ///< to take as it is, such as a published model's; `tokenizer` is not read
  std::string ready_tokenizer_name{};            ///< where it came from, for errors
  std::int64_t vocab = 8192;   ///< bpe only: ids in all, end of text included; at least 257. Less where the text gives less
  double split = 0.9;          ///< part that trains, above 0 and below 1
  std::string field = "text";  ///< of JSONL lines
  std::int64_t sample_bytes = std::int64_t{64}
                              << 20;  ///< bpe only: learns from so much of the training text, from its start
  int threads = 0;                    ///< 0: default_thread_count(); the file does not depend on it
  std::string quern_version;          ///< recorded in the file
  std::function<void(const PrepareProgress&)> progress = {};  ///< called on the calling thread
};

struct PrepareReport {
  std::int64_t documents = 0;
  std::int64_t source_bytes = 0;
  std::int64_t vocab_size = 0;
  std::int64_t train_tokens = 0, validation_tokens = 0;
  std::int64_t train_bytes = 0, validation_bytes = 0;
  double tokenizer_seconds = 0;  ///< making the tokenizer
  double encode_seconds = 0;     ///< encoding and writing
  double seconds = 0;            ///< all
};

/// Prepares a corpus. The source is read two or three times and is never in memory as a whole (except "kjv").
///
/// Split: of one document, the first floor(split * bytes) bytes train, less up to three where that would cut a character; of
/// several, the first floor(split * documents) documents, at least one. The rest validates.
/// Tokenizer: characters are those of the whole source, as nanoGPT takes them; BPE learns from the training part only.
/// Several documents are separated by an end-of-text token after each, which byte and character tokenizers then have as an
/// extra id; BPE always has it. A ready tokenizer's end-of-text token separates them, and a document begins with its
/// beginning-of-text token where the vocabulary puts one in front of texts (SpecialTokens::add_bos). Text that spells a
/// special token stays text. Errors, each before anything is written to `out`: source missing, empty or too short for two
/// splits of two tokens; characters asked for and the text is not UTF-8 (file and byte offset); malformed JSONL (file and
/// line); several documents and a ready tokenizer without an end-of-text token; options out of range. The same text and
/// options give the same tokens on any number of threads.
[[nodiscard]] Result<PrepareReport> prepare_corpus(const PrepareOptions& options);

}  // namespace quern
