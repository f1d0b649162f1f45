#include "infer/importance_matrix.hpp"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "model/atomic_file.hpp"
#include "model/file_kind.hpp"
#include "model/gguf_values.hpp"
#include "model/gguf_writer.hpp"

namespace quern {

namespace {

constexpr std::string_view kType = "imatrix";
constexpr std::string_view kSumsEnd = ".in_sum2";
constexpr std::string_view kCountsEnd = ".counts";
/// Larger .dat files do not exist: a model of 1,000 matrices with 100,000 inputs each has 400 MB.
constexpr std::size_t kMaxDatBytes = std::size_t{4} << 30;

/// The first value that is no sum of squares.
const float* first_unusable(std::span<const float> values) {
  for (const float& value : values) {
    if (!std::isfinite(value) || value < 0.0F) return &value;
  }
  return nullptr;
}

Result<void> check_values(const std::string& where, std::string_view name, std::span<const float> values,
                          std::string_view what) {
  const float* bad = first_unusable(values);
  if (bad == nullptr) return {};
  return bad_input(fmt::format("{}: {} of {}: value {} is {}, expected finite and not negative", where, what,
                               internal::shown(name), bad - values.data(), *bad));
}

std::vector<float> floats_of(const GgufTensor& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
  std::memcpy(values.data(), tensor.data, values.size() * sizeof(float));
  return values;
}

/// Reads a .dat file's numbers and names, and never past its end.
class DatReader {
 public:
  explicit DatReader(std::string_view bytes) : rest_(bytes) {}
  [[nodiscard]] bool at_end() const { return rest_.empty(); }
  [[nodiscard]] std::size_t left() const { return rest_.size(); }

  bool number(std::int32_t& out) {
    if (rest_.size() < sizeof out) return false;
    std::memcpy(&out, rest_.data(), sizeof out);
    rest_.remove_prefix(sizeof out);
    return true;
  }
  bool text(std::int64_t bytes, std::string_view& out) {
    if (bytes < 0 || static_cast<std::uint64_t>(bytes) > rest_.size()) return false;
    out = rest_.substr(0, static_cast<std::size_t>(bytes));
    rest_.remove_prefix(out.size());
    return true;
  }

 private:
  std::string_view rest_;
};

}  // namespace

std::vector<float> ImportanceMatrix::importance(std::string_view tensor, std::int64_t matrix) const {
  const auto found = weights.find(tensor);
  if (found == weights.end()) return {};
  const ActivationSums& sums = found->second;
  if (matrix < 0 || matrix >= sums.matrices || !(sums.counts[static_cast<std::size_t>(matrix)] > 0.0F)) return {};
  const float count = sums.counts[static_cast<std::size_t>(matrix)];
  const auto first = sums.sum2.begin() + matrix * sums.cols;
  std::vector<float> mean(first, first + sums.cols);
  for (float& value : mean) value /= count;
  return mean;
}

Result<ImportanceMatrix> importance_matrix_from_gguf(const GgufFile& file) {
  const std::string& where = file.name();
  const auto type = file.require_string("general.type");
  if (!type) return tl::make_unexpected(type.error());
  if (*type != kType) {
    return bad_input(fmt::format("{}: general.type must be '{}', found '{}'", where, kType, internal::shown(*type)));
  }
  ImportanceMatrix matrix;
  const auto datasets = file.strings("imatrix.datasets");
  if (!datasets) return tl::make_unexpected(datasets.error());
  matrix.datasets.assign(datasets->begin(), datasets->end());
  constexpr std::int64_t kMost = std::numeric_limits<std::uint32_t>::max();
  const auto chunks = file.integer_or("imatrix.chunk_count", 0, 0, kMost);
  if (!chunks) return tl::make_unexpected(chunks.error());
  const auto chunk_tokens = file.integer_or("imatrix.chunk_size", 0, 0, kMost);
  if (!chunk_tokens) return tl::make_unexpected(chunk_tokens.error());
  matrix.chunks = *chunks;
  matrix.chunk_tokens = *chunk_tokens;

  for (const GgufTensor& tensor : file.tensors()) {
    if (!tensor.name.ends_with(kSumsEnd)) {
      if (tensor.name.ends_with(kCountsEnd)) continue;
      return bad_input(fmt::format("{}: tensor {} is none of an importance matrix, whose names end in {} or {}", where,
                                   internal::shown(tensor.name), kSumsEnd, kCountsEnd));
    }
    const std::string name(tensor.name.substr(0, tensor.name.size() - kSumsEnd.size()));
    const GgufTensor* counts = file.find_tensor(name + std::string(kCountsEnd));
    if (counts == nullptr) {
      return bad_input(fmt::format("{}: tensor {}{} is missing", where, internal::shown(name), kCountsEnd));
    }
    if (tensor.type != ElementType::f32 || counts->type != ElementType::f32) {
      return bad_input(fmt::format("{}: the sums and counts of {} must have type F32", where, internal::shown(name)));
    }
    if (tensor.shape[2] != 1 || tensor.shape[3] != 1 || counts->elements() != tensor.shape[1]) {
      return bad_input(fmt::format("{}: {} has sums of {} matrices but {} counts", where, internal::shown(name),
                                   tensor.shape[1] * tensor.shape[2] * tensor.shape[3], counts->elements()));
    }
    ActivationSums sums{
        .cols = tensor.shape[0], .matrices = tensor.shape[1], .sum2 = floats_of(tensor), .counts = floats_of(*counts)};
    if (auto good = check_values(where, name, sums.sum2, "sums"); !good) return tl::make_unexpected(good.error());
    if (auto good = check_values(where, name, sums.counts, "counts"); !good) return tl::make_unexpected(good.error());
    matrix.weights.emplace(name, std::move(sums));
  }
  if (matrix.weights.empty()) return bad_input(fmt::format("{}: an importance matrix of no tensors", where));
  return matrix;
}

Result<ImportanceMatrix> importance_matrix_from_dat(std::string_view bytes, const std::string& where) {
  DatReader reader(bytes);
  std::int32_t entries = 0;
  if (!reader.number(entries) || entries < 1) {
    return bad_input(
        fmt::format("{}: expected an importance matrix: a GGUF file, or the number of its entries first", where));
  }
  const auto damaged = [&](std::int32_t entry, std::string_view what) {
    return bad_input(fmt::format("{}: entry {} of {}: {}", where, entry + 1, entries, what));
  };
  ImportanceMatrix matrix;
  for (std::int32_t entry = 0; entry < entries; ++entry) {
    std::int32_t length = 0;
    std::int32_t calls = 0;
    std::int32_t values = 0;
    std::string_view name;
    std::string_view data;
    if (!reader.number(length) || length < 1 || !reader.text(length, name)) {
      return damaged(entry, fmt::format("a name of {} bytes, {} are left", length, reader.left()));
    }
    if (!reader.number(calls) || calls < 0 || !reader.number(values) || values < 1 ||
        !reader.text(std::int64_t{values} * 4, data)) {
      return damaged(entry, fmt::format("{}: {} calls and {} values, {} bytes are left", internal::shown(name), calls,
                                        values, reader.left()));
    }
    ActivationSums sums{.cols = values, .matrices = 1, .sum2 = {}, .counts = {static_cast<float>(std::max(calls, 1))}};
    sums.sum2.resize(static_cast<std::size_t>(values));
    std::memcpy(sums.sum2.data(), data.data(), data.size());
    if (auto good = check_values(where, name, sums.sum2, "values"); !good) return tl::make_unexpected(good.error());
    if (!matrix.weights.emplace(name, std::move(sums)).second) {
      return damaged(entry, fmt::format("{} is there twice", internal::shown(name)));
    }
  }
  if (reader.at_end()) return matrix;
  std::int32_t chunks = 0;
  std::int32_t length = 0;
  std::string_view dataset;
  if (!reader.number(chunks) || chunks < 0 || !reader.number(length) || !reader.text(length, dataset) || !reader.at_end()) {
    return bad_input(
        fmt::format("{}: after its {} entries: expected a number of chunks and a data set's name", where, entries));
  }
  matrix.chunks = chunks;
  if (!dataset.empty()) matrix.datasets.emplace_back(dataset);
  return matrix;
}

Result<ImportanceMatrix> load_importance_matrix(const std::string& path) {
  const auto start = read_file_start(path);
  if (!start) return tl::make_unexpected(start.error());
  if (start->kind == FileKind::gguf) {
    const auto file = GgufFile::open(path);
    if (!file) return tl::make_unexpected(file.error());
    return importance_matrix_from_gguf(*file);
  }
  if (start->kind != FileKind::other && start->kind != FileKind::json) {
    return bad_input(fmt::format("{}: expected an importance matrix, a GGUF or .dat file", path));
  }
  const auto bytes = read_whole_file(path, kMaxDatBytes);
  if (!bytes) return tl::make_unexpected(bytes.error());
  return importance_matrix_from_dat(*bytes, path);
}

Result<void> save_importance_matrix(const ImportanceMatrix& matrix, const std::string& path) {
  auto writer = GgufWriter::create(path);
  if (!writer) return tl::make_unexpected(writer.error());
  writer->add_string("general.type", kType);
  writer->add_strings("imatrix.datasets", std::span<const std::string>(matrix.datasets));
  writer->add_integer("imatrix.chunk_count", GgufType::u32, matrix.chunks);
  writer->add_integer("imatrix.chunk_size", GgufType::u32, matrix.chunk_tokens);
  for (const auto& [name, sums] : matrix.weights) {
    const std::int64_t sum_shape[] = {sums.cols, sums.matrices};
    const std::int64_t count_shape[] = {1, sums.matrices};
    writer->declare_tensor(name + std::string(kSumsEnd), ElementType::f32, sum_shape);
    writer->declare_tensor(name + std::string(kCountsEnd), ElementType::f32, count_shape);
  }
  if (auto begun = writer->begin_data(); !begun) return begun;
  for (const auto& [name, sums] : matrix.weights) {
    if (auto written = writer->write(std::as_bytes(std::span(sums.sum2))); !written) return written;
    if (auto written = writer->write(std::as_bytes(std::span(sums.counts))); !written) return written;
  }
  return writer->finish();
}

Result<void> fit_importance_matrix(ImportanceMatrix& matrix, const GgufFile& model, std::string_view where) {
  for (auto& [name, sums] : matrix.weights) {
    const GgufTensor* tensor = model.find_tensor(name);
    if (tensor == nullptr) continue;
    const std::int64_t cols = tensor->shape[0];
    const std::int64_t matrices = tensor->shape[2] * tensor->shape[3];
    // Sums that all experts share are those of one; apart only where a .dat file holds all columns in a row.
    if (sums.matrices == 1 && matrices > 1 && sums.cols / matrices == cols && sums.cols % matrices == 0) {
      sums.cols = cols;
      sums.matrices = matrices;
      sums.counts.assign(static_cast<std::size_t>(matrices), sums.counts.front());
    }
    if (sums.cols != cols || sums.matrices != matrices) {
      return bad_input(fmt::format("{}: {} has {} columns of {} matrices, in {} it has {} of {}", where,
                                   internal::shown(name), sums.cols, sums.matrices, model.name(), cols, matrices));
    }
  }
  return {};
}

}  // namespace quern
