#include "train/corpus.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>

#include "model/atomic_file.hpp"
#include "model/hdf5_file.hpp"
#include "model/hdf5_user_block.hpp"

namespace quern {
namespace {

constexpr std::string_view kFormat = "quern-corpus";
constexpr std::int64_t kFormatVersion = 2;  // 2: with a user block

// Tokens of a chunk in the file and of a block in the cache: 64 KiB in the file as uint16. A random window of training reads
// one or two chunks, so larger ones would read more than they use; much smaller ones pay HDF5's cost per chunk.
constexpr std::int64_t kChunkTokens = 32768;
constexpr std::int64_t kMaxChunkBytes = 16 << 20;
constexpr std::size_t kMaxTokenizerBytes = std::size_t{256} << 20;

Hdf5Type token_type(std::int64_t vocab_size) { return vocab_size <= 65536 ? Hdf5Type::u16 : Hdf5Type::u32; }

// One split's tokens in memory: blocks in sets of a few ways, the least recently used of a set making room. Where the whole
// split fits, every block has its own place. Nothing is allocated after create().
class BlockCache {
 public:
  void create(std::int64_t tokens, std::size_t cache_bytes) {
    const std::int64_t blocks = (tokens + kChunkTokens - 1) / kChunkTokens;
    const auto fitting = static_cast<std::int64_t>(cache_bytes / (kChunkTokens * sizeof(std::int32_t)));
    if (blocks <= std::max<std::int64_t>(fitting, 1)) {
      ways_ = 1;
      sets_ = blocks;
    } else {
      ways_ = std::min<std::int64_t>(8, std::max<std::int64_t>(fitting, 1));
      sets_ = std::max<std::int64_t>(fitting, 1) / ways_;
    }
    places_.resize(static_cast<std::size_t>(sets_ * ways_));
    memory_.resize(places_.size() * static_cast<std::size_t>(std::min(kChunkTokens, std::max<std::int64_t>(tokens, 1))));
    block_tokens_ = std::min(kChunkTokens, std::max<std::int64_t>(tokens, 1));
  }

  // The block's tokens where it is here; else nullptr, and `room` is where to put it before calling keep().
  const std::int32_t* find(std::int64_t block, std::int32_t*& room) {
    const std::int64_t set = block % sets_;
    std::int64_t oldest = set * ways_;
    for (std::int64_t way = set * ways_; way < (set + 1) * ways_; ++way) {
      if (places_[way].block == block) {
        places_[way].used = ++clock_;
        return memory_.data() + way * block_tokens_;
      }
      if (places_[way].used < places_[oldest].used) oldest = way;
    }
    chosen_ = oldest;
    places_[oldest] = {-1, 0};
    room = memory_.data() + oldest * block_tokens_;
    return nullptr;
  }
  void keep(std::int64_t block) { places_[chosen_] = {block, ++clock_}; }

 private:
  struct Place {
    std::int64_t block = -1;
    std::uint64_t used = 0;
  };
  std::vector<Place> places_;
  std::vector<std::int32_t> memory_;
  std::int64_t sets_ = 1;
  std::int64_t ways_ = 1;
  std::int64_t block_tokens_ = 1;
  std::int64_t chosen_ = 0;
  std::uint64_t clock_ = 0;
};

}  // namespace

std::string_view split_name(Split split) { return split == Split::train ? "train" : "validation"; }

struct Corpus::State {
  struct SplitState {
    Hdf5Dataset dataset;
    std::vector<std::int64_t> documents;
    std::int64_t text_bytes = 0;
    std::mutex mutex;  // guards what follows
    BlockCache cache;
    std::vector<std::uint16_t> narrow;  // a block as stored
    std::vector<std::uint32_t> wide;
  };
  std::string path;
  CorpusInfo info;
  Tokenizer tokenizer;
  Hdf5File file;
  std::array<SplitState, 2> splits;

  Result<void> load(const Options& options);
  Result<void> load_split(Split split, const Options& options);
  Result<void> load_block(SplitState& split, std::int64_t block, std::int32_t* out) const;
};

Result<Corpus> Corpus::open(const std::string& path, const Options& options) {
  if (auto whole = internal::check_user_block(path, internal::kCorpusBlock); !whole) {
    return tl::make_unexpected(whole.error());
  }
  auto file = Hdf5File::open(path);
  if (!file) return tl::make_unexpected(file.error());
  auto state = std::make_shared<State>();
  state->path = path;
  state->file = std::move(*file);
  if (auto loaded = state->load(options); !loaded) return tl::make_unexpected(loaded.error());
  return Corpus(std::move(state));
}

Result<void> Corpus::State::load(const Options& options) {
  const Hdf5Group& root = file.root();
  const auto format = root.string_attribute("format");
  if (!format) {
    return bad_input(fmt::format("{}: expected a corpus made by `quern data prepare`, found another HDF5 file", path));
  }
  if (*format != kFormat) {
    return bad_input(fmt::format("{}: attribute \"format\": expected \"{}\", found \"{}\"", path, kFormat, *format));
  }
  const auto version = root.int64_attribute("format_version");
  if (!version) return tl::make_unexpected(version.error());
  if (*version != kFormatVersion) {
    return bad_input(fmt::format("{}: attribute \"format_version\": expected {}, found {}", path, kFormatVersion, *version));
  }
  auto quern_version = root.string_attribute("quern_version");
  if (!quern_version) return tl::make_unexpected(quern_version.error());
  auto source = root.string_attribute("source");
  if (!source) return tl::make_unexpected(source.error());
  auto hash = root.string_attribute("source_xxh3");
  if (!hash) return tl::make_unexpected(hash.error());
  const auto bytes = root.int64_attribute("source_bytes");
  if (!bytes) return tl::make_unexpected(bytes.error());
  if (*bytes < 0)
    return bad_input(fmt::format("{}: attribute \"source_bytes\": expected at least 0, found {}", path, *bytes));
  info = {std::move(*source), *bytes, std::move(*hash), std::move(*quern_version)};

  const auto json = root.read_text("tokenizer", kMaxTokenizerBytes);
  if (!json) return tl::make_unexpected(json.error());
  auto parsed = Tokenizer::from_json(*json, path + ": /tokenizer");
  if (!parsed) return tl::make_unexpected(parsed.error());
  tokenizer = std::move(*parsed);
  const auto vocab_size = root.int64_attribute("vocab_size");
  if (!vocab_size) return tl::make_unexpected(vocab_size.error());
  if (*vocab_size != tokenizer.vocab_size()) {
    return bad_input(fmt::format("{}: attribute \"vocab_size\": expected {}, as the tokenizer has, found {}", path,
                                 tokenizer.vocab_size(), *vocab_size));
  }
  for (const Split split : kSplits) {
    if (auto loaded = load_split(split, options); !loaded) return loaded;
  }
  return {};
}

Result<void> Corpus::State::load_split(Split split, const Options& options) {
  SplitState& state = splits[static_cast<std::size_t>(split)];
  const auto group = file.root().open_group(std::string(split_name(split)));
  if (!group) return tl::make_unexpected(group.error());
  const auto bytes = group->int64_attribute("text_bytes");
  if (!bytes) return tl::make_unexpected(bytes.error());
  if (*bytes < 0 || *bytes > info.source_bytes) {
    return bad_input(
        fmt::format("{}: attribute \"text_bytes\": expected 0 to {}, found {}", group->where(), info.source_bytes, *bytes));
  }
  state.text_bytes = *bytes;

  // A dataset's extent is only a claim: what is stored must cover it before anything of that size is allocated.
  const std::array<std::int64_t, 1> any = {-1};
  const auto check = [&any](const Hdf5Dataset& dataset, Hdf5Type type) -> Result<void> {
    if (auto right = dataset.expect(type, any); !right) return right;
    if (dataset.compressed() || dataset.chunk_bytes() > kMaxChunkBytes) {
      return bad_input(fmt::format("{}: expected uncompressed chunks of at most {} bytes, found {}{}", dataset.where(),
                                   kMaxChunkBytes, dataset.chunk_bytes(), dataset.compressed() ? ", compressed" : ""));
    }
    const std::int64_t needed = dataset.rows() * static_cast<std::int64_t>(hdf5_type_bytes(type));
    if (dataset.stored_bytes() < needed) {
      return bad_input(
          fmt::format("{}: expected {} bytes in the file, found {}", dataset.where(), needed, dataset.stored_bytes()));
    }
    if (dataset.rows() == 0) return bad_input(fmt::format("{}: expected at least one entry, found none", dataset.where()));
    return {};
  };
  auto tokens = group->open_dataset("tokens");
  if (!tokens) return tl::make_unexpected(tokens.error());
  if (auto right = check(*tokens, token_type(tokenizer.vocab_size())); !right) return right;
  auto documents = group->open_dataset("documents");
  if (!documents) return tl::make_unexpected(documents.error());
  if (auto right = check(*documents, Hdf5Type::i64); !right) return right;
  if (documents->rows() > tokens->rows()) {
    return bad_input(fmt::format("{}: expected at most {} entries, one per token, found {}", documents->where(),
                                 tokens->rows(), documents->rows()));
  }
  state.documents.resize(static_cast<std::size_t>(documents->rows()));
  if (auto read = documents->read(std::span(state.documents)); !read) return read;
  std::int64_t previous = -1;
  for (std::size_t i = 0; i < state.documents.size(); ++i) {
    const std::int64_t start = state.documents[i];
    if (start <= previous || start >= tokens->rows() || (i == 0 && start != 0)) {
      return bad_input(fmt::format("{}: entry {}: expected ascending starts from 0 below {}, found {} after {}",
                                   documents->where(), i, tokens->rows(), start, previous));
    }
    previous = start;
  }
  state.dataset = std::move(*tokens);
  state.cache.create(state.dataset.rows(), options.cache_bytes);
  const auto block = static_cast<std::size_t>(std::min(kChunkTokens, state.dataset.rows()));
  if (state.dataset.type() == Hdf5Type::u16) {
    state.narrow.resize(block);
  } else {
    state.wide.resize(block);
  }
  return {};
}

Result<void> Corpus::State::load_block(SplitState& split, std::int64_t block, std::int32_t* out) const {
  const std::int64_t first = block * kChunkTokens;
  const std::int64_t count = std::min(kChunkTokens, split.dataset.rows() - first);
  const auto vocab = static_cast<std::uint64_t>(tokenizer.vocab_size());
  const auto take = [&](auto& raw) -> Result<void> {
    const auto part = std::span(raw).first(static_cast<std::size_t>(count));
    if (auto read = split.dataset.read_rows(first, count, part); !read) return read;
    for (std::int64_t i = 0; i < count; ++i) {
      if (part[i] >= vocab) {
        return bad_input(fmt::format("{}: token {}: expected less than the vocabulary's {}, found {}", split.dataset.where(),
                                     first + i, vocab, part[i]));
      }
      out[i] = static_cast<std::int32_t>(part[i]);
    }
    return {};
  };
  return split.dataset.type() == Hdf5Type::u16 ? take(split.narrow) : take(split.wide);
}

const std::string& Corpus::path() const { return state_->path; }
const CorpusInfo& Corpus::info() const { return state_->info; }
const Tokenizer& Corpus::tokenizer() const { return state_->tokenizer; }
std::int64_t Corpus::tokens(Split split) const { return state_->splits[static_cast<std::size_t>(split)].dataset.rows(); }
std::int64_t Corpus::text_bytes(Split split) const { return state_->splits[static_cast<std::size_t>(split)].text_bytes; }
std::span<const std::int64_t> Corpus::documents(Split split) const {
  return state_->splits[static_cast<std::size_t>(split)].documents;
}

Result<void> Corpus::read(Split which, std::int64_t offset, std::span<std::int32_t> out) const {
  State::SplitState& split = state_->splits[static_cast<std::size_t>(which)];
  const auto count = static_cast<std::int64_t>(out.size());
  if (offset < 0 || count > split.dataset.rows() || offset > split.dataset.rows() - count) {
    return bad_input(fmt::format("{}: {} tokens from {} on lie outside its {}", split.dataset.where(), count, offset,
                                 split.dataset.rows()));
  }
  const std::lock_guard guard(split.mutex);
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t block = (offset + done) / kChunkTokens;
    const std::int64_t within = (offset + done) % kChunkTokens;
    std::int32_t* room = nullptr;
    const std::int32_t* tokens = split.cache.find(block, room);
    if (tokens == nullptr) {
      if (auto loaded = state_->load_block(split, block, room); !loaded) return loaded;
      split.cache.keep(block);
      tokens = room;
    }
    const std::int64_t part = std::min(kChunkTokens - within, count - done);
    std::copy_n(tokens + within, part, out.data() + done);
    done += part;
  }
  return {};
}

// ---- writing

struct CorpusWriter::State {
  struct SplitState {
    Hdf5Dataset dataset;
    std::vector<std::int32_t> pending;  // tokens not written yet: less than a chunk
    std::vector<std::int64_t> documents;
    std::int64_t tokens = 0;
    std::int64_t text_bytes = 0;
  };
  AtomicFile file;
  Hdf5File hdf5;  // open on the file's temporary name
  std::int64_t vocab_size = 0;
  std::array<SplitState, 2> splits;

  SplitState& split(Split which) { return splits[static_cast<std::size_t>(which)]; }
  Result<void> write_pending(SplitState& target, std::int64_t count);
};

CorpusWriter::CorpusWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
CorpusWriter::CorpusWriter(CorpusWriter&&) noexcept = default;
CorpusWriter& CorpusWriter::operator=(CorpusWriter&&) noexcept = default;
CorpusWriter::~CorpusWriter() = default;

std::int64_t CorpusWriter::tokens(Split split) const { return state_->split(split).tokens; }
std::int64_t CorpusWriter::text_bytes(Split split) const { return state_->split(split).text_bytes; }

Result<CorpusWriter> CorpusWriter::create(const std::string& path, const Tokenizer& tokenizer) {
  auto file = AtomicFile::create(path);
  if (!file) return tl::make_unexpected(file.error());
  auto hdf5 = Hdf5File::create(file->temporary_path(), internal::kUserBlockBytes);
  if (!hdf5) return tl::make_unexpected(hdf5.error());
  auto state = std::make_unique<State>(State{std::move(*file), std::move(*hdf5), tokenizer.vocab_size(), {}});
  Hdf5Group& root = state->hdf5.root();
  if (auto written = root.write_text("tokenizer", tokenizer.to_json()); !written)
    return tl::make_unexpected(written.error());
  for (const Split split : kSplits) {
    auto dataset = root.create_dataset(fmt::format("{}/tokens", split_name(split)), {.type = token_type(state->vocab_size),
                                                                                     .shape = {0},
                                                                                     .chunk_rows = kChunkTokens,
                                                                                     .growable = true,
                                                                                     .checksum = true});
    if (!dataset) return tl::make_unexpected(dataset.error());
    state->split(split).dataset = std::move(*dataset);
  }
  return CorpusWriter(std::move(state));
}

void CorpusWriter::begin_document(Split split) {
  State::SplitState& target = state_->split(split);
  // A document that got no tokens leaves no trace.
  if (target.documents.empty() || target.documents.back() != target.tokens) target.documents.push_back(target.tokens);
}

Result<void> CorpusWriter::append(Split split, std::span<const std::int32_t> tokens, std::int64_t text_bytes) {
  State::SplitState& target = state_->split(split);
  target.pending.insert(target.pending.end(), tokens.begin(), tokens.end());
  target.tokens += std::ssize(tokens);
  target.text_bytes += text_bytes;
  const std::int64_t whole = std::ssize(target.pending) / kChunkTokens * kChunkTokens;
  return whole > 0 ? state_->write_pending(target, whole) : Result<void>();
}

Result<void> CorpusWriter::State::write_pending(SplitState& target, std::int64_t count) {
  const std::int64_t first = target.dataset.rows();
  if (auto resized = target.dataset.resize_rows(first + count); !resized) return resized;
  const auto write = [&](auto zero) -> Result<void> {
    using Stored = decltype(zero);
    std::vector<Stored> values(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int32_t token = target.pending[i];
      if (token < 0 || token >= vocab_size) {
        return bad_input(
            fmt::format("{}: token {}: expected 0 to {}, found {}", file.path(), first + i, vocab_size - 1, token));
      }
      values[i] = static_cast<Stored>(token);
    }
    return target.dataset.write_rows(first, count, std::span<const Stored>(values));
  };
  auto written = target.dataset.type() == Hdf5Type::u16 ? write(std::uint16_t{0}) : write(std::uint32_t{0});
  if (!written) return written;
  target.pending.erase(target.pending.begin(), target.pending.begin() + count);
  return {};
}

Result<void> CorpusWriter::finish(const CorpusInfo& info) {
  Hdf5Group& root = state_->hdf5.root();
  for (const Split split : kSplits) {
    State::SplitState& target = state_->split(split);
    if (target.tokens == 0 || target.documents.empty() || target.documents.front() != 0) {
      return bad_input(fmt::format("{}: the {} split has no tokens", info.source, split_name(split)));
    }
    if (!target.pending.empty()) {
      if (auto written = state_->write_pending(target, std::ssize(target.pending)); !written) return written;
    }
    if (target.documents.back() == target.tokens) target.documents.pop_back();
    auto group = root.open_group(std::string(split_name(split)));
    if (!group) return tl::make_unexpected(group.error());
    auto documents = group->create_dataset("documents", {.type = Hdf5Type::i64, .shape = {std::ssize(target.documents)}});
    if (!documents) return tl::make_unexpected(documents.error());
    auto written = documents->write(std::span<const std::int64_t>(target.documents));
    if (written) written = group->set_attribute("text_bytes", target.text_bytes);
    if (!written) return written;
    target.dataset = Hdf5Dataset();
  }
  auto done = root.set_attribute("format", kFormat);
  if (done) done = root.set_attribute("format_version", kFormatVersion);
  if (done) done = root.set_attribute("quern_version", std::string_view(info.quern_version));
  if (done) done = root.set_attribute("source", std::string_view(info.source));
  if (done) done = root.set_attribute("source_bytes", info.source_bytes);
  if (done) done = root.set_attribute("source_xxh3", std::string_view(info.source_xxh3));
  if (done) done = root.set_attribute("vocab_size", state_->vocab_size);
  if (done) done = state_->hdf5.close();
  if (done) done = internal::write_user_block(state_->file.temporary_path(), internal::kCorpusBlock);
  if (done) done = state_->file.commit();
  return done;
}

}  // namespace quern
