#include "infer/quantize_model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "math/block_formats.hpp"
#include "model/gguf_values.hpp"
#include "model/gguf_writer.hpp"

namespace quern {
namespace {

using internal::shown;

/// Elements that are quantized together: 8 MiB of f32, which stay in cache between decoding and quantizing and keep all
/// threads busy for milliseconds. A multiple of every format's block.
constexpr std::int64_t kPieceElements = std::int64_t{1} << 21;
/// Elements that one thread decodes at a time.
constexpr std::int64_t kDecodedElements = std::int64_t{1} << 15;
/// Source bytes that are copied together.
constexpr std::size_t kCopiedBytes = std::size_t{4} << 20;
/// Source bytes that the system is asked to read ahead of use: half a second of a fast disk.
constexpr std::size_t kAheadBytes = std::size_t{256} << 20;
constexpr std::size_t kAheadStep = std::size_t{16} << 20;
/// Pieces on their way to the file; more would only hide pauses of the disk that last longer.
constexpr std::size_t kBuffers = 4;

using Bytes = std::vector<std::byte>;

/// Writes pieces in the order in which they are put, in a thread of its own. The writer is this object's from construction
/// to finish().
class Output {
 public:
  explicit Output(GgufWriter& writer) : writer_(writer), free_(kBuffers), thread_([this] { run(); }) {}
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;
  ~Output() { close(); }

  /// A buffer to fill; waits for one. The error is that of an earlier piece.
  [[nodiscard]] Result<Bytes> take() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !free_.empty() || error_; });
    if (error_) return tl::make_unexpected(*error_);
    Bytes bytes = std::move(free_.back());
    free_.pop_back();
    return bytes;
  }
  void put(Bytes bytes) {
    const std::scoped_lock lock(mutex_);
    pieces_.push_back(std::move(bytes));
    changed_.notify_all();
  }
  /// Waits until all is written.
  [[nodiscard]] Result<void> finish() {
    close();
    if (error_) return tl::make_unexpected(*error_);
    return {};
  }

 private:
  void close() {
    {
      const std::scoped_lock lock(mutex_);
      closed_ = true;
      changed_.notify_all();
    }
    if (thread_.joinable()) thread_.join();
  }
  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return !pieces_.empty() || closed_; });
      if (pieces_.empty()) return;
      Bytes bytes = std::move(pieces_.front());
      pieces_.pop_front();
      if (!error_) {
        lock.unlock();
        auto written = writer_.write(bytes);
        lock.lock();
        if (!written) error_ = written.error();
      }
      free_.push_back(std::move(bytes));
      changed_.notify_all();
    }
  }

  GgufWriter& writer_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Bytes> pieces_;  // to be written
  std::vector<Bytes> free_;
  std::optional<Error> error_;
  bool closed_ = false;
  std::thread thread_;  // the last: it uses the others
};

/// A part of a tensor's data, as GgufFile advises the system about.
GgufTensor part_of(const GgufTensor& tensor, std::size_t begin, std::size_t bytes) {
  GgufTensor part = tensor;
  part.data += begin;
  part.bytes = bytes;
  return part;
}

/// Has the system read the tensors' data some way ahead of use.
class ReadAhead {
 public:
  ReadAhead(const GgufFile& file, std::span<const TensorChoice> choices) : file_(file), choices_(choices) {}
  /// `used` source bytes, counted in the order of the choices, are done with.
  void advance(std::size_t used) {
    while (next_ < choices_.size() && asked_ < used + kAheadBytes) {
      const GgufTensor& tensor = *choices_[next_].tensor;
      const std::size_t bytes = std::min(kAheadStep, tensor.bytes - in_tensor_);
      file_.will_need(part_of(tensor, in_tensor_, bytes));
      asked_ += bytes;
      in_tensor_ += bytes;
      if (in_tensor_ == tensor.bytes) {
        in_tensor_ = 0;
        ++next_;
      }
    }
  }

 private:
  const GgufFile& file_;
  std::span<const TensorChoice> choices_;
  std::size_t next_ = 0, in_tensor_ = 0, asked_ = 0;
};

/// The work on one file.
class Quantizer {
 public:
  Quantizer(const GgufFile& file, std::span<const TensorChoice> choices, const KernelTable& kernels, ThreadTeam& team,
            const QuantizeOptions& options, Output& output)
      : file_(file),
        choices_(choices),
        kernels_(kernels),
        team_(team),
        options_(options),
        output_(output),
        ahead_(file, choices) {
    for (const TensorChoice& choice : choices) all_bytes_ += choice.tensor->bytes;
  }

  [[nodiscard]] Result<std::vector<QuantizedTensor>> run() {
    std::vector<QuantizedTensor> results;
    ahead_.advance(0);
    for (const TensorChoice& choice : choices_) {
      QuantizedTensor result{.choice = choice, .bytes = choice.tensor->bytes, .error = {}, .used_importance = false};
      auto done = choice.quantize ? quantize_tensor(choice, result) : copy(*choice.tensor);
      if (!done) return tl::make_unexpected(done.error());
      results.push_back(std::move(result));
    }
    return results;
  }

 private:
  /// `bytes` from `begin` on of the tensor are done with.
  Result<void> done_with(const GgufTensor& tensor, std::size_t begin, std::size_t bytes) {
    file_.release(part_of(tensor, begin, bytes));
    done_bytes_ += bytes;
    ahead_.advance(done_bytes_);
    if (begin + bytes == tensor.bytes) ++done_tensors_;
    return options_.progress ? options_.progress(done_tensors_, done_bytes_, all_bytes_) : Result<void>();
  }

  Result<void> copy(const GgufTensor& tensor) {
    for (std::size_t begin = 0; begin < tensor.bytes; begin += kCopiedBytes) {
      const std::size_t bytes = std::min(kCopiedBytes, tensor.bytes - begin);
      auto buffer = output_.take();
      if (!buffer) return tl::make_unexpected(buffer.error());
      buffer->resize(bytes);
      std::memcpy(buffer->data(), tensor.data + begin, bytes);
      output_.put(std::move(*buffer));
      if (auto done = done_with(tensor, begin, bytes); !done) return done;
    }
    return {};
  }

  /// The importance of matrix `matrix`; empty: none.
  Result<std::vector<float>> importance(const GgufTensor& tensor, std::int64_t matrix) const {
    if (options_.importance == nullptr) return std::vector<float>();
    auto columns = options_.importance->importance(tensor.name, matrix);
    if (!columns.empty() && static_cast<std::int64_t>(columns.size()) != tensor.shape[0]) {
      return bad_input(fmt::format("{}: tensor '{}': the importance matrix has {} columns for it, expected {}", file_.name(),
                                   shown(tensor.name), columns.size(), tensor.shape[0]));
    }
    return columns;
  }

  Result<void> quantize_tensor(const TensorChoice& choice, QuantizedTensor& result) {
    const GgufTensor& tensor = *choice.tensor;
    const std::int64_t cols = tensor.shape[0], rows = tensor.shape[1];
    const std::int64_t matrices = tensor.elements() / (cols * rows);
    result.bytes = *bytes_of(choice.type, tensor.elements());
    for (std::int64_t matrix = 0; matrix < matrices; ++matrix) {
      const auto weights = importance(tensor, matrix);
      if (!weights) return tl::make_unexpected(weights.error());
      result.used_importance = result.used_importance || !weights->empty();
      // Pieces of whole rows; of rows longer than a piece, parts of one.
      const std::int64_t piece_rows = std::max<std::int64_t>(kPieceElements / cols, 1);
      const std::int64_t piece_cols = std::min(cols, kPieceElements);
      for (std::int64_t row = 0; row < rows; row += piece_rows) {
        for (std::int64_t col = 0; col < cols; col += piece_cols) {
          QuantizeRows piece;
          piece.type = choice.type;
          piece.rows = std::min(piece_rows, rows - row);
          piece.cols = std::min(piece_cols, cols - col);
          piece.importance = weights->empty() ? nullptr : weights->data() + col;
          const std::int64_t first = (matrix * rows + row) * cols + col;
          if (auto done = quantize_piece(tensor, first, piece, result.error); !done) return done;
        }
      }
    }
    return {};
  }

  /// `piece` has no x and out yet; it begins at element `first` of the tensor.
  Result<void> quantize_piece(const GgufTensor& tensor, std::int64_t first, QuantizeRows piece, QuantizationError& error) {
    const std::int64_t elements = piece.rows * piece.cols;
    const std::size_t begin = *bytes_of(tensor.type, first), bytes = *bytes_of(tensor.type, elements);
    auto buffer = output_.take();
    if (!buffer) return tl::make_unexpected(buffer.error());
    buffer->resize(*bytes_of(piece.type, elements));
    piece.out = buffer->data();
    piece.x = decode(tensor.type, tensor.data + begin, elements);
    const QuantizationError piece_error = quantize(kernels_, team_, piece);
    if (!piece_error.finite) {
      return bad_input(fmt::format("{}: tensor '{}' holds NaN or infinity in elements {} to {}", file_.name(),
                                   shown(tensor.name), first, first + elements - 1));
    }
    error += piece_error;
    output_.put(std::move(*buffer));
    return done_with(tensor, begin, bytes);
  }

  /// The elements as f32; valid until the next call.
  const float* decode(ElementType type, const std::byte* data, std::int64_t elements) {
    if (type == ElementType::f32 && reinterpret_cast<std::uintptr_t>(data) % alignof(float) == 0) {
      return reinterpret_cast<const float*>(data);
    }
    decoded_.resize(static_cast<std::size_t>(elements));
    team_.run([&](TeamMember& member) {
      member.for_each((elements + kDecodedElements - 1) / kDecodedElements, [&](std::int64_t task) {
        const std::int64_t begin = task * kDecodedElements;
        kernels_.blocks->decode(type, data + *bytes_of(type, begin), std::min(kDecodedElements, elements - begin),
                                decoded_.data() + begin);
      });
    });
    return decoded_.data();
  }

  const GgufFile& file_;
  std::span<const TensorChoice> choices_;
  const KernelTable& kernels_;
  ThreadTeam& team_;
  const QuantizeOptions& options_;
  Output& output_;
  ReadAhead ahead_;
  std::vector<float> decoded_;
  std::size_t done_tensors_ = 0, done_bytes_ = 0, all_bytes_ = 0;
};

/// general.file_type: the mix's; without one that of the type that most bytes have.
std::uint32_t file_type_of(std::string_view mix, std::span<const TensorChoice> choices) {
  if (is_mix(mix)) return mix_file_type(mix);
  std::map<ElementType, std::size_t> bytes;
  for (const TensorChoice& choice : choices) {
    bytes[choice.type] += bytes_of(choice.type, choice.tensor->elements()).value_or(0);
  }
  const auto most =
      std::max_element(bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most == bytes.end()) return 0;
  const std::string name(block_format(most->first).name);
  // Formats that are no mix by themselves stand for their middle one.
  for (const char* suffix : {"", "_M", "_S"}) {
    if (is_mix(name + suffix)) return mix_file_type(name + suffix);
  }
  return 0;
}

void add_metadata(GgufWriter& writer, const GgufFile& file, std::span<const TensorChoice> choices,
                  const QuantizeOptions& options) {
  const bool weighted = options.importance != nullptr;
  for (const GgufValue& entry : file.metadata()) {
    const bool replaced = entry.key == "general.file_type" || entry.key == "general.quantization_version" ||
                          (weighted && entry.key.starts_with("quantize.imatrix."));
    if (!replaced) writer.add(entry);
  }
  writer.add_u32("general.quantization_version", 2);
  writer.add_u32("general.file_type", file_type_of(options.file_type_name, choices));
  if (!weighted) return;
  const ImportanceMatrix& matrix = *options.importance;
  writer.add_string("quantize.imatrix.file", options.importance_path);
  if (!matrix.datasets.empty()) writer.add_string("quantize.imatrix.dataset", matrix.datasets.front());
  writer.add_u32("quantize.imatrix.entries_count", static_cast<std::uint32_t>(matrix.weights.size()));
  writer.add_u32("quantize.imatrix.chunks_count", static_cast<std::uint32_t>(std::max<std::int64_t>(matrix.chunks, 0)));
}

}  // namespace

Result<std::vector<QuantizedTensor>> quantize_model(const GgufFile& file, std::span<const TensorChoice> choices,
                                                    const KernelTable& kernels, ThreadTeam& team, const std::string& path,
                                                    const QuantizeOptions& options) {
  for (const TensorChoice& choice : choices) {
    if (choice.quantize && (!can_quantize(choice.type) || !bytes_of(choice.type, choice.tensor->shape[0]))) {
      return bad_input(fmt::format("{}: tensor '{}': rows of {} cannot be written as {}", file.name(),
                                   shown(choice.tensor->name), choice.tensor->shape[0], block_format(choice.type).name));
    }
  }
  auto writer = GgufWriter::create(path, {.alignment = file.alignment(), .checksums = options.checksums});
  if (!writer) return tl::make_unexpected(writer.error());
  add_metadata(*writer, file, choices, options);
  for (const TensorChoice& choice : choices) {
    const GgufTensor& tensor = *choice.tensor;
    const auto dimensions = static_cast<std::size_t>(std::max(tensor.dimensions, 1));
    writer->declare_tensor(tensor.name, choice.quantize ? choice.type : tensor.type,
                           std::span(tensor.shape).first(dimensions));
  }
  if (auto began = writer->begin_data(); !began) return tl::make_unexpected(began.error());
  Output output(*writer);
  auto results = Quantizer(file, choices, kernels, team, options, output).run();
  if (!results) return results;
  if (auto written = output.finish(); !written) return tl::make_unexpected(written.error());
  if (auto finished = writer->finish(); !finished) return tl::make_unexpected(finished.error());
  return results;
}

}  // namespace quern
