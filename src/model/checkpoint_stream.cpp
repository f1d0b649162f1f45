// Checkpoints as ModelStreams, and back.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "math/aligned_buffer.hpp"
#include "math/block_formats.hpp"
#include "model/checkpoint.hpp"
#include "model/model_stream.hpp"

namespace quern {

namespace {

/// Where a stream's tensor stands in a parameter that may hold more: `matrices` runs of `run` elements, `stride` apart.
struct Place {
  const Parameter* parameter = nullptr;
  std::int64_t first = 0;
  std::int64_t run = 0;
  std::int64_t stride = 0;
};

const Parameter* find_parameter(const ParameterLayout& layout, const std::string& name) {
  const auto at =
      std::find_if(layout.parameters.begin(), layout.parameters.end(), [&](const Parameter& p) { return p.name == name; });
  return at == layout.parameters.end() ? nullptr : &*at;
}

/// `rows` of the fused parameter's rows, from `first_row` on, again after every `period` rows.
Place part_of(const ParameterLayout& layout, const std::string& name, std::int64_t first_row, std::int64_t rows,
              std::int64_t period) {
  const Parameter* parameter = find_parameter(layout, name);
  if (parameter == nullptr) return {};
  return {parameter, first_row * parameter->cols, rows * parameter->cols, period * parameter->cols};
}

/// Trained models keep q, k and v in one matrix, and gate and up.
Place locate(const ParameterLayout& layout, const ModelConfig& c, const std::string& name) {
  const Parameter* whole = find_parameter(layout, name);
  const std::size_t last_dot = name.rfind('.');
  const std::size_t base_dot = name.rfind('.', last_dot - 1);
  if (base_dot == std::string::npos) return whole == nullptr ? Place{} : Place{whole, 0, whole->count(), whole->count()};
  const std::string block = name.substr(0, base_dot + 1);
  const std::string base = name.substr(base_dot + 1, last_dot - base_dot - 1);
  const std::string kind = name.substr(last_dot);
  const std::int64_t q = c.query_width();
  const std::int64_t kv = c.kv_width();
  const std::string qkv = block + "attn_qkv" + kind;
  if (base == "attn_q") return part_of(layout, qkv, 0, q, c.qkv_width());
  if (base == "attn_k") return part_of(layout, qkv, q, kv, c.qkv_width());
  if (base == "attn_v") return part_of(layout, qkv, q + kv, kv, c.qkv_width());
  if (c.gated()) {
    const std::string fused = block + (c.experts > 0 ? "ffn_gate_up_exps" : "ffn_gate_up") + kind;
    if (base == "ffn_gate" || base == "ffn_gate_exps") return part_of(layout, fused, 0, c.mlp_width, 2 * c.mlp_width);
    if (base == "ffn_up" || base == "ffn_up_exps") return part_of(layout, fused, c.mlp_width, c.mlp_width, 2 * c.mlp_width);
  }
  return whole == nullptr ? Place{} : Place{whole, 0, whole->count(), whole->count()};
}

/// Copies elements first .. first + count - 1 of a tensor at `place` out of the block, or into it.
template <class Copy>
void each_run(const Place& place, std::int64_t first, std::int64_t count, Copy copy) {
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t at = first + done;
    const std::int64_t inside = at % place.run;
    const std::int64_t here = std::min(place.run - inside, count - done);
    copy(place.parameter->offset + place.first + at / place.run * place.stride + inside, done, here);
    done += here;
  }
}

std::string layout_error(const std::string& name) {
  return fmt::format("tensor {} has no place among a checkpoint's parameters", name);
}

struct Source {
  ParameterLayout layout;
  AlignedBuffer block;
};

Result<AlignedBuffer> allocate_block(const ParameterLayout& layout, const std::string& path) {
  const auto bytes = static_cast<std::size_t>(layout.elements) * sizeof(float);
  auto buffer = AlignedBuffer::allocate(bytes);
  if (!buffer) {
    return no_memory(
        fmt::format("{}: a checkpoint's weights are f32, here {} bytes, which this process cannot have", path, bytes));
  }
  return std::move(*buffer);
}

}  // namespace

Result<ModelStream> stream_checkpoint(const std::string& run_or_file) {
  const auto path = find_checkpoint(run_or_file, false);
  if (!path) return tl::make_unexpected(path.error());
  const auto info = read_checkpoint_info(*path);
  if (!info) return tl::make_unexpected(info.error());
  auto tokenizer = Tokenizer::from_json(info->tokenizer_json, *path);
  if (!tokenizer) return tl::make_unexpected(tokenizer.error());

  auto source = std::make_shared<Source>();
  source->layout = parameter_layout(info->model);
  auto block = allocate_block(source->layout, *path);
  if (!block) return tl::make_unexpected(block.error());
  source->block = std::move(*block);
  auto* values = reinterpret_cast<float*>(source->block.data());
  const std::span<float> weights(values, static_cast<std::size_t>(source->layout.elements));
  if (auto read = read_checkpoint_tensors(*path, source->layout, {weights, {}, {}}); !read) {
    return tl::make_unexpected(read.error());
  }

  ModelStream stream;
  stream.config = info->model;
  stream.facts.source_format = "checkpoint";
  stream.facts.trained_steps = info->step;
  stream.tokenizer = std::move(*tokenizer);
  for (const StreamTensorSpec& spec : stream_tensors(info->model)) {
    const Place place = locate(source->layout, info->model, spec.name);
    if (place.parameter == nullptr) return bad_input(fmt::format("{}: {}", *path, layout_error(spec.name)));
    StreamTensor tensor;
    tensor.name = spec.name;
    tensor.shape = spec.shape;
    tensor.type = ElementType::f32;
    tensor.origin = fmt::format("{}: tensor {}", *path, place.parameter->name);
    tensor.read = [source, values, place, cols = spec.shape.back()](std::int64_t first, std::int64_t count,
                                                                    std::span<std::byte> out) -> Result<void> {
      each_run(place, first * cols, count * cols, [&](std::int64_t from, std::int64_t to, std::int64_t elements) {
        std::memcpy(out.data() + static_cast<std::size_t>(to) * sizeof(float), values + from,
                    static_cast<std::size_t>(elements) * sizeof(float));
      });
      return {};
    };
    stream.tensors.push_back(std::move(tensor));
  }
  stream.source = source;
  return stream;
}

Result<StreamPlan> plan_checkpoint(const ModelStream& stream) {
  if (auto able = trainable(stream.config); !able) return tl::make_unexpected(able.error());
  if (!stream.tokenizer) return bad_input("the model has no vocabulary, which a checkpoint must have");
  StreamPlan plan;
  plan.architecture = "checkpoint";
  for (const Parameter& parameter : parameter_layout(stream.config).parameters) {
    std::vector<std::int64_t> shape = {parameter.rows};
    if (parameter.cols > 1) shape.push_back(parameter.cols);
    plan.tensors.push_back({parameter.name, shape, "F32", static_cast<std::size_t>(parameter.count()) * sizeof(float)});
  }
  std::int64_t quantized = 0;
  for (const StreamTensor& tensor : stream.tensors) quantized += block_format(tensor.type).quantized ? 1 : 0;
  if (quantized > 0) {
    plan.remarks.push_back(fmt::format(
        "{} of {} tensors are quantized and are decoded to f32: training goes on from what quantization left of them",
        quantized, stream.tensors.size()));
  }
  return plan;
}

Result<void> write_checkpoint(const ModelStream& stream, const std::string& path, const StreamWriteOptions& options) {
  if (auto plan = plan_checkpoint(stream); !plan) return tl::make_unexpected(plan.error());
  if (options.type && *options.type != ElementType::f32) {
    return bad_input(fmt::format("--type: a checkpoint holds f32 only, found {}", block_format(*options.type).name));
  }
  const ParameterLayout layout = parameter_layout(stream.config);
  auto block = allocate_block(layout, path);
  if (!block) return tl::make_unexpected(block.error());
  auto* values = reinterpret_cast<float*>(block->data());

  std::size_t all = 0;
  for (const StreamTensor& tensor : stream.tensors) all += static_cast<std::size_t>(tensor.elements()) * sizeof(float);
  std::size_t done = 0;
  constexpr std::int64_t kPieceElements = std::int64_t{1} << 22;
  std::vector<float> piece;
  for (const StreamTensor& tensor : stream.tensors) {
    const Place place = locate(layout, stream.config, tensor.name);
    if (place.parameter == nullptr) return bad_input(fmt::format("{}: {}", path, layout_error(tensor.name)));
    const std::int64_t cols = tensor.cols();
    const std::int64_t step = std::max<std::int64_t>(1, kPieceElements / cols);
    for (std::int64_t first = 0; first < tensor.rows(); first += step) {
      const std::int64_t count = std::min(step, tensor.rows() - first);
      piece.resize(static_cast<std::size_t>(count * cols));
      if (auto read = read_rows_f32(tensor, first, count, piece); !read) return read;
      each_run(place, first * cols, count * cols, [&](std::int64_t to, std::int64_t from, std::int64_t elements) {
        std::memcpy(values + to, piece.data() + from, static_cast<std::size_t>(elements) * sizeof(float));
      });
      done += piece.size() * sizeof(float);
      if (options.progress) {
        if (auto go_on = options.progress(done, all); !go_on) return go_on;
      }
    }
    if (tensor.release) tensor.release();
  }

  CheckpointInfo info;
  info.model = stream.config;
  info.tokenizer_json = stream.tokenizer->to_json();
  info.step = stream.facts.trained_steps;
  info.quern_version = QUERN_VERSION;
  return save_checkpoint(path, info, layout,
                         {std::span<const float>(values, static_cast<std::size_t>(layout.elements)), {}, {}});
}

}  // namespace quern
