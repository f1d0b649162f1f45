// Text to prepare, whatever it comes from, as a stream of documents in parts.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "math/result.hpp"

namespace quern {

/// A part of a document, at most a few megabytes (a line of JSONL is one part). Parts end at character boundaries and, where
/// there is white space, between GPT-2's pieces (cut_between_pieces). Views hold until the sink returns.
struct TextPart {
  std::string_view text;    ///< not empty
  std::string_view where;   ///< file, or file:line
  std::int64_t offset = 0;  ///< of the text in its document, in bytes
  bool first = false;       ///< begins its document
  bool last = false;        ///< ends its document
};

/// A source that can be read any number of times.
class TextSource {
 public:
  /// `source` is "kjv" (what Debian's program `bible` prints, run once and kept in memory), a folder (its files and those of
  /// folders inside it, sorted by path, hidden ones left out: one document each), a file named *.jsonl or *.ndjson (one JSON
  /// object per line, the text under `field`; blank lines are skipped), or any other file (one document).
  [[nodiscard]] static Result<TextSource> open(const std::string& source, const std::string& field);

  [[nodiscard]] const std::string& name() const { return name_; }

  /// Passes every part, in order, to `sink`, until it returns false or an error. Empty documents are left out. Text comes as
  /// it is, valid UTF-8 or not (JSONL must be valid).
  using Sink = std::function<Result<bool>(const TextPart&)>;
  [[nodiscard]] Result<void> read(const Sink& sink) const;

 private:
  enum class Kind { memory, files, jsonl };
  Kind kind_ = Kind::files;
  std::string name_;
  std::string field_;
  std::string text_;                // memory
  std::vector<std::string> files_;  // files; or the one JSONL file
};

}  // namespace quern
