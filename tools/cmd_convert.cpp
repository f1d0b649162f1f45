// quern convert: a model from one file format to another.
#include <fmt/format.h>

#include <cctype>
#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "command.hpp"
#include "inspect_file.hpp"
#include "math/block_formats.hpp"
#include "model/file_kind.hpp"
#include "model/gguf_values.hpp"
#include "model/model_stream.hpp"
#include "output_path.hpp"
#include "progress.hpp"
#include "run_model.hpp"
#include "run_statistics.hpp"

namespace quern::tools {
namespace {

using Json = nlohmann::ordered_json;

enum class Format : std::uint8_t { gguf, checkpoint, huggingface, llama2c };

std::string_view to_word(Format format) {
  switch (format) {
    case Format::gguf:
      return "GGUF";
    case Format::checkpoint:
      return "checkpoint";
    case Format::huggingface:
      return "Hugging Face folder";
    case Format::llama2c:
      return "llama2.c";
  }
  return "";
}

struct Arguments {
  std::string in, out;
  std::string type, to, tokenizer;
  bool checksums = false;
  bool dry_run = false;
  bool force = false;
  bool all = false;
  bool json = false;
};

Result<Format> format_of_source(const std::string& path) {
  const auto start = read_file_start(path);
  if (!start) return tl::make_unexpected(start.error());
  std::error_code code;
  switch (start->kind) {
    case FileKind::gguf:
      return Format::gguf;
    case FileKind::checkpoint:
      return Format::checkpoint;
    case FileKind::folder:
      return std::filesystem::exists(std::filesystem::path(path) / "config.json", code) ? Format::huggingface
                                                                                        : Format::checkpoint;
    case FileKind::other:
      if (std::filesystem::path(path).extension() == ".bin") return Format::llama2c;
      break;
    case FileKind::corpus:
    case FileKind::json:
      break;
  }
  return bad_input(
      fmt::format("{}: expected a checkpoint, a run folder, a GGUF file, a Hugging Face folder or a llama2.c .bin "
                  "file, found a file that begins with '{}'",
                  path, internal::shown(start->bytes)));
}

/// By --to, else by the name: .gguf, .h5, and folders.
Result<Format> format_of_target(const Arguments& arguments) {
  if (arguments.to == "gguf") return Format::gguf;
  if (arguments.to == "checkpoint") return Format::checkpoint;
  if (arguments.to == "huggingface") return Format::huggingface;
  const std::filesystem::path path(arguments.out);
  if (path.extension() == ".gguf") return Format::gguf;
  if (path.extension() == ".h5") return Format::checkpoint;
  std::error_code code;
  if (!path.has_filename() || !path.has_extension() || std::filesystem::is_directory(path, code)) {
    return Format::huggingface;
  }
  return bad_input(
      fmt::format("{}: cannot tell what to write: expected a name ending in .gguf (GGUF), .h5 (checkpoint) or a "
                  "folder (Hugging Face), or --to",
                  arguments.out));
}

Result<ModelStream> open_source(Format format, const Arguments& arguments) {
  if (!arguments.tokenizer.empty() && format != Format::llama2c) {
    return bad_input("--tokenizer: only llama2.c files keep their vocabulary apart");
  }
  switch (format) {
    case Format::gguf:
      return stream_gguf(arguments.in);
    case Format::checkpoint:
      return stream_checkpoint(arguments.in);
    case Format::huggingface:
      return stream_huggingface(arguments.in);
    case Format::llama2c:
      break;
  }
  return stream_llama2c(arguments.in, arguments.tokenizer);
}

Result<StreamPlan> plan_target(Format format, const ModelStream& stream, const StreamWriteOptions& options) {
  if (format == Format::gguf) return plan_gguf(stream, options);
  if (format == Format::huggingface) return plan_huggingface(stream, options);
  return plan_checkpoint(stream);
}

Result<void> write_target(Format format, const ModelStream& stream, const std::string& out,
                          const StreamWriteOptions& options) {
  if (format == Format::gguf) return write_gguf(stream, out, options);
  if (format == Format::huggingface) return write_huggingface(stream, out, options);
  return write_checkpoint(stream, out, options);
}

/// Refuses to write over what is there, over the source above all.
Result<void> check_target(const Arguments& arguments, Format format) {
  if (format != Format::huggingface) {
    return check_output(arguments.out, {arguments.in, arguments.tokenizer}, arguments.force);
  }
  std::error_code code;
  if (arguments.out.empty()) return bad_input("the name of the folder to write is empty");
  if (!std::filesystem::exists(arguments.out, code)) return {};
  if (std::filesystem::equivalent(arguments.in, arguments.out, code)) {
    return bad_input(fmt::format("{}: is both what is read and what is to be written", arguments.out));
  }
  if (!std::filesystem::is_directory(arguments.out, code)) {
    return bad_input(
        fmt::format("{}: expected a folder to write, found a file; --to gguf writes a file of any name", arguments.out));
  }
  if (std::filesystem::is_empty(arguments.out, code)) return {};
  return bad_input(fmt::format("{}: is there already, and a folder is never written over: name another", arguments.out));
}

Json to_json(const Arguments& arguments, Format from, Format to, const ModelStream& stream, const StreamPlan& plan,
             double seconds) {
  Json json = {{"in", arguments.in},
               {"out", arguments.out},
               {"from", to_word(from)},
               {"to", to_word(to)},
               {"architecture", plan.architecture},
               {"written", !arguments.dry_run}};
  json["remarks"] = stream.remarks;
  for (const std::string& remark : plan.remarks) json["remarks"].push_back(remark);
  std::size_t bytes = 0;
  json["tensors"] = Json::array();
  for (const PlannedTensor& tensor : plan.tensors) {
    bytes += tensor.bytes;
    json["tensors"].push_back(
        {{"name", tensor.name}, {"type", tensor.type}, {"shape", tensor.shape}, {"bytes", tensor.bytes}});
  }
  json["tensor_bytes"] = bytes;
  if (!arguments.dry_run) json["seconds"] = seconds;
  return json;
}

void print_plan(const StreamPlan& plan, bool all) {
  std::vector<TensorLine> lines;
  for (const PlannedTensor& tensor : plan.tensors) {
    TensorLine line{tensor.name, tensor.type, tensor.shape, 1, tensor.bytes};
    for (const std::int64_t size : tensor.shape) line.elements *= size;
    lines.push_back(std::move(line));
  }
  print_tensors(lines, all);
}

Result<int> convert(const Arguments& arguments) {
  StreamWriteOptions options;
  if (!arguments.type.empty()) {
    const BlockFormat* format = find_block_format(std::string_view(arguments.type));
    if (format == nullptr) return bad_input(fmt::format("--type must be f32, f16, bf16 or q8_0, found {}", arguments.type));
    options.type = format->type;
  }
  const auto from = format_of_source(arguments.in);
  if (!from) return tl::make_unexpected(from.error());
  const auto to = format_of_target(arguments);
  if (!to) return tl::make_unexpected(to.error());
  if (arguments.checksums && *to != Format::gguf) return bad_input("--checksums: only GGUF files keep checksums");
  options.checksums = arguments.checksums;
  if (!arguments.dry_run) {
    if (auto free = check_target(arguments, *to); !free) return tl::make_unexpected(free.error());
  }

  const auto stream = open_source(*from, arguments);
  if (!stream) return tl::make_unexpected(stream.error());
  const auto plan = plan_target(*to, *stream, options);
  if (!plan) {
    return tl::make_unexpected(Error{plan.error().code, fmt::format("{}: {}", arguments.in, plan.error().message)});
  }
  if (!arguments.json) {
    const std::string kind = *to == Format::checkpoint ? "" : ", " + plan->architecture;
    fmt::print("{} ({}) -> {} ({}{})\n", arguments.in, to_word(*from), arguments.out, to_word(*to), kind);
    if (arguments.dry_run || arguments.all) print_plan(*plan, arguments.all);
    for (const std::string& remark : stream->remarks) fmt::print("note: {}\n", remark);
    for (const std::string& remark : plan->remarks) fmt::print("note: {}\n", remark);
    std::fflush(stdout);
  }

  const auto start = std::chrono::steady_clock::now();
  if (!arguments.dry_run) {
    catch_endings(false);
    Progress progress(stderr);
    options.progress = [&](std::size_t done, std::size_t all) -> Result<void> {
      progress.update("writing", static_cast<std::int64_t>(done), static_cast<std::int64_t>(all), "B");
      if (interrupted()) return io_error(fmt::format("{}: interrupted: nothing was written", arguments.out));
      return {};
    };
    auto wrote = write_target(*to, *stream, arguments.out, options);
    progress.finish();
    if (!wrote && interrupted()) return report_interrupt(wrote.error());
    if (!wrote) return tl::make_unexpected(wrote.error());
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (arguments.json) {
    print_json(to_json(arguments, *from, *to, *stream, *plan, seconds));
  } else if (!arguments.dry_run) {
    std::size_t bytes = 0;
    for (const PlannedTensor& tensor : plan->tensors) bytes += tensor.bytes;
    fmt::print("wrote {}: {} tensors, {} in {:.1f} s\n", arguments.out, plan->tensors.size(), bytes_text(bytes), seconds);
  }
  return kExitOk;
}

}  // namespace

void add_convert(CLI::App& app, Command& command) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* convert_command =
      app.add_subcommand("convert", "Convert a model: checkpoints, GGUF, Hugging Face folders, llama2.c");
  convert_command->footer(
      examples({"quern convert runs/quickstart model.gguf", "quern convert runs/quickstart model-q8_0.gguf --type q8_0",
                "quern convert Qwen3-0.6B/ qwen3.gguf --type bf16",
                "quern convert qwen3.gguf qwen3.h5        # weights to go on training from",
                "quern convert runs/quickstart hf-folder/ # config.json, model.safetensors, tokenizer.json",
                "quern convert stories15M.bin stories15M.gguf --tokenizer tokenizer.bin"}));
  convert_command
      ->add_option("IN", arguments->in, "Checkpoint, run folder, GGUF file, Hugging Face folder or llama2.c .bin file")
      ->required();
  convert_command
      ->add_option("OUT", arguments->out, "NAME.gguf: GGUF; NAME.h5: checkpoint; a folder: Hugging Face (see --to)")
      ->required();
  convert_command->add_option(
      "--type", arguments->type,
      "Type of matrices: f32, f16, bf16 or (GGUF) q8_0; default: as they are. `quern quantize` makes "
      "the others");
  convert_command->add_option("--to", arguments->to, "What to write, whatever OUT is called")
      ->check(CLI::IsMember({"gguf", "checkpoint", "huggingface"}));
  convert_command->add_option("--tokenizer", arguments->tokenizer,
                              "llama2.c's tokenizer.bin; default: tokN.bin (N tokens) or tokenizer.bin beside IN");
  convert_command->add_flag("--checksums", arguments->checksums,
                            "Keep a SHA-256 of each tensor in the GGUF, which `quern inspect --verify` checks");
  convert_command->add_flag("--dry-run", arguments->dry_run, "Say what would be written; write nothing");
  convert_command->add_flag("--all", arguments->all, "Show every tensor");
  convert_command->add_flag("--force", arguments->force, "Replace what is there");
  convert_command->add_flag("--json", arguments->json, "Print one JSON object");
  convert_command->callback([&command, arguments] { command.run = [arguments] { return convert(*arguments); }; });
}

}  // namespace quern::tools
