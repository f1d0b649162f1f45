#include "tokenizer_of_file.hpp"

#include <fmt/format.h>

#include <filesystem>

#include "model/checkpoint.hpp"
#include "model/file_kind.hpp"
#include "model/gguf_file.hpp"
#include "model/tokenizer_files.hpp"
#include "run_model.hpp"
#include "train/corpus.hpp"

namespace quern::tools {

namespace {

// A tokenizer.json is read whole.
constexpr std::size_t kMaxJsonBytes = std::size_t{1} << 30;

Result<Tokenizer> tokenizer_of_checkpoint(const std::string& path) {
  const auto file = find_checkpoint(path, false);
  if (!file) return tl::make_unexpected(file.error());
  const auto info = read_checkpoint_info(*file);
  if (!info) return tl::make_unexpected(info.error());
  return Tokenizer::from_json(info->tokenizer_json, *file);
}

}  // namespace

Result<Tokenizer> tokenizer_of_file(const std::string& path) {
  const auto start = read_file_start(path);
  if (!start) return tl::make_unexpected(start.error());
  switch (start->kind) {
    case FileKind::folder: {
      for (const char* name : {"tokenizer.json", "tokenizer.model", "vocab.json", "config.json"}) {
        std::error_code code;
        if (std::filesystem::exists(std::filesystem::path(path) / name, code)) return load_huggingface_tokenizer(path);
      }
      return tokenizer_of_checkpoint(path);
    }
    case FileKind::gguf: {
      const auto file = GgufFile::open(path);
      if (!file) return tl::make_unexpected(file.error());
      return Tokenizer::from_gguf(*file);
    }
    case FileKind::corpus: {
      const auto corpus = Corpus::open(path);
      if (!corpus) return tl::make_unexpected(corpus.error());
      return corpus->tokenizer();
    }
    case FileKind::json: {
      const auto text = read_named_file(path, kMaxJsonBytes);
      if (!text) return tl::make_unexpected(text.error());
      return Tokenizer::from_huggingface_json(*text, path);
    }
    case FileKind::checkpoint:
      return tokenizer_of_checkpoint(path);
    case FileKind::other:
      break;
  }
  return bad_input(fmt::format(
      "{}: expected a GGUF model, a tokenizer.json, a checkpoint, a run folder or a corpus, found none of these", path));
}

}  // namespace quern::tools
