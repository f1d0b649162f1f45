#include "model/huggingface_writer.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

#include "model/atomic_file.hpp"
#include "model/huggingface_families.hpp"
#include "model/huggingface_target.hpp"
#include "model/safetensors.hpp"
#include "model/tokenizer_files.hpp"

namespace quern {

namespace {

using Json = nlohmann::ordered_json;

/// A folder beside the one that it becomes; removed with all it holds where it does not.
class FolderInMaking {
 public:
  static Result<FolderInMaking> create(const std::string& target) {
    FolderInMaking folder;
    std::filesystem::path path = std::filesystem::path(target).lexically_normal();
    if (!path.has_filename()) path = path.parent_path();  // "out/"
    folder.target_ = path.string();
    std::error_code error;
    const auto status = std::filesystem::status(path, error);
    const bool is_folder = std::filesystem::is_directory(status);
    if (std::filesystem::exists(status) && !is_folder) {
      return bad_input(fmt::format("{}: expected a folder to be made, found a file", target));
    }
    if (is_folder && !std::filesystem::is_empty(path, error)) {
      return bad_input(fmt::format("{}: the folder is not empty; nothing in it is written over", target));
    }
    std::string name = folder.target_ + ".XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) {
      const int reason = errno;
      return io_error(fmt::format("{}: cannot make a folder: {}", name, std::generic_category().message(reason)));
    }
    folder.temporary_ = name;
    std::filesystem::permissions(name, std::filesystem::perms{0755}, error);
    return folder;
  }

  FolderInMaking(FolderInMaking&& other) noexcept
      : target_(std::move(other.target_)), temporary_(std::exchange(other.temporary_, {})) {}
  FolderInMaking& operator=(FolderInMaking&&) = delete;
  FolderInMaking(const FolderInMaking&) = delete;
  FolderInMaking& operator=(const FolderInMaking&) = delete;
  ~FolderInMaking() {
    std::error_code ignored;
    if (!temporary_.empty()) std::filesystem::remove_all(temporary_, ignored);
  }

  [[nodiscard]] std::string file(const std::string& name) const { return temporary_ + "/" + name; }

  Result<void> commit() {
    std::error_code error;
    std::filesystem::rename(temporary_, target_, error);  // over an empty folder too
    if (error) return io_error(fmt::format("{}: cannot be put in place: {}", target_, error.message()));
    temporary_.clear();
    return {};
  }

 private:
  FolderInMaking() = default;
  std::string target_, temporary_;
};

/// The stream as a class wants it, and what its files will hold.
struct Prepared {
  std::shared_ptr<const ModelStream> stream;
  internal::HuggingFaceChoice choice;
  internal::HuggingFaceTarget target;
  HuggingFaceTokenizerFiles tokenizer;  ///< empty texts where the model has no vocabulary
};

Result<Prepared> prepare(const ModelStream& stream, const StreamWriteOptions& options) {
  const auto choice = internal::choose_huggingface_family(stream.config);
  if (!choice) return tl::make_unexpected(choice.error());
  Prepared prepared;
  prepared.choice = *choice;
  ModelStream halves = stream;
  if (stream.config.position == PositionKind::rope) halves = with_rope_pairing(std::move(halves), RopePairing::halves);
  prepared.stream = std::make_shared<const ModelStream>(std::move(halves));
  auto target = internal::huggingface_target(*prepared.stream, *choice->family, options.type);
  if (!target) return tl::make_unexpected(target.error());
  prepared.target = std::move(*target);
  if (stream.tokenizer) {
    auto files = huggingface_tokenizer_files(*stream.tokenizer, stream.facts.chat_template);
    if (!files) return tl::make_unexpected(files.error());
    prepared.tokenizer = std::move(*files);
  } else {
    prepared.target.remarks.emplace_back("the model has no vocabulary: tokenizer.json is not written");
  }
  if (!stream.facts.named_chat_templates.empty()) {
    prepared.target.remarks.emplace_back("named chat templates are left out: only the default one is written");
  }
  return prepared;
}

std::string config_text(const ModelStream& original, const Prepared& prepared) {
  const internal::HuggingFaceFamily& family = *prepared.choice.family;
  Json json = internal::huggingface_config_json(family, original.config);
  // Where the class's keys do not give the same config again, it is said in full.
  const auto again = internal::read_huggingface_config(json, "config.json");
  if (!again || to_json(again->model) != to_json(original.config)) {
    json["quern"] = {{"model", Json::parse(to_json(original.config))}};
  }
  json["torch_dtype"] = prepared.target.matrix_dtype;
  json["use_cache"] = true;
  if (prepared.target.mxfp4) {
    json["quantization_config"] = {
        {"quant_method", "mxfp4"},
        {"modules_to_not_convert",
         {"model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"}}};
  }
  if (original.tokenizer) {
    const SpecialTokens& special = original.tokenizer->special_tokens();
    const auto id = [](const std::optional<std::int32_t>& token) { return token ? Json(*token) : Json(nullptr); };
    json["bos_token_id"] = id(special.bos);
    json["eos_token_id"] = id(special.eos ? special.eos : original.tokenizer->end_of_text());
    json["pad_token_id"] = id(special.padding);
  } else {
    for (const char* const key : {"bos_token_id", "eos_token_id", "pad_token_id"}) json[key] = nullptr;
  }
  return json.dump(2) + "\n";
}

/// Which shard each tensor goes into.
std::vector<std::size_t> assign_shards(const std::vector<internal::HuggingFaceTensor>& tensors, std::size_t shard_bytes) {
  std::vector<std::size_t> shard_of;
  std::size_t shard = 0, filled = 0;
  for (const internal::HuggingFaceTensor& tensor : tensors) {
    if (filled > 0 && tensor.bytes > shard_bytes - std::min(filled, shard_bytes)) {
      ++shard;
      filled = 0;
    }
    filled += tensor.bytes;
    shard_of.push_back(shard);
  }
  return shard_of;
}

Result<void> write_weights(const FolderInMaking& folder, const Prepared& prepared, const StreamWriteOptions& options,
                           std::size_t shard_bytes) {
  const std::vector<internal::HuggingFaceTensor>& tensors = prepared.target.tensors;
  const std::vector<std::size_t> shard_of = assign_shards(tensors, shard_bytes);
  const std::size_t shards = shard_of.empty() ? 1 : shard_of.back() + 1;
  std::size_t all = 0, done = 0;
  for (const internal::HuggingFaceTensor& tensor : tensors) all += tensor.bytes;
  nlohmann::json map = nlohmann::json::object();  // sorted: the other kind would search it for each name
  for (std::size_t shard = 0, at = 0; shard < shards; ++shard) {
    const std::string name =
        shards == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, shards);
    std::vector<SafetensorsDeclaration> declared;
    const std::size_t first = at;
    for (; at < tensors.size() && shard_of[at] == shard; ++at) {
      declared.push_back({tensors[at].name, tensors[at].dtype, tensors[at].shape});
    }
    auto writer = SafetensorsWriter::create(folder.file(name), declared);
    if (!writer) return tl::make_unexpected(writer.error());
    const internal::ByteSink sink = [&](std::span<const std::byte> bytes) -> Result<void> {
      if (auto written = writer->write(bytes); !written) return written;
      done += bytes.size();
      return options.progress ? options.progress(done, all) : Result<void>();
    };
    for (std::size_t i = first; i < at; ++i) {
      if (shards > 1) map[tensors[i].name] = name;
      if (auto written = tensors[i].write(sink); !written) return written;
    }
    if (auto finished = writer->finish(); !finished) return finished;
  }
  if (shards == 1) return {};
  const nlohmann::json index{{"metadata", {{"total_size", all}}}, {"weight_map", std::move(map)}};
  return write_file_atomically(folder.file("model.safetensors.index.json"), index.dump(2) + "\n");
}

}  // namespace

Result<StreamPlan> plan_huggingface(const ModelStream& stream, const StreamWriteOptions& options) {
  auto prepared = prepare(stream, options);
  if (!prepared) return tl::make_unexpected(prepared.error());
  StreamPlan plan;
  plan.architecture = prepared->choice.family->class_name;
  for (const internal::HuggingFaceTensor& tensor : prepared->target.tensors) {
    plan.tensors.push_back({tensor.name, tensor.shape, tensor.dtype, tensor.bytes});
  }
  plan.remarks = std::move(prepared->target.remarks);
  return plan;
}

Result<void> internal::write_huggingface_shards(const ModelStream& stream, const std::string& folder,
                                                const StreamWriteOptions& options, std::size_t shard_bytes) {
  const auto prepared = prepare(stream, options);
  if (!prepared) return tl::make_unexpected(prepared.error());
  const HuggingFaceTokenizerFiles& tokenizer = prepared->tokenizer;
  auto making = FolderInMaking::create(folder);
  if (!making) return tl::make_unexpected(making.error());
  if (auto written = write_weights(*making, *prepared, options, shard_bytes); !written) return written;
  const auto write = [&](const char* name, const std::string& text) -> Result<void> {
    return text.empty() ? Result<void>() : write_file_atomically(making->file(name), text);
  };
  if (auto written = write("config.json", config_text(stream, *prepared)); !written) return written;
  if (auto written = write("tokenizer.json", tokenizer.tokenizer_json); !written) return written;
  if (auto written = write("tokenizer_config.json", tokenizer.tokenizer_config_json); !written) return written;
  if (auto written = write("generation_config.json", tokenizer.generation_config_json); !written) return written;
  return making->commit();
}

Result<void> write_huggingface(const ModelStream& stream, const std::string& folder, const StreamWriteOptions& options) {
  return internal::write_huggingface_shards(stream, folder, options, internal::kShardBytes);
}

}  // namespace quern
