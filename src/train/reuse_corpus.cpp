#include "train/reuse_corpus.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "train/prepare_source.hpp"

namespace quern {

namespace {

struct FreeHash {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

struct SourceFacts {
  std::int64_t documents = 0;
  std::int64_t bytes = 0;
  std::string xxh3;
};

Result<SourceFacts> read_source(const PrepareOptions& options) {
  const auto source = TextSource::open(options.source, options.field);
  if (!source) return tl::make_unexpected(source.error());
  const std::unique_ptr<XXH3_state_t, FreeHash> state(XXH3_createState());
  XXH3_64bits_reset(state.get());
  SourceFacts facts;
  const auto read = source->read([&](const TextPart& part) -> Result<bool> {
    XXH3_64bits_update(state.get(), part.text.data(), part.text.size());
    facts.bytes += std::ssize(part.text);
    facts.documents += part.first ? 1 : 0;
    if (options.progress) options.progress({"comparing", facts.bytes, 0});
    return true;
  });
  if (!read) return tl::make_unexpected(read.error());
  facts.xxh3 = fmt::format("{:016x}", static_cast<std::uint64_t>(XXH3_64bits_digest(state.get())));
  return facts;
}

/// Whether the training part is what `split` gives: a part of the bytes of one document (short of it by less than one
/// character), of several documents a part of their number.
bool same_split(const Corpus& corpus, const SourceFacts& facts, double split) {
  const auto part = [&](std::int64_t whole) {
    return static_cast<std::int64_t>(std::floor(split * static_cast<double>(whole)));
  };
  if (facts.documents == 1) {
    const std::int64_t short_of = part(facts.bytes) - corpus.text_bytes(Split::train);
    return short_of >= 0 && short_of <= 3;
  }
  return std::ssize(corpus.documents(Split::train)) == std::max<std::int64_t>(1, part(facts.documents));
}

}  // namespace

Result<std::string> corpus_difference(const Corpus& corpus, const PrepareOptions& options) {
  const Tokenizer& tokenizer = corpus.tokenizer();
  if (options.ready_tokenizer) {
    if (!(tokenizer == *options.ready_tokenizer)) {
      return fmt::format("its tokenizer ({}, {} tokens) is not that of {}", tokenizer_kind_name(tokenizer.kind()),
                         tokenizer.vocab_size(), options.ready_tokenizer_name);
    }
  } else if (tokenizer.kind() != options.tokenizer) {
    return fmt::format("its tokenizer is {}, asked for {}", tokenizer_kind_name(tokenizer.kind()),
                       tokenizer_kind_name(options.tokenizer));
  } else if (options.tokenizer == TokenizerKind::bpe && tokenizer.vocab_size() != options.vocab) {
    return fmt::format("its vocabulary has {} tokens, asked for {}", tokenizer.vocab_size(), options.vocab);
  }
  const auto facts = read_source(options);
  if (!facts) return tl::make_unexpected(facts.error());
  if (facts->bytes != corpus.info().source_bytes || facts->xxh3 != corpus.info().source_xxh3) {
    return fmt::format("it was made from other text ({}, {} bytes)", corpus.info().source, corpus.info().source_bytes);
  }
  if (!same_split(corpus, *facts, options.split)) {
    return fmt::format("its training part has {} of {} bytes, asked for a split of {}", corpus.text_bytes(Split::train),
                       corpus.info().source_bytes, options.split);
  }
  return std::string();
}

}  // namespace quern
