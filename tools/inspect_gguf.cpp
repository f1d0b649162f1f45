// quern inspect of a GGUF file.
#include <fmt/format.h>

#include <algorithm>

#include "command.hpp"
#include "inspect_file.hpp"
#include "math/block_formats.hpp"
#include "model/gguf_file.hpp"
#include "model/gguf_model.hpp"
#include "model/gguf_values.hpp"
#include "run_statistics.hpp"

namespace quern::tools {
namespace {

using Json = nlohmann::ordered_json;

// Long arrays and texts are cut: in text to a line, in JSON so that a vocabulary does not drown the rest.
constexpr std::int64_t kShownElements = 6;
constexpr std::int64_t kJsonElements = 16;
constexpr std::size_t kShownBytes = 70;
constexpr std::size_t kShownElementBytes = 24;

std::string number_text(const internal::GgufNumber& number) {
  return std::visit([](auto value) { return fmt::format("{}", value); }, number);
}

Json number_json(const internal::GgufNumber& number) {
  return std::visit([](auto value) { return Json(value); }, number);
}

std::string array_text(const GgufArray& array) {
  std::string text = fmt::format("{} {}{}", array.count, to_word(array.type), array.count == 1 ? "" : "s");
  const std::int64_t shown = std::min(array.count, kShownElements);
  for (std::int64_t i = 0; i < shown; ++i) {
    text += i == 0 ? ": " : ", ";
    text += array.type == GgufType::string
                ? fmt::format("'{}'", internal::shown(array.strings[static_cast<std::size_t>(i)], kShownElementBytes))
                : number_text(internal::element_of(array, i));
  }
  return text + (shown < array.count ? ", ..." : "");
}

std::string value_text(const GgufValue& value) {
  if (const auto* array = std::get_if<GgufArray>(&value.value)) return array_text(*array);
  if (const auto* text = std::get_if<std::string_view>(&value.value)) return internal::shown(*text, kShownBytes);
  if (const auto* large = std::get_if<std::uint64_t>(&value.value)) return fmt::format("{}", *large);
  if (const auto* real = std::get_if<double>(&value.value)) {
    return value.type == GgufType::f32 ? fmt::format("{}", static_cast<float>(*real)) : fmt::format("{}", *real);
  }
  if (const auto* truth = std::get_if<bool>(&value.value)) return fmt::format("{}", *truth);
  return fmt::format("{}", std::get<std::int64_t>(value.value));
}

Json value_json(const GgufValue& value) {
  Json json = {{"type", to_word(value.type)}};
  if (const auto* array = std::get_if<GgufArray>(&value.value)) {
    json["element_type"] = to_word(array->type);
    json["count"] = array->count;
    Json first = Json::array();
    for (std::int64_t i = 0; i < std::min(array->count, kJsonElements); ++i) {
      first.push_back(array->type == GgufType::string ? Json(array->strings[static_cast<std::size_t>(i)])
                                                      : number_json(internal::element_of(*array, i)));
    }
    json["first"] = std::move(first);
  } else {
    std::visit(
        [&](const auto& plain) {
          if constexpr (!std::is_same_v<std::decay_t<decltype(plain)>, GgufArray>) json["value"] = plain;
        },
        value.value);
  }
  return json;
}

std::vector<TensorLine> tensor_lines(const GgufFile& file) {
  std::vector<TensorLine> lines;
  for (const GgufTensor& tensor : file.tensors()) {
    lines.push_back({.name = std::string(tensor.name),
                     .type = std::string(block_format(tensor.type).name),
                     .shape = {tensor.shape.begin(), tensor.shape.begin() + tensor.dimensions},
                     .elements = tensor.elements(),
                     .bytes = tensor.bytes});
  }
  return lines;
}

std::size_t weight_bytes_of(const GgufFile& file) {
  std::size_t bytes = 0;
  for (const GgufTensor& tensor : file.tensors()) bytes += tensor.bytes;
  return bytes;
}

// Why no memory figures can be given: a file without weights has its own words.
Result<ModelConfig> config_of(const GgufFile& file) {
  if (file.tensors().empty()) return bad_input(fmt::format("{}: there are no tensors", file.name()));
  return model_config_from_gguf(file);
}

void print_file(const GgufFile& file, const InspectOptions& options) {
  fmt::print("{}\n", file.name());
  fmt::print("  {:<12}GGUF version {}, {}{}, tensors aligned to {} bytes\n", "kind", file.version(),
             bytes_text(file.file_bytes()), file.parts() > 1 ? fmt::format(" in {} files", file.parts()) : "",
             file.alignment());
  fmt::print("  {:<12}{} entries\n", "metadata", file.metadata().size());
  for (const GgufValue& value : file.metadata()) {
    fmt::print("    {:<40} {}\n", internal::shown(value.key), value_text(value));
  }
  print_tensors(tensor_lines(file), options.all_tensors);
  if (const auto config = config_of(file)) {
    print_memory(*config, weight_bytes_of(file), options);
  } else {
    fmt::print("  {:<12}not known: {}\n", "needs", config.error().message);
  }
}

Json file_json(const GgufFile& file, const InspectOptions& options) {
  Json json = {{"file", file.name()},
               {"kind", "gguf"},
               {"version", file.version()},
               {"parts", file.parts()},
               {"file_bytes", file.file_bytes()},
               {"alignment", file.alignment()}};
  // Keys are unique: entries are appended without the search of operator[], which is linear.
  Json metadata = Json::object();
  auto& entries = metadata.get_ref<Json::object_t&>();
  for (const GgufValue& value : file.metadata()) entries.emplace_back(std::string(value.key), value_json(value));
  json["metadata"] = std::move(metadata);
  add_tensors(json, tensor_lines(file));
  const auto config = config_of(file);
  json["memory"] = config ? memory_json(*config, weight_bytes_of(file), options) : Json();
  json["memory_error"] = config ? Json() : Json(config.error().message);
  return json;
}

}  // namespace

Result<int> inspect_gguf(const InspectOptions& options) {
  const auto file = GgufFile::open(options.file);
  if (!file) return tl::make_unexpected(file.error());
  if (options.json) {
    print_json(file_json(*file, options));
  } else {
    print_file(*file, options);
  }
  return kExitOk;
}

}  // namespace quern::tools
