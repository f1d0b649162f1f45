// What quern inspect has per kind of file, and what the kinds share.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "math/result.hpp"
#include "model/model_config.hpp"

namespace quern::tools {

struct InspectOptions {
  std::string file;
  bool json = false;
  bool verify = false;                  ///< against the file's checksums
  bool all_tensors = false;             ///< in text: every tensor, not those alike as one line
  std::optional<std::int64_t> context;  ///< tokens to say memory for; none: the model's own and what `quern run` takes
};

[[nodiscard]] Result<int> inspect_gguf(const InspectOptions& options);
/// A GGUF file's tensors against its checksums: exit code 1 where any is not as it was.
[[nodiscard]] Result<int> verify_gguf(const InspectOptions& options);
/// A checkpoint, or a run folder through its best one.
[[nodiscard]] Result<int> inspect_checkpoint(const InspectOptions& options);
[[nodiscard]] Result<int> inspect_corpus(const InspectOptions& options);

/// A tensor as tables and JSON show it; shape in the file's order.
struct TensorLine {
  std::string name, type;
  std::vector<std::int64_t> shape;
  std::int64_t elements = 0;
  std::size_t bytes = 0;
};
/// Tensors and totals by type. In text those of all layers that are alike are one line, unless `all`.
void print_tensors(const std::vector<TensorLine>& tensors, bool all);
/// Sets tensor_count, parameters, tensor_bytes, types and tensors.
void add_tensors(nlohmann::ordered_json& json, const std::vector<TensorLine>& tensors);

/// What running takes, as a table or as an array of objects, at the contexts that `options` ask for.
void print_memory(const ModelConfig& config, std::size_t weight_bytes, const InspectOptions& options);
[[nodiscard]] nlohmann::ordered_json memory_json(const ModelConfig& config, std::size_t weight_bytes,
                                                 const InspectOptions& options);

/// "blk.7.attn_q.weight" -> "blk.*.attn_q.weight": the same for all layers.
[[nodiscard]] std::string without_layer(const std::string& name);
/// "1,234,567".
[[nodiscard]] std::string grouped(std::int64_t number);
/// Prints an object; bytes that are no UTF-8 become U+FFFD.
void print_json(const nlohmann::ordered_json& json);

}  // namespace quern::tools
