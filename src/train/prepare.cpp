#include "train/prepare.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "math/thread_team.hpp"
#include "model/bpe_trainer.hpp"
#include "model/pretokenizer.hpp"
#include "model/utf8.hpp"
#include "train/corpus.hpp"
#include "train/prepare_source.hpp"

namespace quern {
namespace {

// Text that one thread encodes at a time. The same word is merged once per piece, so pieces should hold many words.
constexpr std::size_t kEncodeBytes = std::size_t{1} << 20;
constexpr std::size_t kMaxJobs = 4096;  // short documents waiting to be encoded
constexpr std::int64_t kMinTokens = 2;  // of a split: an input and its target

double now_seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct FreeHash {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

class TextHash {
 public:
  TextHash() : state_(XXH3_createState()) { XXH3_64bits_reset(state_.get()); }
  void add(std::string_view text) { XXH3_64bits_update(state_.get(), text.data(), text.size()); }
  [[nodiscard]] std::uint64_t value() const { return XXH3_64bits_digest(state_.get()); }

 private:
  std::unique_ptr<XXH3_state_t, FreeHash> state_;
};

// What a first pass over the text finds.
struct Survey {
  std::int64_t documents = 0;
  std::int64_t bytes = 0;
  std::uint64_t hash = 0;
  std::vector<std::int32_t> code_points;  // characters only
};

// Where the training part ends: at a byte of the one document, or after a number of documents.
struct Boundary {
  std::int64_t bytes = 0;
  std::int64_t documents = 0;
  bool by_bytes = true;
};

class Preparation {
 public:
  explicit Preparation(const PrepareOptions& options)
      : options_(options), threads_(options.threads > 0 ? options.threads : default_thread_count()) {}

  Result<PrepareReport> run() {
    const double begin = now_seconds();
    if (auto right = check_options(); !right) return tl::make_unexpected(right.error());
    auto source = TextSource::open(options_.source, options_.field);
    if (!source) return tl::make_unexpected(source.error());
    source_ = std::move(*source);
    auto survey = this->survey();
    if (!survey) return tl::make_unexpected(survey.error());
    survey_ = std::move(*survey);
    if (survey_.bytes == 0) return bad_input(fmt::format("{}: expected text, found none", options_.source));
    choose_boundary();

    const double tokenizer_begin = now_seconds();
    auto tokenizer = make_tokenizer();
    if (!tokenizer) return tl::make_unexpected(tokenizer.error());
    const double encode_begin = now_seconds();
    auto report = encode(*tokenizer);
    if (!report) return report;
    report->documents = survey_.documents;
    report->source_bytes = survey_.bytes;
    report->vocab_size = tokenizer->vocab_size();
    report->tokenizer_seconds = encode_begin - tokenizer_begin;
    report->encode_seconds = now_seconds() - encode_begin;
    report->seconds = now_seconds() - begin;
    return report;
  }

 private:
  Result<void> check_options() const {
    if (!(options_.split > 0 && options_.split < 1)) {
      return bad_input(fmt::format("split: expected a number above 0 and below 1, found {}", options_.split));
    }
    const bool makes_bpe = makes(TokenizerKind::bpe);
    if (makes_bpe && (options_.vocab < 257 || options_.vocab > (1 << 24))) {
      return bad_input(
          fmt::format("vocab: expected 257 to {} (256 bytes, end of text, merges), found {}", 1 << 24, options_.vocab));
    }
    if (makes_bpe && options_.sample_bytes < 1) {
      return bad_input(fmt::format("sample bytes: expected at least 1, found {}", options_.sample_bytes));
    }
    if (options_.out.empty()) return bad_input("out: expected a file name, found none");
    namespace fs = std::filesystem;
    std::error_code error;
    const fs::path out = fs::weakly_canonical(options_.out, error);
    const fs::path source = fs::weakly_canonical(options_.source, error);
    if (!error && (out == source || (fs::is_directory(source, error) && out.string().starts_with(source.string() + "/")))) {
      return bad_input(fmt::format("{}: the corpus would be written into its own source {}", options_.out, options_.source));
    }
    const fs::path folder = fs::path(options_.out).parent_path();
    if (folder.empty()) return {};
    fs::create_directories(folder, error);
    if (!fs::is_directory(folder)) {
      return io_error(fmt::format("{}: cannot make the folder: {}", folder.string(), error.message()));
    }
    return {};
  }

  [[nodiscard]] bool makes(TokenizerKind kind) const { return !options_.ready_tokenizer && options_.tokenizer == kind; }

  void report_progress(std::string_view stage, std::int64_t done, std::int64_t total) const {
    if (options_.progress) options_.progress({stage, done, total});
  }

  Result<Survey> survey() const {
    Survey found;
    TextHash hash;
    const bool characters = makes(TokenizerKind::characters);
    std::vector<bool> seen(characters ? 0x110000 : 0);
    const auto done = source_.read([&](const TextPart& part) -> Result<bool> {
      found.documents += part.first ? 1 : 0;
      found.bytes += std::ssize(part.text);
      hash.add(part.text);
      for (std::size_t at = 0; characters && at < part.text.size();) {
        const Utf8Step step = utf8_step(part.text, at);
        if (step.code_point < 0) {
          return bad_input(fmt::format("{}: expected UTF-8, found byte 0x{:02X} at offset {}", part.where,
                                       static_cast<unsigned char>(part.text[at]),
                                       part.offset + static_cast<std::int64_t>(at)));
        }
        seen[step.code_point] = true;
        at += step.bytes;
      }
      report_progress("reading", found.bytes, 0);
      return true;
    });
    if (!done) return tl::make_unexpected(done.error());
    found.hash = hash.value();
    for (std::size_t i = 0; i < seen.size(); ++i) {
      if (seen[i]) found.code_points.push_back(static_cast<std::int32_t>(i));
    }
    return found;
  }

  void choose_boundary() {
    boundary_.by_bytes = survey_.documents == 1;
    const auto part = [this](std::int64_t whole) {
      return static_cast<std::int64_t>(std::floor(options_.split * static_cast<double>(whole)));
    };
    boundary_.bytes = part(survey_.bytes);
    boundary_.documents = std::max<std::int64_t>(1, part(survey_.documents));
  }

  // Calls `take(split, part)` for each part, cut where training text ends. `first` then is that of the split's documents.
  template <class Take>
  Result<void> read_split(const Take& take) const {
    std::int64_t document = -1;
    bool validation_begun = false;
    return source_.read([&](const TextPart& part) -> Result<bool> {
      document += part.first ? 1 : 0;
      if (!boundary_.by_bytes) return take(document < boundary_.documents ? Split::train : Split::validation, part);
      const std::int64_t wanted = std::clamp<std::int64_t>(boundary_.bytes - part.offset, 0, std::ssize(part.text));
      const std::size_t cut = utf8_boundary_before(part.text, static_cast<std::size_t>(wanted));
      if (cut > 0) {
        TextPart training = part;
        training.text = part.text.substr(0, cut);
        training.last = cut == part.text.size() && part.last;
        auto answer = take(Split::train, training);
        if (!answer || !*answer) return answer;
      }
      if (cut == part.text.size()) return true;
      TextPart rest = part;
      rest.text = part.text.substr(cut);
      rest.offset = part.offset + static_cast<std::int64_t>(cut);
      rest.first = !std::exchange(validation_begun, true);
      return take(Split::validation, rest);
    });
  }

  Result<Tokenizer> make_tokenizer() const {
    const bool separate = survey_.documents > 1;
    if (options_.ready_tokenizer) {
      if (separate && !options_.ready_tokenizer->end_of_text()) {
        return bad_input(fmt::format("{}: the tokenizer has no end-of-text token to separate the {} documents of {} with",
                                     options_.ready_tokenizer_name, survey_.documents, options_.source));
      }
      return *options_.ready_tokenizer;
    }
    if (options_.tokenizer == TokenizerKind::bytes) return Tokenizer::bytes(separate);
    if (options_.tokenizer == TokenizerKind::characters) return Tokenizer::characters(survey_.code_points, separate);
    auto pretokenizer = Pretokenizer::create({gpt2_pattern()});
    if (!pretokenizer) return tl::make_unexpected(pretokenizer.error());
    WordCounter counter(std::move(*pretokenizer), threads_);
    std::int64_t sampled = 0;
    const std::int64_t wanted = std::min(options_.sample_bytes, survey_.bytes);
    const auto counted = read_split([&](Split split, const TextPart& part) -> Result<bool> {
      if (split == Split::validation) return false;
      std::string_view text = part.text;
      const std::int64_t room = options_.sample_bytes - sampled;
      if (std::ssize(text) > room) text = text.substr(0, utf8_boundary_before(text, static_cast<std::size_t>(room)));
      counter.add(text);
      sampled += std::ssize(text);
      report_progress("counting words", sampled, wanted);
      return std::ssize(text) < room;
    });
    if (!counted) return tl::make_unexpected(counted.error());
    BpeTrainingOptions training{.tokens = options_.vocab - 1};
    training.progress = [this](std::int64_t done, std::int64_t total) { report_progress("merging", done, total); };
    auto merges = train_bpe(counter.sorted(), training);
    if (!merges) return tl::make_unexpected(merges.error());
    return Tokenizer::bpe(*merges, true);
  }

  struct Job {
    std::string text;
    std::string where;        // file, or file:line
    std::int64_t offset = 0;  // of the text in its document
    Split split = Split::train;
    bool first = false;  // begins a document of its split
    bool last = false;   // ends its document
    std::vector<std::int32_t> tokens;
    std::optional<Error> error;
  };

  Result<PrepareReport> encode(const Tokenizer& tokenizer) {
    auto writer = CorpusWriter::create(options_.out, tokenizer);
    if (!writer) return tl::make_unexpected(writer.error());
    TextHash hash;
    std::vector<Job> jobs;
    std::size_t waiting_bytes = 0;
    std::int64_t done_bytes = 0;
    const auto flush = [&]() -> Result<void> {
      encode_jobs(tokenizer, jobs);
      for (Job& job : jobs) {
        if (job.error) return tl::make_unexpected(*job.error);
        if (job.first) writer->begin_document(job.split);
        if (job.last && survey_.documents > 1) job.tokens.push_back(*tokenizer.end_of_text());
        if (auto added = writer->append(job.split, job.tokens, std::ssize(job.text)); !added) return added;
        done_bytes += std::ssize(job.text);
      }
      jobs.clear();
      waiting_bytes = 0;
      report_progress("encoding", done_bytes, survey_.bytes);
      return {};
    };
    auto read = read_split([&](Split split, const TextPart& part) -> Result<bool> {
      hash.add(part.text);
      for (std::size_t at = 0; at < part.text.size();) {
        const std::string_view text = part.text.substr(at);
        const std::size_t cut = text.size() > kEncodeBytes ? cut_between_pieces(text, kEncodeBytes) : text.size();
        Job& job = jobs.emplace_back();
        job.text = text.substr(0, cut);
        job.where = part.where;
        job.offset = part.offset + static_cast<std::int64_t>(at);
        job.split = split;
        job.first = part.first && at == 0;
        job.last = part.last && cut == text.size();
        at += cut;
        waiting_bytes += cut;
        if (waiting_bytes >= kEncodeBytes * static_cast<std::size_t>(threads_) || jobs.size() >= kMaxJobs) {
          if (auto flushed = flush(); !flushed) return tl::make_unexpected(flushed.error());
        }
      }
      return true;
    });
    if (read) read = flush();
    if (!read) return tl::make_unexpected(read.error());
    if (hash.value() != survey_.hash) {
      return bad_input(fmt::format("{}: the text changed while it was read", options_.source));
    }
    for (const Split split : kSplits) {
      if (writer->tokens(split) < kMinTokens) {
        return bad_input(fmt::format("{}: too short: the {} split would have {} tokens, at least {} are needed",
                                     options_.source, split_name(split), writer->tokens(split), kMinTokens));
      }
    }
    PrepareReport report;
    report.train_tokens = writer->tokens(Split::train);
    report.validation_tokens = writer->tokens(Split::validation);
    report.train_bytes = writer->text_bytes(Split::train);
    report.validation_bytes = writer->text_bytes(Split::validation);
    const CorpusInfo info = {options_.source, survey_.bytes, fmt::format("{:016x}", survey_.hash), options_.quern_version};
    if (auto finished = writer->finish(info); !finished) return tl::make_unexpected(finished.error());
    return report;
  }

  void encode_jobs(const Tokenizer& tokenizer, std::vector<Job>& jobs) const {
    std::atomic<std::size_t> next{0};
    const auto work = [&] {
      for (std::size_t i = next.fetch_add(1); i < jobs.size(); i = next.fetch_add(1)) {
        Job& job = jobs[i];
        const SpecialTokens& special = tokenizer.special_tokens();
        const bool continues = job.offset > 0;
        if (!continues && special.add_bos && special.bos) job.tokens.push_back(*special.bos);
        auto encoded = tokenizer.encode_append(job.text, job.tokens, {.continues = continues});
        if (encoded) continue;
        job.error = encoded.error();
        job.error->message = fmt::format("{}: in the text from byte {} on: {}", job.where, job.offset, job.error->message);
      }
    };
    std::vector<std::thread> helpers;
    for (std::size_t t = 1; t < std::min(static_cast<std::size_t>(threads_), jobs.size()); ++t) helpers.emplace_back(work);
    work();
    for (std::thread& helper : helpers) helper.join();
  }

  const PrepareOptions& options_;
  int threads_;
  TextSource source_;
  Survey survey_;
  Boundary boundary_;
};

}  // namespace

Result<PrepareReport> prepare_corpus(const PrepareOptions& options) { return Preparation(options).run(); }

}  // namespace quern
