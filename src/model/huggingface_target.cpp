#include "model/huggingface_target.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <unordered_map>

#include "math/block_formats.hpp"
#include "math/number_formats.hpp"
#include "model/huggingface_names.hpp"
#include "model/mxfp4_layout.hpp"
#include "model/safetensors.hpp"

namespace quern::internal {
namespace {

using Layout = HuggingFaceLayout;

/// Values that are read and converted at a time.
constexpr std::int64_t kChunkElements = std::int64_t{1} << 20;

std::string dtype_of(ElementType type) {
  return type == ElementType::f32 ? "F32" : type == ElementType::f16 ? "F16" : "BF16";
}

bool is_float(ElementType type) { return type == ElementType::f32 || type == ElementType::f16 || type == ElementType::bf16; }

/// f32 values as bytes of a float type. Error where f16 would make a finite value infinite.
Result<void> put_values(std::span<const float> values, ElementType type, const std::string& origin, const ByteSink& sink) {
  if (type == ElementType::f32) return sink(std::as_bytes(values));
  std::vector<std::uint16_t> halves(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    halves[i] = type == ElementType::bf16 ? bf16_from_float(values[i]).bits : f16_from_float(values[i]);
    if (type == ElementType::f16 && (halves[i] & 0x7FFFU) == 0x7C00U && std::isfinite(values[i])) {
      return bad_input(fmt::format("{}: the value {} is too large for f16", origin, values[i]));
    }
  }
  return sink(std::as_bytes(std::span(halves)));
}

/// Rows of a stream's tensor.
struct Piece {
  const StreamTensor* tensor = nullptr;
  std::int64_t first = 0, rows = 0;
};

Result<void> put_piece(const Piece& piece, ElementType type, bool less_one, const ByteSink& sink) {
  const StreamTensor& tensor = *piece.tensor;
  const std::int64_t at_once = std::max<std::int64_t>(1, kChunkElements / tensor.cols());
  std::vector<std::byte> bytes;
  std::vector<float> values;
  for (std::int64_t row = 0; row < piece.rows; row += at_once) {
    const std::int64_t count = std::min(at_once, piece.rows - row);
    if (tensor.type == type && !less_one) {
      bytes.resize(static_cast<std::size_t>(count) * tensor.row_bytes());
      if (auto got = tensor.read(piece.first + row, count, bytes); !got) return got;
      if (auto put = sink(bytes); !put) return put;
      continue;
    }
    values.resize(static_cast<std::size_t>(count * tensor.cols()));
    if (auto got = read_rows_f32(tensor, piece.first + row, count, values); !got) return got;
    if (less_one) {
      for (float& value : values) value -= 1.0F;
    }
    if (auto put = put_values(values, type, tensor.origin, sink); !put) return put;
  }
  return {};
}

/// Pieces of [rows, cols] each as one [cols, all rows], row for row after each other or in turns.
Result<void> put_turned(const std::vector<Piece>& pieces, bool in_turns, ElementType type, const ByteSink& sink) {
  std::int64_t all = 0;
  for (const Piece& piece : pieces) all += piece.rows;
  const std::int64_t cols = pieces[0].tensor->cols();
  std::vector<float> turned(static_cast<std::size_t>(all * cols));
  std::vector<float> values;
  std::int64_t place = 0;
  for (std::size_t p = 0; p < pieces.size(); ++p) {
    const Piece& piece = pieces[p];
    values.resize(static_cast<std::size_t>(piece.rows * cols));
    if (auto got = read_rows_f32(*piece.tensor, piece.first, piece.rows, values); !got) return got;
    for (std::int64_t row = 0; row < piece.rows; ++row) {
      const std::int64_t to = in_turns ? row * std::ssize(pieces) + static_cast<std::int64_t>(p) : place + row;
      for (std::int64_t col = 0; col < cols; ++col) {
        turned[static_cast<std::size_t>(col * all + to)] = values[static_cast<std::size_t>(row * cols + col)];
      }
    }
    place += piece.rows;
  }
  return put_values(turned, type, pieces[0].tensor->origin, sink);
}

/// Vectors whose elements follow each other in turns.
Result<void> put_alternating(const std::vector<Piece>& pieces, ElementType type, const ByteSink& sink) {
  std::vector<std::vector<float>> parts;
  for (const Piece& piece : pieces) {
    parts.emplace_back(static_cast<std::size_t>(piece.rows * piece.tensor->cols()));
    if (auto got = read_rows_f32(*piece.tensor, piece.first, piece.rows, parts.back()); !got) return got;
  }
  std::vector<float> all;
  for (std::size_t i = 0; i < parts[0].size(); ++i) {
    for (const std::vector<float>& part : parts) all.push_back(part[i]);
  }
  return put_values(all, type, pieces[0].tensor->origin, sink);
}

/// The blocks' elements (`scales` false) or scales of MXFP4 tensors whose rows follow each other in turns.
Result<void> put_mxfp4(const std::vector<const StreamTensor*>& tensors, bool scales, const ByteSink& sink) {
  const StreamTensor& first = *tensors[0];
  const std::size_t row_bytes = first.row_bytes();
  const auto blocks = row_bytes / kMxfp4BlockBytes;
  std::vector<std::byte> row(row_bytes);
  std::vector<std::byte> out;
  for (std::int64_t r = 0; r < first.rows(); ++r) {
    for (const StreamTensor* tensor : tensors) {
      if (auto got = tensor->read(r, 1, row); !got) return got;
      for (std::size_t b = 0; b < blocks; ++b) {
        std::byte packed[kMxfp4PackedBytes];
        std::byte scale{};
        mxfp4_from_gguf(row.data() + b * kMxfp4BlockBytes, packed, &scale);
        if (scales) {
          out.push_back(scale);
        } else {
          out.insert(out.end(), packed, packed + kMxfp4PackedBytes);
        }
      }
    }
    if (out.size() < std::size_t{1} << 20 && r + 1 < first.rows()) continue;
    if (auto put = sink(out); !put) return put;
    out.clear();
  }
  return {};
}

/// The config with the biases that the class demands.
ModelConfig with_demanded_biases(const HuggingFaceFamily& family, ModelConfig config) {
  const bool qkv_alone = config.qkv_bias && !config.attention_bias;
  if (family.qkv_bias == Presence::filled) config.qkv_bias = true;
  if (family.attention_bias == Presence::filled || (family.attention_bias == Presence::optional && qkv_alone)) {
    config.attention_bias = true;
  }
  if (config.attention_bias) config.qkv_bias = false;
  if (family.mlp_bias == Presence::filled) config.mlp_bias = true;
  if (family.router_bias == Presence::filled) config.router_bias = true;
  if (family.norm == NormKind::layer_norm) config.norm_bias = true;
  return config;
}

StreamTensor zeros(const StreamTensorSpec& spec) {
  StreamTensor tensor;
  tensor.name = spec.name;
  tensor.shape = spec.shape;
  tensor.origin = "zeros for " + spec.name;
  tensor.read = [](std::int64_t, std::int64_t, std::span<std::byte> out) -> Result<void> {
    std::fill(out.begin(), out.end(), std::byte{0});
    return {};
  };
  return tensor;
}

class Builder {
 public:
  Builder(const ModelStream& stream, const HuggingFaceFamily& family, std::optional<ElementType> type)
      : stream_(stream), layout_(family.layout), family_(family), type_(type) {}

  Result<HuggingFaceTarget> build() {
    gather();
    for (const auto& [name, tensors] : groups_) {
      if (auto added = add_group(name, tensors); !added) return tl::make_unexpected(added.error());
    }
    if (filled_ > 0) {
      target_.remarks.push_back(fmt::format("{} bias tensors that {} demands and the model lacks are written as zeros",
                                            filled_, family_.class_name));
    }
    if (decoded_ > 0) {
      target_.remarks.push_back(fmt::format("{} quantized tensors are decoded to {}", decoded_,
                                            type_ ? block_format(*type_).name : block_format(ElementType::f32).name));
    }
    if (narrowed_ > 0) {
      target_.remarks.push_back(fmt::format("{} tensors are rounded to {}", narrowed_, block_format(*type_).name));
    }
    if (auto checked = check_norms(); !checked) return tl::make_unexpected(checked.error());
    target_.matrix_dtype = matrix_dtype();
    return std::move(target_);
  }

 private:
  using Group = std::vector<const StreamTensor*>;

  /// Tensors by the file's name, in the stream's order; zeros where the class demands what the model lacks.
  void gather() {
    std::unordered_map<std::string_view, const StreamTensor*> of;
    for (const StreamTensor& tensor : stream_.tensors) of.emplace(tensor.name, &tensor);
    std::unordered_map<std::string, std::size_t> at;
    for (const StreamTensorSpec& spec : stream_tensors(with_demanded_biases(family_, stream_.config))) {
      const StreamTensor* tensor = nullptr;
      if (const auto found = of.find(spec.name); found != of.end()) {
        tensor = found->second;
      } else {
        zeros_->push_back(std::make_unique<StreamTensor>(zeros(spec)));
        tensor = zeros_->back().get();
        ++filled_;
      }
      const std::string name = huggingface_name(layout_, spec.name);
      const auto [place, is_new] = at.emplace(name, groups_.size());
      if (is_new) groups_.emplace_back(name, Group{});
      groups_[place->second].second.push_back(tensor);
    }
  }

  [[nodiscard]] std::string full_name(const std::string& name) const {
    if (name == "lm_head.weight") return name;
    return (layout_ == Layout::gpt2 ? "transformer." : "model.") + name;
  }

  /// The float type that a group is written in; counts what changes.
  ElementType written_type(const Group& tensors) {
    const bool matrix = tensors[0]->rows() > 1 && !tensors[0]->name.ends_with(".bias");
    ElementType type = tensors[0]->type;
    for (const StreamTensor* tensor : tensors) {
      if (tensor->type != type) type = ElementType::f32;
    }
    if (!is_float(type)) type = ElementType::f32;
    if (matrix && type_) type = *type_;
    for (const StreamTensor* tensor : tensors) {
      if (!is_float(tensor->type)) {
        ++decoded_;
      } else if (type != tensor->type && type != ElementType::f32) {
        ++narrowed_;
      }
    }
    if (matrix) matrix_elements_[type] += tensors[0]->elements();
    return type;
  }

  void add(std::string name, ElementType type, std::vector<std::int64_t> shape,
           std::function<Result<void>(const ByteSink&)> write) {
    add_raw(std::move(name), dtype_of(type), std::move(shape), type == ElementType::f32 ? 4 : 2, std::move(write));
  }
  void add_raw(std::string name, std::string dtype, std::vector<std::int64_t> shape, std::size_t element,
               std::function<Result<void>(const ByteSink&)> write) {
    std::size_t bytes = element;
    for (const std::int64_t size : shape) bytes *= static_cast<std::size_t>(size);
    // Zeros that a writer points to live as long as it.
    auto owned = [keep = zeros_, write = std::move(write)](const ByteSink& sink) { return write(sink); };
    target_.tensors.push_back({full_name(name), std::move(dtype), std::move(shape), bytes, std::move(owned)});
  }

  Result<void> add_group(const std::string& name, const Group& tensors) {
    const StreamTensor& first = *tensors[0];
    const bool gpt_oss_expert = layout_ == Layout::gpt_oss && name.find(".experts.") != std::string::npos;
    if (gpt_oss_expert) return add_gpt_oss_expert(name, tensors);
    if (name.find('%') != std::string::npos) return add_experts(name, first);
    const ElementType type = written_type(tensors);
    std::vector<Piece> pieces;
    std::int64_t outputs = 0;
    for (const StreamTensor* tensor : tensors) {
      pieces.push_back({tensor, 0, tensor->rows()});
      outputs += tensor->shape[0];
    }
    const bool table = first.name.ends_with("_embd.weight") || first.name == "output.weight";
    if (layout_ == Layout::gpt2 && first.shape.size() == 2 && !table) {
      add(name, type, {first.cols(), outputs}, [pieces, type, tensors](const ByteSink& sink) -> Result<void> {
        if (auto put = put_turned(pieces, false, type, sink); !put) return put;
        release(tensors);
        return {};
      });
      return {};
    }
    std::vector<std::int64_t> shape = first.shape;
    shape[0] = outputs;
    const bool less_one = huggingface_norm_is_less_one(layout_, first.name);
    add(name, type, shape, [pieces, type, less_one, tensors](const ByteSink& sink) -> Result<void> {
      for (const Piece& piece : pieces) {
        if (auto put = put_piece(piece, type, less_one, sink); !put) return put;
      }
      release(tensors);
      return {};
    });
    return {};
  }

  Result<void> add_experts(const std::string& name, const StreamTensor& tensor) {
    const std::size_t at = name.find('%');
    const std::int64_t rows = tensor.shape[1];
    const ElementType type = written_type({&tensor});
    for (std::int64_t expert = 0; expert < tensor.shape[0]; ++expert) {
      const Piece piece{&tensor, expert * rows, rows};
      const bool last = expert + 1 == tensor.shape[0];
      add(name.substr(0, at) + std::to_string(expert) + name.substr(at + 1), type, {rows, tensor.cols()},
          [piece, type, last](const ByteSink& sink) -> Result<void> {
            if (auto put = put_piece(piece, type, false, sink); !put) return put;
            if (last) release({piece.tensor});
            return {};
          });
    }
    return {};
  }

  Result<void> add_gpt_oss_expert(const std::string& name, const Group& tensors) {
    const StreamTensor& first = *tensors[0];
    const auto count = static_cast<std::int64_t>(tensors.size());
    const std::int64_t experts = first.shape[0], outputs = first.shape[1] * count;
    const bool all_mxfp4 = std::all_of(tensors.begin(), tensors.end(),
                                       [](const StreamTensor* tensor) { return tensor->type == ElementType::mxfp4; });
    if (first.shape.size() == 3 && all_mxfp4 && !type_) {
      const auto blocks = first.cols() / static_cast<std::int64_t>(kMxfp4BlockElements);
      const auto packed = static_cast<std::int64_t>(kMxfp4PackedBytes);
      add_raw(name + "_blocks", "U8", {experts, outputs, blocks, packed}, 1,
              [tensors](const ByteSink& sink) { return put_mxfp4(tensors, false, sink); });
      add_raw(name + "_scales", "U8", {experts, outputs, blocks}, 1, [tensors](const ByteSink& sink) -> Result<void> {
        if (auto put = put_mxfp4(tensors, true, sink); !put) return put;
        release(tensors);
        return {};
      });
      target_.mxfp4 = true;
      return {};
    }
    const ElementType type = written_type(tensors);
    if (first.shape.size() == 2) {
      std::vector<Piece> pieces;
      for (const StreamTensor* tensor : tensors) pieces.push_back({tensor, 0, experts});
      add(name, type, {experts, outputs},
          [pieces, type](const ByteSink& sink) { return put_alternating(pieces, type, sink); });
      return {};
    }
    add(name, type, {experts, first.cols(), outputs}, [tensors, type, experts](const ByteSink& sink) -> Result<void> {
      const std::int64_t rows = tensors[0]->shape[1];
      for (std::int64_t expert = 0; expert < experts; ++expert) {
        std::vector<Piece> pieces;
        for (const StreamTensor* tensor : tensors) pieces.push_back({tensor, expert * rows, rows});
        if (auto put = put_turned(pieces, true, type, sink); !put) return put;
      }
      release(tensors);
      return {};
    });
    return {};
  }

  static void release(const Group& tensors) {
    for (const StreamTensor* tensor : tensors) {
      if (tensor->release) tensor->release();
    }
  }

  /// Gemma's files hold norm weights less one, which a small weight may not survive exactly.
  Result<void> check_norms() {
    std::int64_t changed = 0;
    for (const StreamTensor& tensor : stream_.tensors) {
      if (!huggingface_norm_is_less_one(layout_, tensor.name)) continue;
      std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
      if (auto got = read_rows_f32(tensor, 0, tensor.rows(), values); !got) return got;
      const bool half = !is_float(tensor.type) || tensor.type == ElementType::f32;
      for (const float value : values) {
        float stored = value - 1.0F;
        if (!half)
          stored = tensor.type == ElementType::bf16 ? float_from_bf16(bf16_from_float(stored))
                                                    : float_from_f16(f16_from_float(stored));
        changed += stored + 1.0F != value ? 1 : 0;
      }
    }
    if (changed > 0) {
      target_.remarks.push_back(
          fmt::format("{} norm weights are rounded: {} holds them less one", changed, family_.class_name));
    }
    return {};
  }

  [[nodiscard]] std::string matrix_dtype() const {
    ElementType most = ElementType::f32;
    std::int64_t elements = -1;
    for (const auto& [type, count] : matrix_elements_) {
      if (count > elements) {
        most = type;
        elements = count;
      }
    }
    return most == ElementType::f32 ? "float32" : most == ElementType::f16 ? "float16" : "bfloat16";
  }

  const ModelStream& stream_;
  Layout layout_;
  const HuggingFaceFamily& family_;
  std::optional<ElementType> type_;
  std::vector<std::pair<std::string, Group>> groups_;
  std::shared_ptr<std::vector<std::unique_ptr<StreamTensor>>> zeros_ =
      std::make_shared<std::vector<std::unique_ptr<StreamTensor>>>();
  std::int64_t filled_ = 0, decoded_ = 0, narrowed_ = 0;
  std::map<ElementType, std::int64_t> matrix_elements_;
  HuggingFaceTarget target_;
};

}  // namespace

Result<HuggingFaceTarget> huggingface_target(const ModelStream& stream, const HuggingFaceFamily& family,
                                             std::optional<ElementType> type) {
  if (type && !is_float(*type)) {
    return bad_input(
        fmt::format("Hugging Face folders hold f32, f16 or bf16: the type {} cannot be written", block_format(*type).name));
  }
  return Builder(stream, family, type).build();
}

}  // namespace quern::internal
