#include "model/huggingface_tensors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <unordered_set>

#include "model/gguf_values.hpp"
#include "model/huggingface_names.hpp"
#include "model/mxfp4_layout.hpp"

namespace quern::internal {
namespace {

using Layout = HuggingFaceLayout;
using Shape = std::vector<std::int64_t>;

std::string shape_text(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

/// Where the elements of a stream's tensor lie. Element (row, col) of part p is element first + row * row_stride + col *
/// col_stride of parts[p]; part p holds rows p * rows_per_part and following.
struct Gather {
  std::vector<std::span<const std::byte>> parts{};
  std::int64_t rows_per_part = 1, cols = 1;
  std::int64_t first = 0, row_stride = 0, col_stride = 1;
  std::size_t element_bytes = 4;
};

template <std::size_t Bytes>
void copy_strided(const std::byte* from, std::int64_t stride, std::byte* to, std::int64_t to_stride, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    std::memcpy(to + i * to_stride * static_cast<std::int64_t>(Bytes), from + i * stride * static_cast<std::int64_t>(Bytes),
                Bytes);
  }
}

/// Rows first .. first + count - 1 of one part.
void gather_rows(const Gather& g, std::span<const std::byte> part, std::int64_t first, std::int64_t count, std::byte* out) {
  const auto bytes = static_cast<std::int64_t>(g.element_bytes);
  const std::byte* from = part.data() + (g.first + first * g.row_stride) * bytes;
  const auto copy = bytes == 4 ? copy_strided<4> : copy_strided<2>;
  if (g.col_stride > g.row_stride) {  // transposed: along the file's rows, which are the stream's columns
    for (std::int64_t col = 0; col < g.cols; ++col) {
      copy(from + col * g.col_stride * bytes, g.row_stride, out + col * bytes, g.cols, count);
    }
    return;
  }
  for (std::int64_t row = 0; row < count; ++row) {
    std::byte* const to = out + row * g.cols * bytes;
    if (g.col_stride == 1) {
      std::memcpy(to, from + row * g.row_stride * bytes, static_cast<std::size_t>(g.cols * bytes));
    } else {
      copy(from + row * g.row_stride * bytes, g.col_stride, to, 1, g.cols);
    }
  }
}

void read_gather(const Gather& g, std::int64_t first, std::int64_t count, std::byte* out) {
  const std::int64_t row_bytes = g.cols * static_cast<std::int64_t>(g.element_bytes);
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t part = (first + done) / g.rows_per_part;
    const std::int64_t row = (first + done) % g.rows_per_part;
    const std::int64_t here = std::min(g.rows_per_part - row, count - done);
    gather_rows(g, g.parts[static_cast<std::size_t>(part)], row, here, out + done * row_bytes);
    done += here;
  }
}

/// Finds, checks and remembers the tensors of a folder.
class Finder {
 public:
  Finder(std::shared_ptr<const SafetensorsFolder> folder, const HuggingFaceFamily& family, const ModelConfig& config)
      : folder_(std::move(folder)), layout_(family.layout), config_(config) {}

  /// Where the family's tensors begin: "model." as a rule.
  Result<void> find_prefix() {
    const std::string_view table = layout_ == Layout::gpt2 ? "wte.weight" : "embed_tokens.weight";
    for (const std::string_view prefix :
         {"model.", "transformer.", "", "model.language_model.", "language_model.model.", "language_model."}) {
      if (folder_->find(std::string(prefix) + std::string(table)).tensor == nullptr) continue;
      prefix_ = prefix;
      return {};
    }
    return bad_input(
        fmt::format("{}: tensor {}{} is missing", folder_->path(), layout_ == Layout::gpt2 ? "" : "model.", table));
  }

  [[nodiscard]] std::string full_name(std::string_view name) const {
    if (name != "lm_head.weight") return prefix_ + std::string(name);
    for (const std::string_view prefix : {"", "language_model.", "model.", "transformer."}) {
      std::string head = std::string(prefix) + std::string(name);
      if (folder_->find(head).tensor != nullptr) return head;
    }
    return std::string(name);
  }

  [[nodiscard]] bool has(std::string_view name) const { return folder_->find(full_name(name)).tensor != nullptr; }

  /// The tensor by its name without prefix, which must have this shape. `bytes`: U8 instead of a float type.
  Result<SafetensorsFolder::Entry> take(const std::string& name, const Shape& shape, bool bytes = false) {
    const std::string full = full_name(name);
    const SafetensorsFolder::Entry entry = folder_->find(full);
    if (entry.tensor == nullptr) return bad_input(fmt::format("{}: tensor {} is missing", folder_->path(), full));
    const std::string& dtype = entry.tensor->dtype;
    const bool good = bytes ? dtype == "U8" : dtype == "F32" || dtype == "F16" || dtype == "BF16";
    if (!good) {
      return bad_input(fmt::format("{}: tensor {} must have dtype {}, found {}", entry.file->name(), shown(full),
                                   bytes ? "U8" : "F32, F16 or BF16", dtype));
    }
    if (entry.tensor->shape != shape) {
      return bad_input(fmt::format("{}: tensor {} must have the shape {}, found {}", entry.file->name(), shown(full),
                                   shape_text(shape), shape_text(entry.tensor->shape)));
    }
    used_.insert(entry.tensor->name);
    return entry;
  }

  Result<StreamTensor> make(const StreamTensorSpec& spec) {
    const std::string name = huggingface_name(layout_, spec.name);
    if (name.empty()) {
      return bad_input(fmt::format("{}: this model class has no tensor for {}", folder_->path(), spec.name));
    }
    if (layout_ == Layout::gpt_oss && name.find(".experts.") != std::string::npos) return gpt_oss_expert(spec, name);
    if (name.find('%') != std::string::npos) return stacked(spec, name);
    const std::string_view rest = split_stream_name(spec.name).rest;
    if (layout_ == Layout::phi3 || layout_ == Layout::gpt2) {
      if (rest.starts_with("attn_q.") || rest.starts_with("attn_k.") || rest.starts_with("attn_v.")) {
        const std::int64_t first = rest[5] == 'q'   ? 0
                                   : rest[5] == 'k' ? config_.query_width()
                                                    : config_.query_width() + config_.kv_width();
        return fused(spec, name, first, config_.qkv_width());
      }
      if (layout_ == Layout::phi3 && (rest == "ffn_gate.weight" || rest == "ffn_up.weight")) {
        return fused(spec, name, rest == "ffn_up.weight" ? config_.mlp_width : 0, 2 * config_.mlp_width);
      }
      const bool turned = rest == "attn_output.weight" || rest == "ffn_up.weight" || rest == "ffn_down.weight";
      if (layout_ == Layout::gpt2 && turned) return fused(spec, name, 0, spec.shape[0]);
    }
    auto entry = take(name, spec.shape);
    if (!entry) return tl::make_unexpected(entry.error());
    return from_gather(spec, {*entry}, {.row_stride = spec.shape.back()});
  }

  /// Every tensor that no call took must be one that a model can do without.
  Result<void> check_rest(std::vector<std::string>& remarks) const {
    std::size_t vision = 0;
    for (const auto& file : folder_->files()) {
      for (const SafetensorsTensor& tensor : file->tensors()) {
        const std::string_view name = tensor.name;
        if (used_.contains(tensor.name)) continue;
        if (name.ends_with(".rotary_emb.inv_freq")) continue;  // computed from the configuration
        if (layout_ == Layout::gpt2 && (name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias"))) continue;
        if (name.find("vision_tower.") != std::string_view::npos ||
            name.find("multi_modal_projector.") != std::string_view::npos) {
          ++vision;
          continue;
        }
        if (name.ends_with("lm_head.weight") && config_.tied_embeddings) {
          remarks.push_back(fmt::format("{}: tensor {} is left out: tie_word_embeddings says that the embedding is the head",
                                        file->name(), shown(name)));
          continue;
        }
        return bad_input(
            fmt::format("{}: tensor {} is not known in a model of this class", file->name(), shown(tensor.name)));
      }
    }
    if (vision > 0) {
      remarks.push_back(fmt::format("{}: {} tensors of the vision tower are left out: only the language model is read",
                                    folder_->path(), vision));
    }
    return {};
  }

 private:
  using Entry = SafetensorsFolder::Entry;

  static ElementType type_of(const SafetensorsTensor& tensor) {
    if (tensor.dtype == "F32") return ElementType::f32;
    return tensor.dtype == "F16" ? ElementType::f16 : ElementType::bf16;
  }

  [[nodiscard]] StreamTensor empty_tensor(const StreamTensorSpec& spec, const std::vector<Entry>& entries) const {
    StreamTensor tensor;
    tensor.name = spec.name;
    tensor.shape = spec.shape;
    tensor.type = type_of(*entries[0].tensor);
    tensor.origin = fmt::format("{}: tensor {}", entries[0].file->name(), shown(entries[0].tensor->name));
    tensor.release = [folder = folder_, entries] {
      for (const Entry& entry : entries) entry.file->release(entry.tensor->data);
    };
    return tensor;
  }

  /// A tensor over one file's tensor, whose outer dimension is cut into parts where the stream's has three, or over several.
  /// `gather` has the strides; the rest is filled in.
  Result<StreamTensor> from_gather(const StreamTensorSpec& spec, const std::vector<Entry>& entries, Gather gather) const {
    StreamTensor tensor = empty_tensor(spec, entries);
    gather.element_bytes = tensor.type == ElementType::f32 ? 4 : 2;
    gather.cols = tensor.cols();
    const std::int64_t parts = spec.shape.size() == 3 ? spec.shape[0] : 1;
    gather.rows_per_part = tensor.rows() / parts;
    if (entries.size() == 1) {
      const std::span<const std::byte> data = entries[0].tensor->data;
      const std::size_t bytes = data.size() / static_cast<std::size_t>(parts);
      for (std::int64_t i = 0; i < parts; ++i) {
        gather.parts.push_back(data.subspan(static_cast<std::size_t>(i) * bytes, bytes));
      }
    } else {
      for (const Entry& entry : entries) gather.parts.push_back(entry.tensor->data);
    }
    if (!huggingface_norm_is_less_one(layout_, spec.name)) {
      tensor.read = [gather = std::move(gather), folder = folder_](std::int64_t first, std::int64_t count,
                                                                   std::span<std::byte> out) -> Result<void> {
        read_gather(gather, first, count, out.data());
        return {};
      };
      return tensor;
    }
    // Gemma multiplies with one more than what is stored; f32, because 16 bits could not hold the sum.
    StreamTensor stored = tensor;
    stored.read = [gather = std::move(gather), folder = folder_](std::int64_t first, std::int64_t count,
                                                                 std::span<std::byte> out) -> Result<void> {
      read_gather(gather, first, count, out.data());
      return {};
    };
    tensor.type = ElementType::f32;
    tensor.read = [stored = std::move(stored)](std::int64_t first, std::int64_t count,
                                               std::span<std::byte> out) -> Result<void> {
      std::vector<float> values(static_cast<std::size_t>(count * stored.cols()));
      if (auto got = read_rows_f32(stored, first, count, values); !got) return got;
      for (float& value : values) value += 1.0F;
      std::memcpy(out.data(), values.data(), out.size());
      return {};
    };
    return tensor;
  }

  /// Outputs first .. of a tensor of `all` outputs: rows of [all, in], columns of GPT-2's [in, all], elements of a bias.
  Result<StreamTensor> fused(const StreamTensorSpec& spec, const std::string& name, std::int64_t first, std::int64_t all) {
    const bool turned = layout_ == Layout::gpt2;
    const bool vector = spec.shape.size() == 1;
    const std::int64_t inputs = spec.shape.back();
    const Shape shape = vector ? Shape{all} : turned ? Shape{inputs, all} : Shape{all, inputs};
    auto entry = take(name, shape);
    if (!entry) return tl::make_unexpected(entry.error());
    Gather gather{.first = first, .row_stride = 1, .col_stride = 1};
    if (!vector) {
      gather = turned ? Gather{.first = first, .row_stride = 1, .col_stride = all}
                      : Gather{.first = first * inputs, .row_stride = inputs};
    }
    return from_gather(spec, {*entry}, std::move(gather));
  }

  /// One tensor for each expert.
  Result<StreamTensor> stacked(const StreamTensorSpec& spec, const std::string& name) {
    const std::size_t at = name.find('%');
    const Shape shape(spec.shape.begin() + 1, spec.shape.end());
    std::vector<Entry> entries;
    for (std::int64_t expert = 0; expert < spec.shape[0]; ++expert) {
      auto entry = take(name.substr(0, at) + std::to_string(expert) + name.substr(at + 1), shape);
      if (!entry) return tl::make_unexpected(entry.error());
      if (!entries.empty() && entry->tensor->dtype != entries[0].tensor->dtype) {
        return bad_input(fmt::format("{}: tensor {} must have the dtype of the other experts, {}, found {}",
                                     entry->file->name(), shown(entry->tensor->name), entries[0].tensor->dtype,
                                     entry->tensor->dtype));
      }
      entries.push_back(*entry);
    }
    return from_gather(spec, entries, {.row_stride = spec.shape.back()});
  }

  /// GPT-OSS: gate and up alternate; matrices are MXFP4 in two tensors, or [experts, in, out].
  Result<StreamTensor> gpt_oss_expert(const StreamTensorSpec& spec, const std::string& name) {
    const std::string_view rest = split_stream_name(spec.name).rest;
    const std::int64_t step = rest.starts_with("ffn_down") ? 1 : 2;
    const std::int64_t first = rest.starts_with("ffn_up") ? 1 : 0;
    const std::int64_t outputs = spec.shape[1] * step;
    if (spec.shape.size() == 2) {  // biases: a stream's row is an expert's
      auto entry = take(name, {spec.shape[0], outputs});
      if (!entry) return tl::make_unexpected(entry.error());
      return from_gather(spec, {*entry}, {.first = first, .row_stride = outputs, .col_stride = step});
    }
    if (has(name + "_blocks")) return mxfp4_expert(spec, name, first, step);
    auto entry = take(name, {spec.shape[0], spec.shape[2], outputs});
    if (!entry) return tl::make_unexpected(entry.error());
    return from_gather(spec, {*entry}, {.first = first, .row_stride = step, .col_stride = outputs});
  }

  Result<StreamTensor> mxfp4_expert(const StreamTensorSpec& spec, const std::string& base, std::int64_t first,
                                    std::int64_t step) {
    const auto block = static_cast<std::int64_t>(kMxfp4BlockElements);
    if (spec.shape[2] % block != 0) {
      return bad_input(fmt::format("{}: tensor {}_blocks needs rows of a multiple of {} elements, found {}", folder_->path(),
                                   full_name(base), block, spec.shape[2]));
    }
    const std::int64_t outputs = spec.shape[1] * step;
    const std::int64_t blocks = spec.shape[2] / block;
    auto packed =
        take(base + "_blocks", {spec.shape[0], outputs, blocks, static_cast<std::int64_t>(kMxfp4PackedBytes)}, true);
    if (!packed) return tl::make_unexpected(packed.error());
    auto scales = take(base + "_scales", {spec.shape[0], outputs, blocks}, true);
    if (!scales) return tl::make_unexpected(scales.error());
    StreamTensor tensor = empty_tensor(spec, {*packed, *scales});
    tensor.type = ElementType::mxfp4;
    tensor.read = [folder = folder_, packed = packed->tensor->data.data(), scales = scales->tensor->data.data(),
                   rows = spec.shape[1], outputs, blocks, first,
                   step](std::int64_t from, std::int64_t count, std::span<std::byte> out) -> Result<void> {
      std::byte* to = out.data();
      for (std::int64_t row = from; row < from + count; ++row) {
        const std::int64_t stored = (row / rows * outputs + row % rows * step + first) * blocks;
        for (std::int64_t i = stored; i < stored + blocks; ++i, to += kMxfp4BlockBytes) {
          mxfp4_to_gguf(packed + i * static_cast<std::int64_t>(kMxfp4PackedBytes), scales[i], to);
        }
      }
      return {};
    };
    return tensor;
  }

  std::shared_ptr<const SafetensorsFolder> folder_;
  Layout layout_;
  const ModelConfig& config_;
  std::string prefix_;
  std::unordered_set<std::string> used_;
};

}  // namespace

Result<std::vector<StreamTensor>> huggingface_tensors(std::shared_ptr<const SafetensorsFolder> folder,
                                                      const HuggingFaceFamily& family, const ModelConfig& config,
                                                      std::vector<std::string>& remarks) {
  Finder finder(std::move(folder), family, config);
  if (auto ok = finder.find_prefix(); !ok) return tl::make_unexpected(ok.error());
  std::vector<StreamTensor> tensors;
  for (const StreamTensorSpec& spec : stream_tensors(config)) {
    auto tensor = finder.make(spec);
    if (!tensor) return tl::make_unexpected(tensor.error());
    tensors.push_back(std::move(*tensor));
  }
  if (auto ok = finder.check_rest(remarks); !ok) return tl::make_unexpected(ok.error());
  return tensors;
}

}  // namespace quern::internal
