#include "inspect_file.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <utility>

#include "infer/loaded_model.hpp"
#include "math/kv_rows.hpp"
#include "model/gguf_values.hpp"
#include "model/model_memory.hpp"
#include "run_statistics.hpp"

namespace quern::tools {
namespace {

using Json = nlohmann::ordered_json;

struct Total {
  std::int64_t tensors = 0, elements = 0;
  std::size_t bytes = 0;
};

std::map<std::string, Total> totals_by_type(const std::vector<TensorLine>& tensors) {
  std::map<std::string, Total> totals;
  for (const TensorLine& tensor : tensors) {
    Total& total = totals[tensor.type];
    ++total.tensors;
    total.elements += tensor.elements;
    total.bytes += tensor.bytes;
  }
  return totals;
}

Total sum_of(const std::vector<TensorLine>& tensors) {
  Total sum{.tensors = static_cast<std::int64_t>(tensors.size())};
  for (const TensorLine& tensor : tensors) {
    sum.elements += tensor.elements;
    sum.bytes += tensor.bytes;
  }
  return sum;
}

void print_tensor_line(const std::string& name, const TensorLine& tensor, const Total& total) {
  fmt::print("    {:<40} {:<8} {:>20} {:>12}{}\n", internal::shown(name), tensor.type,
             fmt::format("[{}]", fmt::join(tensor.shape, ", ")), bytes_text(total.bytes),
             total.tensors > 1 ? fmt::format("  ({} tensors)", total.tensors) : "");
}

std::vector<std::int64_t> contexts_of(const ModelConfig& config, const InspectOptions& options) {
  if (options.context) return {*options.context};
  if (config.context <= kDefaultContext) return {config.context};
  return {kDefaultContext, config.context};
}

}  // namespace

std::string without_layer(const std::string& name) {
  constexpr std::string_view kPrefix = "blk.";
  if (!name.starts_with(kPrefix)) return name;
  const std::size_t end = name.find_first_not_of("0123456789", kPrefix.size());
  if (end == std::string::npos || end == kPrefix.size() || name[end] != '.') return name;
  return "blk.*" + name.substr(end);
}

std::string grouped(std::int64_t number) {
  std::string text = fmt::format("{}", number);
  for (std::size_t at = text.size(); at > 3 && text[at - 4] != '-';) text.insert(at -= 3, ",");
  return text;
}

void print_json(const Json& json) { fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace)); }

void print_tensors(const std::vector<TensorLine>& tensors, bool all) {
  const Total sum = sum_of(tensors);
  fmt::print("  {:<12}{}, {} parameters, {}\n", "tensors", tensors.size(), grouped(sum.elements), bytes_text(sum.bytes));
  for (const auto& [type, total] : totals_by_type(tensors)) {
    fmt::print("    {:<8}{:>6} tensor{} {:>16} parameters {:>12}\n", type, total.tensors, total.tensors == 1 ? " " : "s",
               grouped(total.elements), bytes_text(total.bytes));
  }
  if (all) {
    for (const TensorLine& tensor : tensors) print_tensor_line(tensor.name, tensor, {.tensors = 1, .bytes = tensor.bytes});
    return;
  }
  // Lines in the order of each kind's first tensor.
  using Kind = std::pair<std::string, std::pair<std::string, std::vector<std::int64_t>>>;
  std::map<Kind, Total> kinds;
  std::vector<std::pair<Kind, const TensorLine*>> order;
  for (const TensorLine& tensor : tensors) {
    Kind kind{without_layer(tensor.name), {tensor.type, tensor.shape}};
    Total& total = kinds[kind];
    if (total.tensors++ == 0) order.emplace_back(std::move(kind), &tensor);
    total.bytes += tensor.bytes;
  }
  for (const auto& [kind, first] : order) print_tensor_line(kind.first, *first, kinds[kind]);
}

void add_tensors(Json& json, const std::vector<TensorLine>& tensors) {
  const Total sum = sum_of(tensors);
  json["tensor_count"] = sum.tensors;
  json["parameters"] = sum.elements;
  json["tensor_bytes"] = sum.bytes;
  Json types = Json::object();
  for (const auto& [type, total] : totals_by_type(tensors)) {
    types[type] = {{"tensors", total.tensors}, {"parameters", total.elements}, {"bytes", total.bytes}};
  }
  json["types"] = std::move(types);
  Json list = Json::array();
  for (const TensorLine& tensor : tensors) {
    list.push_back({{"name", tensor.name},
                    {"type", tensor.type},
                    {"shape", tensor.shape},
                    {"elements", tensor.elements},
                    {"bytes", tensor.bytes}});
  }
  json["tensors"] = std::move(list);
}

void print_memory(const ModelConfig& config, std::size_t weight_bytes, const InspectOptions& options) {
  for (const std::int64_t context : contexts_of(config, options)) {
    const RunMemory memory = run_memory(config, weight_bytes, context);
    fmt::print("  {:<12}{} tokens of context: {} weights + {} working memory + KV cache\n", "needs at", grouped(context),
               bytes_text(memory.weight_bytes), bytes_text(memory.working_bytes));
    for (std::size_t i = 0; i < kReportedKvTypes.size(); ++i) {
      const auto total = memory.total_bytes(i);
      if (!total) {
        fmt::print("    {:<8}not possible: heads of {} elements are no whole blocks, or the size overflows\n",
                   kv_type_name(kReportedKvTypes[i]), config.head_dim);
        continue;
      }
      fmt::print("    {:<8}{:>12} cache, {} in all\n", kv_type_name(kReportedKvTypes[i]), bytes_text(*memory.kv_bytes[i]),
                 bytes_text(*total));
    }
  }
  if (config.window > 0) {
    std::int64_t windowed = 0;
    for (std::int64_t layer = 0; layer < config.layers; ++layer) windowed += config.windowed(layer) ? 1 : 0;
    fmt::print("    {} of {} layers keep a window of {} tokens and a batch\n", windowed, config.layers,
               grouped(config.window));
  }
}

Json memory_json(const ModelConfig& config, std::size_t weight_bytes, const InspectOptions& options) {
  Json list = Json::array();
  for (const std::int64_t context : contexts_of(config, options)) {
    const RunMemory memory = run_memory(config, weight_bytes, context);
    Json cache = Json::object(), total = Json::object();
    for (std::size_t i = 0; i < kReportedKvTypes.size(); ++i) {
      const auto all = memory.total_bytes(i);
      cache[std::string(kv_type_name(kReportedKvTypes[i]))] = memory.kv_bytes[i] ? Json(*memory.kv_bytes[i]) : Json();
      total[std::string(kv_type_name(kReportedKvTypes[i]))] = all ? Json(*all) : Json();
    }
    list.push_back({{"context_tokens", context},
                    {"batch_tokens", memory.batch_tokens},
                    {"weight_bytes", memory.weight_bytes},
                    {"working_bytes", memory.working_bytes},
                    {"kv_cache_bytes", std::move(cache)},
                    {"total_bytes", std::move(total)}});
  }
  return list;
}

}  // namespace quern::tools
