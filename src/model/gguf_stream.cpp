// GGUF models as ModelStreams: fused tensors taken apart, and what our own exports say of the model they came from.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "math/block_formats.hpp"
#include "model/gguf_architectures.hpp"
#include "model/gguf_file.hpp"
#include "model/gguf_model.hpp"
#include "model/model_stream.hpp"

namespace quern {

namespace {

/// Makes stream tensors of a file's; every tensor's presence and shape were checked before.
class Reader {
 public:
  Reader(std::shared_ptr<const GgufFile> file, const ModelConfig& config) : file_(std::move(file)), config_(config) {}

  [[nodiscard]] std::vector<StreamTensor> tensors() const {
    std::vector<StreamTensor> list;
    for (const StreamTensorSpec& spec : stream_tensors(config_)) list.push_back(tensor(spec));
    return list;
  }

 private:
  [[nodiscard]] const GgufTensor* find(const std::string& name) const { return file_->find_tensor(name); }

  /// `per_matrix` rows from `first` on, again in each of the tensor's matrices (experts).
  [[nodiscard]] StreamTensor part(const GgufTensor& source, const StreamTensorSpec& spec, std::int64_t first,
                                  std::int64_t per_matrix, std::int64_t matrix_rows, bool last) const {
    StreamTensor tensor;
    tensor.name = spec.name;
    tensor.shape = spec.shape;
    tensor.type = source.type;
    tensor.origin = fmt::format("{}: tensor {}", file_->name(), source.name);
    const std::size_t row_bytes = tensor.row_bytes();
    tensor.read = [file = file_, data = source.data, first, per_matrix, matrix_rows, row_bytes](
                      std::int64_t row, std::int64_t count, std::span<std::byte> out) -> Result<void> {
      for (std::int64_t done = 0; done < count;) {
        const std::int64_t at = row + done;
        const std::int64_t inside = at % per_matrix;
        const std::int64_t here = std::min(per_matrix - inside, count - done);
        const std::int64_t from = at / per_matrix * matrix_rows + first + inside;
        std::memcpy(out.data() + static_cast<std::size_t>(done) * row_bytes,
                    data + static_cast<std::size_t>(from) * row_bytes, static_cast<std::size_t>(here) * row_bytes);
        done += here;
      }
      return {};
    };
    if (last) tensor.release = [file = file_, &source] { file->release(source); };
    return tensor;
  }
  [[nodiscard]] StreamTensor whole(const GgufTensor& source, const StreamTensorSpec& spec) const {
    const std::int64_t rows = source.shape[1] * source.shape[2];
    return part(source, spec, 0, rows, rows, true);
  }
  /// A slice of a fused vector.
  [[nodiscard]] StreamTensor vector_part(const GgufTensor& source, const StreamTensorSpec& spec, std::int64_t first) const {
    StreamTensor all = whole(source, {spec.name, {source.elements()}});
    return slice_rows(all, spec.name, first, spec.shape);
  }

  [[nodiscard]] StreamTensor tensor(const StreamTensorSpec& spec) const {
    const std::string& name = spec.name;
    const std::size_t last_dot = name.rfind('.');
    const std::size_t base_dot = name.rfind('.', last_dot - 1);
    if (base_dot == std::string::npos) return whole(*find(name), spec);
    const std::string block = name.substr(0, base_dot + 1);
    const std::string base = name.substr(base_dot + 1, last_dot - base_dot - 1);
    const std::string kind = name.substr(last_dot);
    const ModelConfig& c = config_;

    if (base == "attn_q" || base == "attn_k" || base == "attn_v") {
      if (const GgufTensor* fused = find(block + "attn_qkv" + kind)) {
        const std::int64_t first = base == "attn_q" ? 0 : c.query_width() + (base == "attn_v" ? c.kv_width() : 0);
        if (kind == ".bias") return vector_part(*fused, spec, first);
        return part(*fused, spec, first, spec.shape[0], c.qkv_width(), base == "attn_v");
      }
    }
    if (base == "ffn_gate" || (base == "ffn_up" && c.gated())) {
      const bool separate = find(block + "ffn_gate" + kind) != nullptr;
      if (!separate) {  // Phi-3: gate rows, then up rows
        const GgufTensor& fused = *find(block + "ffn_up" + kind);
        const std::int64_t first = base == "ffn_gate" ? 0 : c.mlp_width;
        if (kind == ".bias") return vector_part(fused, spec, first);
        return part(fused, spec, first, c.mlp_width, 2 * c.mlp_width, base == "ffn_up");
      }
    }
    if (base == "ffn_gate_exps" || base == "ffn_up_exps") {
      if (const GgufTensor* fused = find(block + "ffn_gate_up_exps" + kind)) {
        const std::int64_t first = base == "ffn_gate_exps" ? 0 : c.mlp_width;
        if (kind == ".bias") return expert_bias_part(*fused, spec, first);
        return part(*fused, spec, first, c.mlp_width, 2 * c.mlp_width, base == "ffn_up_exps");
      }
    }
    if (base == "ffn_norm" && find(name) == nullptr) {  // GPT-OSS names it after what stands before it
      return whole(*find(block + "post_attention_norm" + kind), spec);
    }
    return whole(*find(name), spec);
  }

  /// Columns first .. of each expert's fused biases.
  [[nodiscard]] StreamTensor expert_bias_part(const GgufTensor& source, const StreamTensorSpec& spec,
                                              std::int64_t first) const {
    StreamTensor tensor = whole(source, spec);
    const std::size_t element = tensor.row_bytes() / static_cast<std::size_t>(tensor.cols());
    tensor.read = [file = file_, data = source.data, element, first, cols = tensor.cols()](
                      std::int64_t row, std::int64_t count, std::span<std::byte> out) -> Result<void> {
      const std::size_t bytes = static_cast<std::size_t>(cols) * element;
      for (std::int64_t i = 0; i < count; ++i) {
        const std::size_t from = static_cast<std::size_t>((row + i) * 2 * cols + first) * element;
        std::memcpy(out.data() + static_cast<std::size_t>(i) * bytes, data + from, bytes);
      }
      return {};
    };
    tensor.release = nullptr;
    return tensor;
  }

  std::shared_ptr<const GgufFile> file_;
  const ModelConfig& config_;
};

bool all_zero(const StreamTensor& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
  if (!read_rows_f32(tensor, 0, tensor.rows(), values)) return false;
  return std::all_of(values.begin(), values.end(), [](float x) { return x == 0.0F; });
}

/// What a model trained here was before it was exported: its config, and its own kind of vocabulary. The tensors must agree;
/// biases that only the target's architecture has must be zeros. Otherwise the stream stays as the architecture has it.
Result<ModelStream> as_exported(ModelStream stream, const GgufFile& file) {
  const auto config_text = file.string_or("quern.model", "");
  const auto tokenizer_text = file.string_or("quern.trained_tokenizer", "");
  if (!config_text || !tokenizer_text || config_text->empty()) return stream;
  const auto config = model_config_from_json(*config_text);
  if (!config) return bad_input(fmt::format("{}: quern.model: {}", file.name(), config.error().message));
  ModelStream own = with_rope_pairing(stream, config->rope_pairing);
  own.config = *config;
  std::vector<StreamTensor> kept;
  std::vector<StreamTensorSpec> wanted = stream_tensors(*config);
  for (const StreamTensor& tensor : own.tensors) {
    const bool known = std::any_of(wanted.begin(), wanted.end(), [&](const auto& spec) { return spec.name == tensor.name; });
    const bool copy_of_embedding = tensor.name == "output.weight" && config->tied_embeddings;
    if (known) {
      kept.push_back(tensor);
    } else if (!copy_of_embedding && !all_zero(tensor)) {
      stream.remarks.push_back(
          fmt::format("key quern.model says that there is no tensor {}: it was trained after the export, and the model is "
                      "read as the architecture {} has it",
                      tensor.name, stream.facts.architecture));
      return stream;
    }
  }
  own.tensors = std::move(kept);
  if (auto checked = check_stream(own, file.name()); !checked) return tl::make_unexpected(checked.error());
  if (!tokenizer_text->empty()) {
    auto tokenizer = Tokenizer::from_json(*tokenizer_text, file.name() + ": quern.trained_tokenizer");
    if (!tokenizer) return tl::make_unexpected(tokenizer.error());
    own.tokenizer = std::move(*tokenizer);
  }
  return own;
}

}  // namespace

Result<ModelStream> stream_gguf(const std::string& path) {
  auto opened = GgufFile::open(path);
  if (!opened) return tl::make_unexpected(opened.error());
  const auto file = std::make_shared<const GgufFile>(std::move(*opened));
  const auto config = model_config_from_gguf(*file);
  if (!config) return tl::make_unexpected(config.error());
  // Binding checks every tensor; the weights it makes are not needed.
  if (auto bound = bind_gguf_weights(*file, *config, WeightPrecision::f32, 1); !bound) {
    return tl::make_unexpected(bound.error());
  }

  ModelStream stream;
  stream.config = *config;
  stream.source = file;
  stream.facts.source_format = "GGUF";
  stream.facts.architecture = std::string(*file->string_or("general.architecture", ""));
  if (const auto name = file->string_or("general.name", "")) stream.facts.name = std::string(*name);
  if (const auto text = file->string_or("tokenizer.chat_template", "")) stream.facts.chat_template = std::string(*text);
  for (const GgufValue& entry : file->metadata()) {
    constexpr std::string_view kPrefix = "tokenizer.chat_template.";
    if (entry.key.starts_with(kPrefix) && entry.type == GgufType::string) {
      if (const auto text = file->require_string(entry.key)) {
        stream.facts.named_chat_templates.emplace_back(entry.key.substr(kPrefix.size()), *text);
      }
    }
  }
  if (const auto steps = file->integer_or("quern.trained_steps", 0, 0, std::int64_t{1} << 40)) {
    stream.facts.trained_steps = *steps;
  }
  if (file->find("tokenizer.ggml.model") != nullptr) {
    auto tokenizer = Tokenizer::from_gguf(*file);
    if (!tokenizer) return tl::make_unexpected(tokenizer.error());
    stream.tokenizer = std::move(*tokenizer);
  } else {
    stream.remarks.emplace_back("the file has no vocabulary");
  }
  stream.tensors = Reader(file, stream.config).tensors();
  return as_exported(std::move(stream), *file);
}

}  // namespace quern
