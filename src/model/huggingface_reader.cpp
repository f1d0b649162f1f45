// Hugging Face folders as model streams.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <unordered_map>

#include "model/atomic_file.hpp"
#include "model/gguf_values.hpp"
#include "model/huggingface_families.hpp"
#include "model/huggingface_tensors.hpp"
#include "model/json_document.hpp"
#include "model/model_stream.hpp"
#include "model/safetensors.hpp"
#include "model/tokenizer_files.hpp"

namespace quern {

namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxConfigBytes = std::size_t{1} << 24;
// Tokenizer configurations with thousands of added tokens have under a megabyte.
constexpr std::size_t kMaxTemplateBytes = std::size_t{1} << 26;

Result<Json> read_json(const std::filesystem::path& path, std::size_t max_bytes) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return bad_input(fmt::format("{}: no such file", path.string()));
  auto text = read_whole_file(path.string(), max_bytes);
  if (!text) return tl::make_unexpected(text.error());
  return internal::parse_json_document(*text, path.string());
}

/// The value of `chat_template`: a text, or a list of named ones.
Result<void> take_templates(const Json& value, const std::string& where, ModelFacts& facts) {
  if (value.is_null()) return {};
  if (value.is_string()) {
    facts.chat_template = value.get<std::string>();
    return {};
  }
  if (!value.is_array()) {
    return bad_input(
        fmt::format("{}: chat_template must be a string or a list, found {}", where, internal::json_kind(value)));
  }
  for (const Json& entry : value) {
    const bool good = entry.is_object() && entry.contains("name") && entry["name"].is_string() &&
                      entry.contains("template") && entry["template"].is_string();
    if (!good) {
      return bad_input(fmt::format("{}: chat_template must hold objects with the strings name and template", where));
    }
    auto name = entry["name"].get<std::string>();
    auto text = entry["template"].get<std::string>();
    if (name == "default") {
      facts.chat_template = std::move(text);
    } else {
      facts.named_chat_templates.emplace_back(std::move(name), std::move(text));
    }
  }
  return {};
}

/// chat_template.jinja, or the text in chat_template.json or tokenizer_config.json.
Result<void> read_templates(const std::filesystem::path& folder, ModelFacts& facts) {
  std::error_code error;
  for (const char* const name : {"tokenizer_config.json", "chat_template.json"}) {
    if (!std::filesystem::exists(folder / name, error)) continue;
    const auto json = read_json(folder / name, kMaxTemplateBytes);
    if (!json) return tl::make_unexpected(json.error());
    const auto value = json->find("chat_template");
    if (value == json->end()) continue;
    if (auto taken = take_templates(*value, (folder / name).string(), facts); !taken) return taken;
  }
  if (std::filesystem::exists(folder / "chat_template.jinja", error)) {
    auto text = read_whole_file((folder / "chat_template.jinja").string(), kMaxTemplateBytes);
    if (!text) return tl::make_unexpected(text.error());
    facts.chat_template = std::move(*text);
  }
  return {};
}

Result<bool> all_zero(const StreamTensor& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
  if (auto got = read_rows_f32(tensor, 0, tensor.rows(), values); !got) return tl::make_unexpected(got.error());
  return std::all_of(values.begin(), values.end(), [](float x) { return x == 0.0F; });
}

/// The tensors that the exact model has. Those it lacks are biases that the class demanded; false where one of them is not
/// all zeros any more, so that the exact model is not this one.
Result<bool> keep_exact(std::vector<StreamTensor>& tensors, const ModelConfig& exact) {
  std::unordered_map<std::string_view, std::size_t> at;
  for (std::size_t i = 0; i < tensors.size(); ++i) at.emplace(tensors[i].name, i);
  std::vector<StreamTensor> kept;
  std::vector<bool> is_kept(tensors.size());
  for (const StreamTensorSpec& spec : stream_tensors(exact)) {
    const auto found = at.find(spec.name);
    if (found == at.end()) return false;
    kept.push_back(tensors[found->second]);
    is_kept[found->second] = true;
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (is_kept[i]) continue;
    const auto zero = all_zero(tensors[i]);
    if (!zero) return zero;
    if (!*zero) return false;
  }
  tensors = std::move(kept);
  return true;
}

}  // namespace

Result<ModelStream> stream_huggingface(const std::string& folder) {
  const std::filesystem::path base(folder);
  const std::string config_path = (base / "config.json").string();
  const auto json = read_json(config_path, kMaxConfigBytes);
  if (!json) return tl::make_unexpected(json.error());
  auto config = internal::read_huggingface_config(*json, config_path);
  if (!config) return tl::make_unexpected(config.error());
  auto opened = SafetensorsFolder::open(folder);
  if (!opened) return tl::make_unexpected(opened.error());
  const auto files = std::make_shared<const SafetensorsFolder>(std::move(*opened));

  ModelStream stream;
  stream.remarks = std::move(config->remarks);
  stream.source = files;
  auto tensors = internal::huggingface_tensors(files, *config->family, config->model, stream.remarks);
  if (!tensors) return tl::make_unexpected(tensors.error());
  stream.tensors = std::move(*tensors);
  stream.config = config->model;
  RopePairing pairing = RopePairing::halves;
  if (config->exact) {
    const auto kept = keep_exact(stream.tensors, *config->exact);
    if (!kept) return tl::make_unexpected(kept.error());
    if (*kept) {
      pairing = config->exact->rope_pairing;
      stream.config = std::move(*config->exact);
      if (stream.config.position == PositionKind::rope) stream.config.rope_pairing = RopePairing::halves;
    } else {
      stream.remarks.push_back(
          fmt::format("{}: the object quern is not used: biases that its model lacks are not zero", config_path));
    }
  }
  if (auto ok = check_stream(stream, folder); !ok) return tl::make_unexpected(ok.error());
  if (stream.config.position == PositionKind::rope) stream = with_rope_pairing(std::move(stream), pairing);

  const std::filesystem::path full = std::filesystem::absolute(base).lexically_normal();
  stream.facts.name = (full.has_filename() ? full.filename() : full.parent_path().filename()).string();
  stream.facts.source_format = "Hugging Face folder";
  stream.facts.architecture = config->family->architecture;
  if (auto read = read_templates(base, stream.facts); !read) return tl::make_unexpected(read.error());
  std::error_code error;
  if (std::filesystem::exists(base / "tokenizer.json", error)) {
    auto tokenizer = load_huggingface_tokenizer(folder);
    if (!tokenizer) return tl::make_unexpected(tokenizer.error());
    stream.tokenizer = std::move(*tokenizer);
  } else {
    const bool sentencepiece = std::filesystem::exists(base / "tokenizer.model", error);
    stream.remarks.push_back(fmt::format("{}: no tokenizer.json: the model has no vocabulary{}", folder,
                                         sentencepiece ? " (tokenizer.model alone is not read)" : ""));
  }
  return stream;
}

}  // namespace quern
