#include "infer/logits_base.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace quern {

namespace {

constexpr std::string_view kFormat = "logits-base";
constexpr std::int64_t kVersion = 1;
constexpr double kDepthNats = 24.0;
constexpr double kSteps = 65535.0;
// Rows of a chunk of the HDF5 dataset: about this many bytes, which its chunk cache holds.
constexpr std::int64_t kChunkBytes = std::int64_t{256} << 10;
// Bounds on what a file may claim.
constexpr std::int64_t kMostVocab = std::int64_t{1} << 24;
constexpr std::int64_t kMostTokens = std::int64_t{1} << 32;

std::int64_t rows_per_chunk(std::int64_t bytes_per_row, std::int64_t rows) {
  return std::clamp<std::int64_t>(kChunkBytes / bytes_per_row, 1, std::max<std::int64_t>(rows, 1));
}

/// Log-probabilities as steps; `scales` gets the log-probability of step 0 and the size of a step.
void quantize_row(const ScoredRow& row, std::span<std::uint16_t> steps, std::span<float> scales) {
  float smallest = row.logits[0], largest = row.logits[0];
  for (const float logit : row.logits) {
    smallest = std::min(smallest, logit);
    largest = std::max(largest, logit);
  }
  const double top = largest - row.log_normalizer;
  const auto low = static_cast<float>(std::max(smallest - row.log_normalizer, top - kDepthNats));
  const auto step = static_cast<float>((top - low) / kSteps);
  scales[0] = low;
  scales[1] = step;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const double log_probability = row.logits[i] - row.log_normalizer;
    const double place = step > 0.0F ? (log_probability - low) / step : 0.0;
    steps[i] = static_cast<std::uint16_t>(std::clamp(std::round(place), 0.0, kSteps));
  }
}

/// Calls `each(first, count)` for every run of rows with consecutive indices; `first` is a place in `rows`.
template <class Each>
Result<void> for_runs(std::span<const ScoredRow> rows, const Each& each) {
  for (std::size_t first = 0; first < rows.size();) {
    std::size_t end = first + 1;
    while (end < rows.size() && rows[end].index == rows[end - 1].index + 1) ++end;
    if (Result<void> done = each(first, end - first); !done) return done;
    first = end;
  }
  return {};
}

/// KL divergence of one row, and whether the model's likeliest token is (one of) the base's. With the base's weights
/// e_i = exp(b_i), S = sum e_i and p_i = e_i / S: sum p_i (log p_i - log q_i) = sum e_i (b_i - log q_i) / S - log S.
double row_divergence(const ScoredRow& row, std::span<const std::uint16_t> steps, std::span<const float> scales,
                      std::uint8_t& top_same) {
  const double low = scales[0], step = scales[1];
  double sum = 0.0, weighted = 0.0;
  std::size_t top = 0;
  std::uint16_t base_top = 0;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const double base = low + step * steps[i];
    const double weight = std::exp(base);
    sum += weight;
    if (weight > 0.0) weighted += weight * (base - (row.logits[i] - row.log_normalizer));
    if (row.logits[i] > row.logits[top]) top = i;
    base_top = std::max(base_top, steps[i]);
  }
  top_same = steps[top] == base_top ? 1 : 0;
  return weighted / sum - std::log(sum);
}

/// The value below which this share of the sorted values lies, interpolated between neighbours.
double percentile(std::span<const double> sorted, double share) {
  if (sorted.empty()) return 0.0;
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

}  // namespace

Result<LogitsBaseWriter> LogitsBaseWriter::create(const std::string& path, const ScoringChunks& chunks, std::int64_t vocab,
                                                  const std::string& model) {
  auto target = AtomicFile::create(path);
  if (!target) return tl::make_unexpected(target.error());
  auto file = Hdf5File::create(target->temporary_path());
  if (!file) return tl::make_unexpected(file.error());
  LogitsBaseWriter writer(std::move(*target), std::move(*file));
  Hdf5Group& root = writer.file_.root();
  for (auto done : {root.set_attribute("quern_format", kFormat), root.set_attribute("version", kVersion),
                    root.set_attribute("context", chunks.context), root.set_attribute("vocab", vocab),
                    root.set_attribute("model", std::string_view(model).substr(0, 4096))}) {
    if (!done) return tl::make_unexpected(done.error());
  }
  const std::int64_t rows = chunks.rows();
  auto tokens = root.create_dataset("tokens", {.type = Hdf5Type::i32,
                                               .shape = {chunks.count(), chunks.context},
                                               .chunk_rows = rows_per_chunk(4 * chunks.context, chunks.count()),
                                               .checksum = true});
  if (!tokens) return tl::make_unexpected(tokens.error());
  if (auto done = tokens->write<std::int32_t>(chunks.tokens); !done) return tl::make_unexpected(done.error());
  const auto dataset = [&](const char* name, Hdf5Type type, std::vector<std::int64_t> shape) {
    const std::int64_t row_bytes =
        static_cast<std::int64_t>(hdf5_type_bytes(type)) * (shape.size() > 1 ? shape[1] : std::int64_t{1});
    return root.create_dataset(
        name, {.type = type, .shape = std::move(shape), .chunk_rows = rows_per_chunk(row_bytes, rows), .checksum = true});
  };
  auto log_probabilities = dataset("log_probabilities", Hdf5Type::u16, {rows, vocab});
  if (!log_probabilities) return tl::make_unexpected(log_probabilities.error());
  auto scales = dataset("scales", Hdf5Type::f32, {rows, 2});
  if (!scales) return tl::make_unexpected(scales.error());
  auto nll = dataset("negative_log_likelihood", Hdf5Type::f64, {rows});
  if (!nll) return tl::make_unexpected(nll.error());
  writer.log_probabilities_ = std::move(*log_probabilities);
  writer.scales_ = std::move(*scales);
  writer.nll_ = std::move(*nll);
  writer.vocab_ = vocab;
  return writer;
}

Result<void> LogitsBaseWriter::write(std::span<const ScoredRow> rows, ThreadTeam& team) {
  const auto vocab = static_cast<std::size_t>(vocab_);
  steps_.resize(rows.size() * vocab);
  row_scales_.resize(rows.size() * 2);
  row_nll_.resize(rows.size());
  team.run([&](TeamMember& member) {
    member.for_each(std::ssize(rows), [&](std::int64_t task) {
      const auto i = static_cast<std::size_t>(task);
      quantize_row(rows[i], std::span(steps_).subspan(i * vocab, vocab), std::span(row_scales_).subspan(2 * i, 2));
      row_nll_[i] = rows[i].log_normalizer - rows[i].logits[static_cast<std::size_t>(rows[i].target)];
    });
  });
  return for_runs(rows, [&](std::size_t first, std::size_t count) -> Result<void> {
    const auto run = static_cast<std::int64_t>(count);
    const std::int64_t at = rows[first].index;
    auto done =
        log_probabilities_.write_rows<std::uint16_t>(at, run, std::span(steps_).subspan(first * vocab, count * vocab));
    if (done) done = scales_.write_rows<float>(at, run, std::span(row_scales_).subspan(2 * first, 2 * count));
    if (done) done = nll_.write_rows<double>(at, run, std::span(row_nll_).subspan(first, count));
    return done;
  });
}

Result<void> LogitsBaseWriter::commit() {
  for (Hdf5Dataset* dataset : {&log_probabilities_, &scales_, &nll_}) *dataset = Hdf5Dataset();
  if (auto closed = file_.close(); !closed) return closed;
  return target_.commit();
}

Result<LogitsBase> LogitsBase::open(const std::string& path) {
  auto file = Hdf5File::open(path);
  if (!file) return tl::make_unexpected(file.error());
  LogitsBase base;
  base.path_ = path;
  base.file_ = std::move(*file);
  const Hdf5Group& root = base.file_.root();
  if (!root.has_attribute("quern_format") || root.string_attribute("quern_format").value_or("") != kFormat) {
    return bad_input(path + ": not a file of base predictions, which quern perplexity --save-base writes");
  }
  const auto version = root.int64_attribute("version");
  if (!version) return tl::make_unexpected(version.error());
  if (*version != kVersion) return bad_input(fmt::format("{}: version {}, this program reads {}", path, *version, kVersion));
  const auto context = root.int64_attribute("context");
  if (!context) return tl::make_unexpected(context.error());
  const auto vocab = root.int64_attribute("vocab");
  if (!vocab) return tl::make_unexpected(vocab.error());
  if (*context < 4 || *context > kMostTokens || *vocab < 1 || *vocab > kMostVocab) {
    return bad_input(
        fmt::format("{}: a context of {} tokens and a vocabulary of {} are out of range", path, *context, *vocab));
  }
  base.vocab_ = *vocab;
  base.model_ = root.string_attribute("model").value_or("");

  auto tokens = root.open_dataset("tokens");
  if (!tokens) return tl::make_unexpected(tokens.error());
  if (auto shape = tokens->expect(Hdf5Type::i32, std::array<std::int64_t, 2>{-1, *context}); !shape) {
    return tl::make_unexpected(shape.error());
  }
  const std::int64_t chunks = tokens->rows();
  // What was never written takes no room: a small file cannot claim a large text.
  if (chunks < 1 || tokens->elements() > kMostTokens || tokens->stored_bytes() < tokens->elements() * 4) {
    return bad_input(fmt::format("{}: the tokens of {} chunks are not all there", path, chunks));
  }
  base.chunks_.context = *context;
  base.chunks_.tokens.resize(static_cast<std::size_t>(tokens->elements()));
  if (auto read = tokens->read<std::int32_t>(base.chunks_.tokens); !read) return tl::make_unexpected(read.error());
  for (const std::int32_t token : base.chunks_.tokens) {
    if (token < 0 || token >= *vocab) {
      return bad_input(fmt::format("{}: token {} is outside the vocabulary of {}", path, token, *vocab));
    }
  }
  const std::int64_t rows = base.chunks_.rows();
  const auto open_rows = [&](const char* name, Hdf5Type type, std::span<const std::int64_t> shape) -> Result<Hdf5Dataset> {
    auto dataset = root.open_dataset(name);
    if (!dataset) return dataset;
    if (auto fits = dataset->expect(type, shape); !fits) return tl::make_unexpected(fits.error());
    if (dataset->chunk_bytes() > (std::int64_t{1} << 30)) return bad_input(dataset->where() + ": its chunks are too large");
    return dataset;
  };
  auto log_probabilities = open_rows("log_probabilities", Hdf5Type::u16, std::array<std::int64_t, 2>{rows, *vocab});
  if (!log_probabilities) return tl::make_unexpected(log_probabilities.error());
  auto scales = open_rows("scales", Hdf5Type::f32, std::array<std::int64_t, 2>{rows, 2});
  if (!scales) return tl::make_unexpected(scales.error());
  auto nll = open_rows("negative_log_likelihood", Hdf5Type::f64, std::array<std::int64_t, 1>{rows});
  if (!nll) return tl::make_unexpected(nll.error());
  base.nll_.resize(static_cast<std::size_t>(rows));
  if (auto read = nll->read<double>(base.nll_); !read) return tl::make_unexpected(read.error());
  if (!std::all_of(base.nll_.begin(), base.nll_.end(), [](double x) { return x >= 0.0 || x > -1e-6; })) {
    return bad_input(nll->where() + ": holds values that are no negative log-likelihoods");
  }
  base.log_probabilities_ = std::move(*log_probabilities);
  base.scales_ = std::move(*scales);
  return base;
}

Result<void> LogitsBase::read(std::int64_t first, std::int64_t count, std::span<std::uint16_t> steps,
                              std::span<float> scales) const {
  if (auto done = log_probabilities_.read_rows<std::uint16_t>(first, count, steps); !done) return done;
  if (auto done = scales_.read_rows<float>(first, count, scales); !done) return done;
  for (const float scale : scales) {
    if (!std::isfinite(scale)) return bad_input(scales_.where() + ": holds values that are not finite");
  }
  return {};
}

KlComparison::KlComparison(const LogitsBase& base)
    : base_(base),
      divergence_(static_cast<std::size_t>(base.chunks().rows())),
      top_same_(static_cast<std::size_t>(base.chunks().rows())) {}

Result<void> KlComparison::add(std::span<const ScoredRow> rows, ThreadTeam& team) {
  const auto vocab = static_cast<std::size_t>(base_.vocab());
  if (!rows.empty() && rows[0].logits.size() != vocab) {
    return bad_input(fmt::format("{}: made with a vocabulary of {} tokens, the model has {}", base_.path(), vocab,
                                 rows[0].logits.size()));
  }
  steps_.resize(rows.size() * vocab);
  scales_.resize(rows.size() * 2);
  const auto read = for_runs(rows, [&](std::size_t first, std::size_t count) {
    return base_.read(rows[first].index, static_cast<std::int64_t>(count),
                      std::span(steps_).subspan(first * vocab, count * vocab),
                      std::span(scales_).subspan(2 * first, 2 * count));
  });
  if (!read) return read;
  team.run([&](TeamMember& member) {
    member.for_each(std::ssize(rows), [&](std::int64_t task) {
      const auto i = static_cast<std::size_t>(task);
      const auto index = static_cast<std::size_t>(rows[i].index);
      divergence_[index] = row_divergence(rows[i], std::span(steps_).subspan(i * vocab, vocab),
                                          std::span(scales_).subspan(2 * i, 2), top_same_[index]);
    });
  });
  return {};
}

KlSummary KlComparison::summary(std::span<const double> negative_log_likelihoods) const {
  KlSummary summary;
  const std::span<const double> base_nll = base_.negative_log_likelihoods();
  summary.rows = std::ssize(divergence_);
  const MeanAndError divergence = mean_and_error(divergence_);
  summary.mean = divergence.mean;
  summary.mean_error = divergence.error;
  std::vector<double> values = divergence_;
  std::sort(values.begin(), values.end());
  summary.smallest = values.front();
  summary.largest = values.back();
  summary.percentile_99_9 = percentile(values, 0.999);
  summary.percentile_99 = percentile(values, 0.99);
  summary.percentile_95 = percentile(values, 0.95);
  summary.percentile_90 = percentile(values, 0.90);
  summary.median = percentile(values, 0.50);
  summary.percentile_10 = percentile(values, 0.10);
  summary.percentile_5 = percentile(values, 0.05);
  summary.percentile_1 = percentile(values, 0.01);

  values.assign(top_same_.begin(), top_same_.end());
  const MeanAndError top = mean_and_error(values);
  summary.top_agreement = top.mean;
  summary.top_agreement_error = top.error;

  double squares = 0.0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double change = std::exp(-negative_log_likelihoods[i]) - std::exp(-base_nll[i]);
    squares += change * change;
    values[i] = change;
  }
  summary.rms_probability_change = std::sqrt(squares / static_cast<double>(values.size()));
  summary.mean_probability_change = mean_and_error(values).mean;

  summary.model = perplexity_of(negative_log_likelihoods);
  summary.base = perplexity_of(base_nll);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = negative_log_likelihoods[i] - base_nll[i];
  const MeanAndError ratio = mean_and_error(values);
  summary.perplexity_ratio = std::exp(ratio.mean);
  summary.perplexity_ratio_error = summary.perplexity_ratio * ratio.error;
  return summary;
}

}  // namespace quern
