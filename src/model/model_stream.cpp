#include "model/model_stream.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "math/block_decode.hpp"
#include "math/block_formats.hpp"

namespace quern {

namespace {

std::string shape_text(const std::vector<std::int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

void add_attention(const ModelConfig& c, const std::string& block, std::vector<StreamTensorSpec>& list) {
  const auto add = [&](bool wanted, const char* name, std::vector<std::int64_t> shape) {
    if (wanted) list.push_back({block + name, std::move(shape)});
  };
  add(true, "attn_norm.weight", {c.width});
  add(c.norm_bias, "attn_norm.bias", {c.width});
  add(true, "attn_q.weight", {c.query_width(), c.width});
  add(true, "attn_k.weight", {c.kv_width(), c.width});
  add(true, "attn_v.weight", {c.kv_width(), c.width});
  add(c.has_qkv_bias(), "attn_q.bias", {c.query_width()});
  add(c.has_qkv_bias(), "attn_k.bias", {c.kv_width()});
  add(c.has_qkv_bias(), "attn_v.bias", {c.kv_width()});
  add(c.qk_norm, "attn_q_norm.weight", {c.head_dim});
  add(c.qk_norm, "attn_k_norm.weight", {c.head_dim});
  add(true, "attn_output.weight", {c.width, c.query_width()});
  add(c.attention_bias, "attn_output.bias", {c.width});
  add(c.attention_sinks, "attn_sinks.weight", {c.heads});
  add(c.post_norms, "post_attention_norm.weight", {c.width});
}

void add_feed_forward(const ModelConfig& c, const std::string& block, std::vector<StreamTensorSpec>& list) {
  const auto add = [&](bool wanted, const char* name, std::vector<std::int64_t> shape) {
    if (wanted) list.push_back({block + name, std::move(shape)});
  };
  add(true, "ffn_norm.weight", {c.width});
  add(c.norm_bias, "ffn_norm.bias", {c.width});
  if (c.experts > 0) {
    add(true, "ffn_gate_inp.weight", {c.experts, c.width});
    add(c.router_bias, "ffn_gate_inp.bias", {c.experts});
    add(c.gated(), "ffn_gate_exps.weight", {c.experts, c.mlp_width, c.width});
    add(true, "ffn_up_exps.weight", {c.experts, c.mlp_width, c.width});
    add(true, "ffn_down_exps.weight", {c.experts, c.width, c.mlp_width});
    add(c.mlp_bias && c.gated(), "ffn_gate_exps.bias", {c.experts, c.mlp_width});
    add(c.mlp_bias, "ffn_up_exps.bias", {c.experts, c.mlp_width});
    add(c.mlp_bias, "ffn_down_exps.bias", {c.experts, c.width});
  } else {
    add(c.gated(), "ffn_gate.weight", {c.mlp_width, c.width});
    add(true, "ffn_up.weight", {c.mlp_width, c.width});
    add(true, "ffn_down.weight", {c.width, c.mlp_width});
    add(c.mlp_bias && c.gated(), "ffn_gate.bias", {c.mlp_width});
    add(c.mlp_bias, "ffn_up.bias", {c.mlp_width});
    add(c.mlp_bias, "ffn_down.bias", {c.width});
  }
  add(c.post_norms, "post_ffw_norm.weight", {c.width});
}

/// Where element `i` of a head in pairing `to` stands in pairing `from`: pair p is elements 2p and 2p + 1 (adjacent), or p
/// and p + rotated/2 (halves); elements from `rotated` on are not rotated and stay.
std::vector<std::int64_t> head_order(std::int64_t head_dim, std::int64_t rotated, RopePairing from, RopePairing to) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(head_dim));
  for (std::int64_t i = 0; i < head_dim; ++i) order[static_cast<std::size_t>(i)] = i;
  if (from == to) return order;
  for (std::int64_t pair = 0; pair < rotated / 2; ++pair) {
    for (std::int64_t second = 0; second < 2; ++second) {
      const std::int64_t adjacent = 2 * pair + second;
      const std::int64_t halves = pair + second * (rotated / 2);
      const bool to_adjacent = to == RopePairing::adjacent;
      order[static_cast<std::size_t>(to_adjacent ? adjacent : halves)] = to_adjacent ? halves : adjacent;
    }
  }
  return order;
}

/// The tensor with its rows put in another order inside each head.
StreamTensor reorder_rows(StreamTensor tensor, std::vector<std::int64_t> order) {
  const std::size_t row_bytes = tensor.row_bytes();
  tensor.read = [read = std::move(tensor.read), order = std::move(order), row_bytes](
                    std::int64_t first, std::int64_t count, std::span<std::byte> out) -> Result<void> {
    const std::int64_t head = std::ssize(order);
    std::vector<std::byte> rows(static_cast<std::size_t>(head) * row_bytes);
    for (std::int64_t done = 0; done < count;) {
      const std::int64_t at = (first + done) % head;
      if (auto got = read(first + done - at, head, rows); !got) return got;
      const std::int64_t here = std::min(head - at, count - done);
      for (std::int64_t i = 0; i < here; ++i) {
        const auto from = static_cast<std::size_t>(order[static_cast<std::size_t>(at + i)]) * row_bytes;
        std::memcpy(out.data() + static_cast<std::size_t>(done + i) * row_bytes, rows.data() + from, row_bytes);
      }
      done += here;
    }
    return {};
  };
  return tensor;
}

/// A vector with its elements put in another order inside each head.
StreamTensor reorder_elements(StreamTensor tensor, std::vector<std::int64_t> order) {
  const std::size_t element_bytes = tensor.row_bytes() / static_cast<std::size_t>(tensor.cols());
  tensor.read = [read = std::move(tensor.read), order = std::move(order), element_bytes](
                    std::int64_t first, std::int64_t count, std::span<std::byte> out) -> Result<void> {
    std::vector<std::byte> whole(out.size());
    if (auto got = read(first, count, whole); !got) return got;
    const std::size_t head = order.size();
    const std::size_t elements = out.size() / element_bytes;
    for (std::size_t i = 0; i < elements; ++i) {
      const std::size_t from = i / head * head + static_cast<std::size_t>(order[i % head]);
      std::memcpy(out.data() + i * element_bytes, whole.data() + from * element_bytes, element_bytes);
    }
    return {};
  };
  return tensor;
}

}  // namespace

std::int64_t StreamTensor::rows() const {
  std::int64_t rows = 1;
  for (std::size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

std::size_t StreamTensor::row_bytes() const { return bytes_of(type, cols()).value_or(0); }

const StreamTensor* ModelStream::find(std::string_view name) const {
  const auto at = std::find_if(tensors.begin(), tensors.end(), [&](const StreamTensor& t) { return t.name == name; });
  return at == tensors.end() ? nullptr : &*at;
}

std::vector<StreamTensorSpec> stream_tensors(const ModelConfig& c) {
  std::vector<StreamTensorSpec> list;
  list.push_back({"token_embd.weight", {c.vocab, c.width}});
  if (c.position == PositionKind::learned) list.push_back({"position_embd.weight", {c.context, c.width}});
  for (std::int64_t layer = 0; layer < c.layers; ++layer) {
    const std::string block = fmt::format("blk.{}.", layer);
    add_attention(c, block, list);
    add_feed_forward(c, block, list);
  }
  list.push_back({"output_norm.weight", {c.width}});
  if (c.norm_bias) list.push_back({"output_norm.bias", {c.width}});
  if (!c.tied_embeddings) list.push_back({"output.weight", {c.vocab, c.width}});
  return list;
}

Result<void> check_stream(const ModelStream& stream, std::string_view where) {
  const std::vector<StreamTensorSpec> wanted = stream_tensors(stream.config);
  std::unordered_set<std::string_view> known;
  for (const StreamTensorSpec& spec : wanted) known.insert(spec.name);
  std::unordered_set<std::string_view> seen;
  for (const StreamTensor& tensor : stream.tensors) {
    if (!known.contains(tensor.name)) {
      return bad_input(fmt::format("{}: tensor {} is not one of this model", where, tensor.name));
    }
    if (!seen.insert(tensor.name).second) return bad_input(fmt::format("{}: tensor {} is there twice", where, tensor.name));
  }
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const StreamTensorSpec& spec = wanted[i];
    if (!seen.contains(spec.name)) return bad_input(fmt::format("{}: tensor {} is missing", where, spec.name));
    const StreamTensor& tensor = stream.tensors[i];
    if (tensor.name != spec.name) return bad_input(fmt::format("{}: tensor {} is not in its place", where, spec.name));
    if (tensor.shape != spec.shape) {
      return bad_input(fmt::format("{}: tensor {} must have the shape {}, found {}", where, spec.name,
                                   shape_text(spec.shape), shape_text(tensor.shape)));
    }
  }
  return {};
}

Result<void> read_rows_f32(const StreamTensor& tensor, std::int64_t first, std::int64_t count, std::span<float> out) {
  if (tensor.type == ElementType::f32) return tensor.read(first, count, std::as_writable_bytes(out));
  std::vector<std::byte> bytes(static_cast<std::size_t>(count) * tensor.row_bytes());
  if (auto got = tensor.read(first, count, bytes); !got) return got;
  block_decoder_portable()(tensor.type, bytes.data(), count * tensor.cols(), out.data());
  return {};
}

ModelStream with_rope_pairing(ModelStream stream, RopePairing pairing) {
  ModelConfig& c = stream.config;
  if (c.position != PositionKind::rope || c.rope_pairing == pairing) return stream;
  const std::vector<std::int64_t> order = head_order(c.head_dim, c.rotated(), c.rope_pairing, pairing);
  for (StreamTensor& tensor : stream.tensors) {
    const std::string_view name = tensor.name;
    if (name.ends_with(".attn_q.weight") || name.ends_with(".attn_k.weight")) {
      tensor = reorder_rows(std::move(tensor), order);
    } else if (name.ends_with(".attn_q.bias") || name.ends_with(".attn_k.bias") || name.ends_with(".attn_q_norm.weight") ||
               name.ends_with(".attn_k_norm.weight")) {
      tensor = reorder_elements(std::move(tensor), order);
    }
  }
  c.rope_pairing = pairing;
  return stream;
}

StreamTensor slice_rows(const StreamTensor& tensor, std::string name, std::int64_t first_row,
                        std::vector<std::int64_t> shape) {
  StreamTensor slice = tensor;
  slice.name = std::move(name);
  slice.shape = std::move(shape);
  if (tensor.rows() == 1) {  // a vector: a slice of its elements
    const std::size_t element = tensor.row_bytes() / static_cast<std::size_t>(tensor.cols());
    slice.read = [read = tensor.read, all = tensor.row_bytes(), skip = static_cast<std::size_t>(first_row) * element](
                     std::int64_t, std::int64_t, std::span<std::byte> out) -> Result<void> {
      std::vector<std::byte> whole(all);
      if (auto got = read(0, 1, whole); !got) return got;
      std::memcpy(out.data(), whole.data() + skip, out.size());
      return {};
    };
  } else {
    slice.read = [read = tensor.read, first_row](std::int64_t first, std::int64_t count, std::span<std::byte> out) {
      return read(first_row + first, count, out);
    };
  }
  slice.release = nullptr;  // its neighbours may still be wanted
  return slice;
}

}  // namespace quern
