#include "describe_corpus.hpp"

#include <fmt/format.h>

#include <cstddef>
#include <string>

namespace quern::tools {
namespace {

std::string megabytes(std::int64_t bytes) { return fmt::format("{:.2f} MB", static_cast<double>(bytes) * 1e-6); }

double bytes_per_token(const Corpus& corpus, Split split) {
  return static_cast<double>(corpus.text_bytes(split)) / static_cast<double>(corpus.tokens(split));
}

}  // namespace

void print_corpus(const Corpus& corpus) {
  const CorpusInfo& info = corpus.info();
  fmt::print("{}\n", corpus.path());
  fmt::print("  {:<12}{} ({}, XXH3 {}), prepared by quern {}\n", "source", info.source, megabytes(info.source_bytes),
             info.source_xxh3, info.quern_version);
  fmt::print("  {:<12}{}, {} tokens\n", "tokenizer", tokenizer_kind_name(corpus.tokenizer().kind()),
             corpus.tokenizer().vocab_size());
  for (const Split split : kSplits) {
    const std::size_t documents = corpus.documents(split).size();
    fmt::print("  {:<12}{} tokens in {} document{}, {}, {:.2f} bytes per token\n", split_name(split), corpus.tokens(split),
               documents, documents == 1 ? "" : "s", megabytes(corpus.text_bytes(split)), bytes_per_token(corpus, split));
  }
}

nlohmann::ordered_json corpus_json(const Corpus& corpus) {
  const CorpusInfo& info = corpus.info();
  nlohmann::ordered_json json = {{"file", corpus.path()},
                                 {"source", info.source},
                                 {"source_bytes", info.source_bytes},
                                 {"source_xxh3", info.source_xxh3},
                                 {"quern_version", info.quern_version},
                                 {"tokenizer", tokenizer_kind_name(corpus.tokenizer().kind())},
                                 {"vocab", corpus.tokenizer().vocab_size()}};
  for (const Split split : kSplits) {
    json[std::string(split_name(split))] = {{"tokens", corpus.tokens(split)},
                                            {"text_bytes", corpus.text_bytes(split)},
                                            {"documents", corpus.documents(split).size()}};
  }
  return json;
}

}  // namespace quern::tools
