// ModelStreams as GGUF files: the architecture that has what the config asks for, its metadata, its names and fusions.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <vector>

#include "math/block_formats.hpp"
#include "math/quantize.hpp"
#include "model/gguf_architectures.hpp"
#include "model/gguf_writer.hpp"
#include "model/model_stream.hpp"
#include "model/tokenizer_files.hpp"

namespace quern {

namespace {

/// A tensor of the file: rows of the stream's tensors, one after the other, or zeros.
struct OutputTensor {
  std::string name;
  std::vector<std::int64_t> shape;         ///< outermost first
  ElementType type = ElementType::f32;     ///< in the file
  std::vector<const StreamTensor*> parts;  ///< stacked rows, in order; none: zeros
  [[nodiscard]] std::int64_t elements() const {
    std::int64_t n = 1;
    for (const std::int64_t size : shape) n *= size;
    return n;
  }
  [[nodiscard]] std::size_t bytes() const { return bytes_of(type, elements()).value_or(0); }
};

struct Layout {
  const ArchitectureRow* row = nullptr;
  std::vector<OutputTensor> tensors;
  std::vector<std::string> remarks;
};

/// The architecture that the source names where it can express the config, else the first that can.
Result<const ArchitectureRow*> choose_architecture(const ModelStream& stream) {
  const ModelConfig& c = stream.config;
  // Llama can hold Qwen2's biases too, but is not what such models are published as.
  const bool as_qwen2 = stream.facts.architecture.empty() && c.qkv_bias;
  const ArchitectureRow* hinted = find_gguf_architecture(as_qwen2 ? "qwen2" : stream.facts.architecture);
  if (hinted != nullptr && obstacle_to(*hinted, c).empty()) return hinted;
  const ArchitectureRow* nearest = nullptr;
  for (const ArchitectureRow& row : gguf_architecture_rows()) {
    if (obstacle_to(row, c).empty()) return &row;
    // The nearest one: of the model's norm and positions.
    if (nearest == nullptr && row.norm == c.norm && row.position == c.position && row.mlp == c.mlp) nearest = &row;
  }
  if (hinted == nullptr) hinted = nearest != nullptr ? nearest : find_gguf_architecture("llama");
  return bad_input(fmt::format("no architecture of GGUF has all of this model: {} stands in the way (of {}, the nearest)",
                               obstacle_to(*hinted, c), hinted->name));
}

bool is_matrix(const StreamTensor& tensor) {
  return tensor.name.ends_with(".weight") && tensor.shape.size() >= 2 && !tensor.name.ends_with("ffn_gate_inp.weight") &&
         tensor.name != "position_embd.weight";
}

/// The type that a tensor has in the file, and why it is not the one that was asked for.
ElementType file_type_of(const StreamTensor& tensor, const StreamWriteOptions& options, std::vector<std::string>& remarks) {
  if (!is_matrix(tensor)) return ElementType::f32;
  if (block_format(tensor.type).quantized) return tensor.type;
  const ElementType wanted = options.type.value_or(tensor.type);
  const BlockFormat& format = block_format(wanted);
  if (tensor.cols() % format.block_elements == 0) return wanted;
  remarks.push_back(fmt::format("tensor {}: rows of {} elements are no multiple of {}: F16 instead of {}", tensor.name,
                                tensor.cols(), format.block_elements, format.name));
  return ElementType::f16;
}

/// Builds the file's list of tensors from the stream's.
class LayoutMaker {
 public:
  LayoutMaker(const ModelStream& stream, const StreamWriteOptions& options, Layout& out)
      : stream_(stream), options_(options), out_(out) {}

  void make() {
    const ModelConfig& c = stream_.config;
    const ArchitectureRow& row = *out_.row;
    for (std::size_t i = 0; i < stream_.tensors.size(); ++i) {
      const StreamTensor& tensor = stream_.tensors[i];
      if (row.fused_qkv && base_is(tensor, "attn_q")) {
        fuse(tensor, "attn_q", "attn_qkv",
             {find_beside(tensor, "attn_q", "attn_k"), find_beside(tensor, "attn_q", "attn_v")});
      } else if (row.fused_qkv && (base_is(tensor, "attn_k") || base_is(tensor, "attn_v"))) {
        continue;
      } else if (row.fused_gate_up && base_is(tensor, "ffn_gate")) {
        fuse(tensor, "ffn_gate", "ffn_up", {find_beside(tensor, "ffn_gate", "ffn_up")});
      } else if (row.fused_gate_up && base_is(tensor, "ffn_up")) {
        continue;
      } else {
        add(tensor, row.norm2_after_attention ? renamed(tensor.name, ".ffn_norm.", ".post_attention_norm.") : tensor.name);
      }
    }
    add_zeros(c, row);
    if (row.head == Presence::filled && c.tied_embeddings) {
      const StreamTensor& embedding = stream_.tensors.front();
      add(embedding, "output.weight");
      out_.remarks.push_back(
          fmt::format("{} models have a head of their own: the embedding is written again as output.weight", row.name));
    }
  }

 private:
  static bool base_is(const StreamTensor& tensor, std::string_view base) {
    return tensor.name.find(fmt::format(".{}.", base)) != std::string::npos;
  }
  static std::string renamed(std::string name, std::string_view from, std::string_view to) {
    if (const std::size_t at = name.find(from); at != std::string::npos) name.replace(at, from.size(), to);
    return name;
  }
  const StreamTensor* find_beside(const StreamTensor& tensor, std::string_view from, std::string_view to) const {
    return stream_.find(renamed(tensor.name, fmt::format(".{}.", from), fmt::format(".{}.", to)));
  }
  void add(const StreamTensor& tensor, std::string name) {
    out_.tensors.push_back({std::move(name), tensor.shape, file_type_of(tensor, options_, out_.remarks), {&tensor}});
  }
  void fuse(const StreamTensor& first, std::string_view from, std::string_view to, std::vector<const StreamTensor*> others) {
    OutputTensor fused{renamed(first.name, fmt::format(".{}.", from), fmt::format(".{}.", to)),
                       first.shape,
                       file_type_of(first, options_, out_.remarks),
                       {&first}};
    bool mixed = false;
    for (const StreamTensor* other : others) {
      fused.shape.front() += other->shape.front();
      if (file_type_of(*other, options_, out_.remarks) != fused.type) mixed = true;
      fused.parts.push_back(other);
    }
    if (mixed) fused.type = ElementType::f16;  // one tensor has one type
    out_.tensors.push_back(std::move(fused));
  }
  void zeros(std::string name, std::int64_t count) {
    out_.tensors.push_back({std::move(name), {count}, ElementType::f32, {}});
  }

  /// What the architecture has and the model does not.
  void add_zeros(const ModelConfig& c, const ArchitectureRow& row) {
    std::vector<std::string_view> filled;
    const bool norms = row.norm == NormKind::layer_norm && !c.norm_bias;
    const bool qkv = row.qkv_bias == Presence::filled && !c.has_qkv_bias();
    const bool output = row.output_bias == Presence::filled && !c.attention_bias;
    const bool mlp = row.mlp_bias == Presence::filled && !c.mlp_bias;
    const bool router = row.router_bias == Presence::filled && !c.router_bias;
    for (std::int64_t layer = 0; layer < c.layers; ++layer) {
      const std::string block = fmt::format("blk.{}.", layer);
      if (norms) zeros(block + "attn_norm.bias", c.width);
      if (norms) zeros(block + "ffn_norm.bias", c.width);
      if (qkv && row.fused_qkv) zeros(block + "attn_qkv.bias", c.qkv_width());
      if (qkv && !row.fused_qkv) {
        zeros(block + "attn_q.bias", c.query_width());
        zeros(block + "attn_k.bias", c.kv_width());
        zeros(block + "attn_v.bias", c.kv_width());
      }
      if (output) zeros(block + "attn_output.bias", c.width);
      if (mlp && c.experts == 0) {
        if (c.gated()) zeros(block + "ffn_gate.bias", c.mlp_width);
        zeros(block + "ffn_up.bias", c.mlp_width);
        zeros(block + "ffn_down.bias", c.width);
      } else if (mlp) {
        for (const char* name : {"ffn_gate_exps.bias", "ffn_up_exps.bias"}) {
          out_.tensors.push_back({block + name, {c.experts, c.mlp_width}, ElementType::f32, {}});
        }
        out_.tensors.push_back({block + "ffn_down_exps.bias", {c.experts, c.width}, ElementType::f32, {}});
      }
      if (router) zeros(block + "ffn_gate_inp.bias", c.experts);
    }
    if (norms) zeros("output_norm.bias", c.width);
    if (norms) filled.emplace_back("norms");
    if (qkv) filled.emplace_back("q, k and v");
    if (output) filled.emplace_back("the attention's output");
    if (mlp) filled.emplace_back("the feed-forward part");
    if (router) filled.emplace_back("the router");
    if (!filled.empty()) {
      out_.remarks.push_back(fmt::format("{} models have biases that this one lacks ({}): they are written as zeros",
                                         row.name, fmt::join(filled, ", ")));
    }
  }

  const ModelStream& stream_;
  const StreamWriteOptions& options_;
  Layout& out_;
};

Result<Layout> make_layout(const ModelStream& stream, const StreamWriteOptions& options) {
  if (options.type && *options.type != ElementType::f32 && *options.type != ElementType::f16 &&
      *options.type != ElementType::bf16 && *options.type != ElementType::q8_0) {
    return bad_input(fmt::format("--type must be f32, f16, bf16 or q8_0, found {} (`quern quantize` writes the others)",
                                 block_format(*options.type).name));
  }
  Layout layout;
  const auto row = choose_architecture(stream);
  if (!row) return tl::make_unexpected(row.error());
  layout.row = *row;
  LayoutMaker(stream, options, layout).make();
  if (options.type) {
    const auto kept = std::ranges::count_if(layout.tensors, [&](const OutputTensor& tensor) {
      return block_format(tensor.type).quantized && tensor.type != *options.type;
    });
    if (kept > 0) {
      layout.remarks.push_back(
          fmt::format("{} tensors are quantized already and stay as they are (`quern quantize IN OUT {}` "
                      "decodes them)",
                      kept, block_format(*options.type).name));
    }
  }
  const ModelConfig& c = stream.config;
  const ModelConfig usual;
  if (c.rope_scaling == RopeScaling::yarn &&
      (c.rope_beta_fast != usual.rope_beta_fast || c.rope_beta_slow != usual.rope_beta_slow)) {
    layout.remarks.push_back(fmt::format(
        "rope_beta_fast {} and rope_beta_slow {} are written, but llama.cpp takes {} and {} for this architecture",
        c.rope_beta_fast, c.rope_beta_slow, usual.rope_beta_fast, usual.rope_beta_slow));
  }
  return layout;
}

void add_rope(GgufWriter& writer, const std::string& a, const ArchitectureRow& row, const ModelConfig& c) {
  if (c.position != PositionKind::rope) return;
  writer.add_u32(a + "rope.dimension_count", static_cast<std::uint32_t>(c.rotated()));
  writer.add_f32(a + "rope.freq_base", c.rope_base);
  if (c.window > 0 && row.base_windowed != 0.0F) {
    writer.add_f32(a + "rope.freq_base_swa", c.rope_base_windowed != 0.0F ? c.rope_base_windowed : c.rope_base);
  }
  if (c.rope_scaling == RopeScaling::linear) {
    writer.add_string(a + "rope.scaling.type", "linear");
    writer.add_f32(a + "rope.scaling.factor", c.rope_factor);
  } else if (c.rope_scaling == RopeScaling::yarn) {
    writer.add_string(a + "rope.scaling.type", "yarn");
    writer.add_f32(a + "rope.scaling.factor", c.rope_factor);
    writer.add_f32(a + "rope.scaling.yarn_beta_fast", c.rope_beta_fast);
    writer.add_f32(a + "rope.scaling.yarn_beta_slow", c.rope_beta_slow);
  }
  if (c.rope_scaling == RopeScaling::yarn || !c.rope_factors_long.empty()) {
    writer.add_u32(a + "rope.scaling.original_context_length", static_cast<std::uint32_t>(c.rope_original_context));
  }
  if (c.rope_magnitude != 1.0F) writer.add_f32(a + "rope.scaling.attn_factor", c.rope_magnitude);
}

void add_hyper_parameters(GgufWriter& writer, const ArchitectureRow& row, const ModelConfig& c) {
  const std::string a = std::string(row.name) + ".";
  const auto size = [](std::int64_t n) { return static_cast<std::uint32_t>(n); };
  writer.add_u32(a + "context_length", size(c.context));
  writer.add_u32(a + "embedding_length", size(c.width));
  writer.add_u32(a + "block_count", size(c.layers));
  writer.add_u32(a + "feed_forward_length", size(c.mlp_width));
  writer.add_u32(a + "attention.head_count", size(c.heads));
  writer.add_u32(a + "attention.head_count_kv", size(c.kv_heads));
  writer.add_u32(a + "attention.key_length", size(c.head_dim));
  writer.add_u32(a + "attention.value_length", size(c.head_dim));
  writer.add_f32(a + (c.norm == NormKind::layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon"),
                 c.norm_eps);
  writer.add_u32(a + "vocab_size", size(c.vocab));
  add_rope(writer, a, row, c);
  if (row.windowed && c.window > 0) {
    writer.add_u32(a + "attention.sliding_window", size(c.window));
    if (c.window_period != row.window_period) {  // 0: every layer
      writer.add_u32(a + "attention.sliding_window_pattern", c.window_period > 1 ? size(c.window_period) : 0);
    }
  } else if (row.always_windowed) {
    writer.add_u32(a + "attention.sliding_window", size(c.context));  // sees all of a text
  }
  if (row.attention_soft_cap != Presence::never) writer.add_f32(a + "attn_logit_softcapping", c.attention_soft_cap);
  if (row.final_soft_cap != Presence::never && c.final_soft_cap != 0.0F) {
    writer.add_f32(a + "final_logit_softcapping", c.final_soft_cap);
  }
  if (c.experts > 0) {
    writer.add_u32(a + "expert_count", size(c.experts));
    writer.add_u32(a + "expert_used_count", size(c.experts_used));
    if (row.experts == Presence::required) writer.add_u32(a + "expert_feed_forward_length", size(c.mlp_width));
  }
}

/// llama.cpp's number for what most of a file's bytes are.
std::uint32_t file_type_number(const Layout& layout) {
  std::array<std::size_t, 64> bytes{};
  for (const OutputTensor& tensor : layout.tensors) bytes[static_cast<std::size_t>(tensor.type)] += tensor.bytes();
  const auto most = static_cast<ElementType>(std::max_element(bytes.begin(), bytes.end()) - bytes.begin());
  switch (most) {
    case ElementType::f32:
      return 0;
    case ElementType::f16:
      return 1;
    case ElementType::q4_0:
      return 2;
    case ElementType::q4_1:
      return 3;
    case ElementType::q8_0:
      return 7;
    case ElementType::q5_0:
      return 8;
    case ElementType::q5_1:
      return 9;
    case ElementType::q2_k:
      return 10;
    case ElementType::q3_k:
      return 12;
    case ElementType::q4_k:
      return 15;
    case ElementType::q5_k:
      return 17;
    case ElementType::q6_k:
      return 18;
    case ElementType::iq4_nl:
      return 25;
    case ElementType::iq4_xs:
      return 30;
    case ElementType::bf16:
      return 32;
    case ElementType::mxfp4:
      return 38;
    default:
      return 1024;  // guessed
  }
}

Result<void> add_metadata(GgufWriter& writer, const ModelStream& stream, const ModelStream& original, const Layout& layout) {
  writer.add_string("general.architecture", layout.row->name);
  writer.add_string("general.type", "model");
  if (!stream.facts.name.empty()) writer.add_string("general.name", stream.facts.name);
  writer.add_u32("general.file_type", file_type_number(layout));
  writer.add_u32("general.quantization_version", 2);
  add_hyper_parameters(writer, *layout.row, stream.config);
  if (stream.tokenizer) {
    if (auto added = add_tokenizer(writer, *stream.tokenizer, stream.config.vocab); !added) return added;
  } else {
    writer.add_string("tokenizer.ggml.model", "none");
  }
  if (!stream.facts.chat_template.empty()) writer.add_string("tokenizer.chat_template", stream.facts.chat_template);
  for (const auto& [name, text] : stream.facts.named_chat_templates) {
    writer.add_string("tokenizer.chat_template." + name, text);
  }
  // So that a model that was trained here comes back as it was.
  writer.add_string("quern.version", QUERN_VERSION);
  if (original.facts.source_format == "checkpoint") {
    writer.add_string("quern.model", to_json(original.config));
    if (original.tokenizer &&
        (original.tokenizer->kind() == TokenizerKind::bytes || original.tokenizer->kind() == TokenizerKind::characters ||
         original.tokenizer->kind() == TokenizerKind::bpe)) {
      writer.add_string("quern.trained_tokenizer", original.tokenizer->to_json());
    }
    writer.add_integer("quern.trained_steps", GgufType::u64, original.facts.trained_steps);
  }
  return {};
}

std::vector<std::int64_t> innermost_first(const std::vector<std::int64_t>& shape) { return {shape.rbegin(), shape.rend()}; }

/// Frequency factors of RoPE as tensors.
std::vector<std::pair<std::string, const std::vector<float>*>> factor_tensors(const ModelConfig& c) {
  if (c.rope_scaling != RopeScaling::factors) return {};
  if (c.rope_factors_long.empty()) return {{"rope_freqs.weight", &c.rope_factors}};
  return {{"rope_factors_long.weight", &c.rope_factors_long}, {"rope_factors_short.weight", &c.rope_factors}};
}

constexpr std::int64_t kPieceElements = std::int64_t{1} << 22;
/// Below this a parallel region costs more than it saves.
constexpr std::int64_t kSerialElements = std::int64_t{1} << 16;

/// Writes one tensor's data, converted where the file's type is another.
class DataWriter {
 public:
  DataWriter(GgufWriter& writer, const KernelTable& kernels, std::function<Result<void>(std::size_t)> wrote)
      : writer_(writer), kernels_(kernels), wrote_(std::move(wrote)), team_(default_thread_count()) {}

  Result<void> write(const OutputTensor& tensor) {
    if (tensor.parts.empty()) {
      const std::vector<std::byte> nothing(tensor.bytes());
      if (auto done = writer_.write(nothing); !done) return done;
      return wrote_(nothing.size());
    }
    for (const StreamTensor* part : tensor.parts) {
      if (auto done = write_part(*part, tensor.type); !done) return done;
      if (part->release) part->release();
    }
    return {};
  }

 private:
  Result<void> write_part(const StreamTensor& part, ElementType type) {
    const std::int64_t cols = part.cols();
    const std::int64_t step = std::max<std::int64_t>(1, kPieceElements / cols);
    for (std::int64_t first = 0; first < part.rows(); first += step) {
      const std::int64_t count = std::min(step, part.rows() - first);
      out_.resize(static_cast<std::size_t>(count) * bytes_of(type, cols).value_or(0));
      if (part.type == type) {
        if (auto read = part.read(first, count, out_); !read) return read;
      } else {
        values_.resize(static_cast<std::size_t>(count * cols));
        if (auto read = read_rows_f32(part, first, count, values_); !read) return read;
        const QuantizationError error =
            quantize(kernels_, count * cols < kSerialElements ? serial_ : team_,
                     {.type = type, .x = values_.data(), .rows = count, .cols = cols, .out = out_.data()});
        if (!error.finite) {
          return bad_input(
              fmt::format("{} holds a NaN or an infinity, which {} cannot", part.origin, block_format(type).name));
        }
      }
      if (auto done = writer_.write(out_); !done) return done;
      if (auto go_on = wrote_(out_.size()); !go_on) return go_on;
    }
    return {};
  }

  GgufWriter& writer_;
  const KernelTable& kernels_;
  std::function<Result<void>(std::size_t)> wrote_;
  ThreadTeam team_;
  ThreadTeam serial_{1};
  std::vector<float> values_;
  std::vector<std::byte> out_;
};

}  // namespace

Result<StreamPlan> plan_gguf(const ModelStream& stream, const StreamWriteOptions& options) {
  const auto layout = make_layout(stream, options);
  if (!layout) return tl::make_unexpected(layout.error());
  if (stream.tokenizer) {
    if (auto good = check_gguf_tokenizer(*stream.tokenizer, stream.config.vocab); !good) {
      return tl::make_unexpected(good.error());
    }
  }
  StreamPlan plan;
  plan.architecture = std::string(layout->row->name);
  plan.remarks = layout->remarks;
  for (const OutputTensor& tensor : layout->tensors) {
    plan.tensors.push_back({tensor.name, tensor.shape, std::string(block_format(tensor.type).name), tensor.bytes()});
  }
  for (const auto& [name, factors] : factor_tensors(stream.config)) {
    plan.tensors.push_back({name, {std::ssize(*factors)}, "F32", factors->size() * sizeof(float)});
  }
  return plan;
}

Result<void> write_gguf(const ModelStream& original, const std::string& path, const StreamWriteOptions& options) {
  const auto row = choose_architecture(original);
  if (!row) return tl::make_unexpected(row.error());
  const ModelStream stream = with_rope_pairing(original, (*row)->pairing);
  const auto layout = make_layout(stream, options);
  if (!layout) return tl::make_unexpected(layout.error());
  const auto kernels = chosen_kernels();
  if (!kernels) return tl::make_unexpected(kernels.error());

  auto writer = GgufWriter::create(path, {.checksums = options.checksums});
  if (!writer) return tl::make_unexpected(writer.error());
  if (auto added = add_metadata(*writer, stream, original, *layout); !added) return added;
  std::size_t all = 0;
  for (const OutputTensor& tensor : layout->tensors) {
    writer->declare_tensor(tensor.name, tensor.type, innermost_first(tensor.shape));
    all += tensor.bytes();
  }
  const auto factors = factor_tensors(stream.config);
  for (const auto& [name, values] : factors) {
    const std::array<std::int64_t, 1> shape{std::ssize(*values)};
    writer->declare_tensor(name, ElementType::f32, shape);
  }
  if (auto begun = writer->begin_data(); !begun) return begun;

  std::size_t done = 0;
  DataWriter data(*writer, **kernels, [&](std::size_t bytes) -> Result<void> {
    done += bytes;
    return options.progress ? options.progress(done, all) : Result<void>{};
  });
  for (const OutputTensor& tensor : layout->tensors) {
    if (auto wrote = data.write(tensor); !wrote) return wrote;
  }
  for (const auto& [name, values] : factors) {
    if (auto wrote = writer->write(std::as_bytes(std::span(*values))); !wrote) return wrote;
  }
  return writer->finish();
}

}  // namespace quern
