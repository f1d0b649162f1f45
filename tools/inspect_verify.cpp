// quern inspect --verify: a GGUF file's tensors against the checksums in its metadata.
#include <fmt/format.h>

#include "command.hpp"
#include "inspect_file.hpp"
#include "model/gguf_values.hpp"
#include "model/tensor_checksums.hpp"
#include "progress.hpp"
#include "run_model.hpp"
#include "run_statistics.hpp"

namespace quern::tools {
namespace {

using Json = nlohmann::ordered_json;
using Verdict = TensorCheck::Verdict;

std::string_view to_word(Verdict verdict) {
  switch (verdict) {
    case Verdict::intact:
      return "intact";
    case Verdict::changed:
      return "changed";
    case Verdict::described:
      return "other type or shape";
    case Verdict::renamed:
      return "renamed";
    case Verdict::not_listed:
      return "no checksum";
    case Verdict::missing:
      return "missing";
  }
  return "";
}

}  // namespace

Result<int> verify_gguf(const InspectOptions& options) {
  const auto file = GgufFile::open(options.file);
  if (!file) return tl::make_unexpected(file.error());
  catch_interrupts(true);
  ThreadTeam team(default_thread_count());
  Progress progress(stderr);
  const auto report = verify_checksums(*file, team, [&](std::size_t done, std::size_t all) -> Result<void> {
    progress.update("verifying", static_cast<std::int64_t>(done), static_cast<std::int64_t>(all), "B");
    return interrupted() ? Result<void>(io_error("interrupted")) : Result<void>();
  });
  progress.finish();
  if (!report && interrupted()) return report_interrupt(report.error());
  if (!report) return tl::make_unexpected(report.error());

  const std::size_t intact = report->count(Verdict::intact);
  const std::size_t wrong = report->tensors.size() - intact;
  if (options.json) {
    Json tensors = Json::array();
    for (const TensorCheck& check : report->tensors) {
      Json entry = {{"name", check.name}, {"verdict", to_word(check.verdict)}, {"bytes", check.bytes}};
      if (!check.note.empty()) entry["note"] = check.note;
      tensors.push_back(std::move(entry));
    }
    print_json({{"file", file->name()}, {"intact", wrong == 0}, {"wrong", wrong}, {"tensors", std::move(tensors)}});
  } else {
    for (const TensorCheck& check : report->tensors) {
      if (check.verdict == Verdict::intact && !options.all_tensors) continue;
      fmt::print("  {:<40} {}{}{}\n", internal::shown(check.name), to_word(check.verdict), check.note.empty() ? "" : ": ",
                 internal::shown(check.note, 200));
    }
    if (wrong == 0) {
      fmt::print("{}: {} tensors, {}: all are as their checksums say\n", file->name(), intact,
                 bytes_text(file->file_bytes()));
    } else {
      fmt::print("{}: {} of {} tensors are not as their checksums say\n", file->name(), wrong, report->tensors.size());
    }
  }
  return wrong == 0 ? kExitOk : kExitFailure;
}

}  // namespace quern::tools
