#include "train/prepare_source.hpp"

#include <fmt/format.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <system_error>

#include "model/pretokenizer.hpp"

namespace quern {
namespace {

constexpr std::size_t kPartBytes = std::size_t{4} << 20;
constexpr std::size_t kMaxLineBytes = std::size_t{1} << 30;  // of JSONL: a line is held in memory

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

Result<File> open_file(const std::string& path) {
  File file(std::fopen(path.c_str(), "rb"));
  if (!file) return io_error(fmt::format("{}: cannot open: {}", path, std::generic_category().message(errno)));
  return file;
}

// The King James text as `bible -f` prints it: a verse a line, "Ge1:1 In the beginning ...". The prefixes stay: they are
// part of what the program prints, so the text is the same bytes everywhere, and a sample can be asked for by verse.
Result<std::string> king_james_text() {
  constexpr std::size_t kExpectedBytes = 4'000'000;  // it prints 4.4 MB
  std::FILE* pipe = ::popen("bible -f 'gen1:1-rev22:21' 2>/dev/null", "r");
  if (pipe == nullptr) return io_error(fmt::format("kjv: cannot run a shell: {}", std::generic_category().message(errno)));
  std::string text;
  std::string piece(1 << 16, '\0');
  while (const std::size_t got = std::fread(piece.data(), 1, piece.size(), pipe)) text.append(piece, 0, got);
  const int status = ::pclose(pipe);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 127) {
    return bad_input(
        "kjv: the program `bible` is not installed: install Debian's package bible-kjv (apt install bible-kjv)");
  }
  if (status != 0 || text.size() < kExpectedBytes) {
    return bad_input(
        fmt::format("kjv: expected `bible -f gen1:1-rev22:21` (package bible-kjv) to print at least {} bytes, "
                    "found {} and exit status {}",
                    kExpectedBytes, text.size(), WIFEXITED(status) ? WEXITSTATUS(status) : status));
  }
  return text;
}

Result<std::vector<std::string>> files_of(const std::string& folder) {
  namespace fs = std::filesystem;
  std::vector<std::string> files;
  std::error_code error;
  fs::recursive_directory_iterator at(folder, error);
  for (; !error && at != fs::recursive_directory_iterator(); at.increment(error)) {
    const bool hidden = at->path().filename().string().starts_with('.');
    std::error_code type_error;
    if (hidden && at->is_directory(type_error)) at.disable_recursion_pending();
    if (!hidden && at->is_regular_file(type_error)) files.push_back(at->path().string());
  }
  if (error) return io_error(fmt::format("{}: cannot list the folder: {}", folder, error.message()));
  if (files.empty()) return bad_input(fmt::format("{}: expected text files in the folder, found none", folder));
  std::sort(files.begin(), files.end());
  return files;
}

// Cuts one document's text, which arrives in pieces, into parts.
class Parts {
 public:
  Parts(const TextSource::Sink& sink, std::string_view where) : sink_(sink), where_(where) {}

  // `end`: the document's last text. Sets `more` to false where the sink wants no more.
  Result<void> add(std::string_view text, bool end, bool& more) {
    held_.append(text);
    while (more && (held_.size() > kPartBytes || (end && !held_.empty()))) {
      const bool last = end && held_.size() <= kPartBytes;
      const std::size_t cut = last ? held_.size() : cut_between_pieces(held_, kPartBytes);
      const auto answer = sink_({std::string_view(held_).substr(0, cut), where_, offset_, offset_ == 0, last});
      if (!answer) return tl::make_unexpected(answer.error());
      more = *answer;
      offset_ += static_cast<std::int64_t>(cut);
      held_.erase(0, cut);
    }
    return {};
  }

 private:
  const TextSource::Sink& sink_;
  std::string_view where_;
  std::string held_;
  std::int64_t offset_ = 0;
};

Result<void> read_file(const std::string& path, const TextSource::Sink& sink, bool& more) {
  auto file = open_file(path);
  if (!file) return tl::make_unexpected(file.error());
  Parts parts(sink, path);
  std::string piece(1 << 20, '\0');
  while (more) {
    const std::size_t got = std::fread(piece.data(), 1, piece.size(), file->get());
    if (std::ferror(file->get()) != 0) {
      return io_error(fmt::format("{}: cannot read: {}", path, std::generic_category().message(errno)));
    }
    if (auto added = parts.add(std::string_view(piece).substr(0, got), got == 0, more); !added) return added;
    if (got == 0) break;
  }
  return {};
}

Result<void> read_json_lines(const std::string& path, const std::string& field, const TextSource::Sink& sink) {
  auto file = open_file(path);
  if (!file) return tl::make_unexpected(file.error());
  std::string held;
  std::string piece(1 << 20, '\0');
  std::int64_t number = 0;
  bool more = true;
  const auto take = [&](std::string_view line) -> Result<void> {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) return {};
    const std::string where = fmt::format("{}:{}", path, number);
    const nlohmann::json json = nlohmann::json::parse(line, nullptr, false);
    if (json.is_discarded()) {
      return bad_input(fmt::format("{}: expected a JSON object, found a syntax error or invalid UTF-8", where));
    }
    if (!json.is_object()) return bad_input(fmt::format("{}: expected a JSON object, found {}", where, json.type_name()));
    const auto found = json.find(field);
    if (found == json.end()) return bad_input(fmt::format("{}: key \"{}\" is missing", where, field));
    if (!found->is_string()) {
      return bad_input(fmt::format("{}: key \"{}\": expected a string, found {}", where, field, found->type_name()));
    }
    const auto& text = found->get_ref<const std::string&>();
    if (text.empty()) return {};
    const auto answer = sink({text, where, 0, true, true});
    if (!answer) return tl::make_unexpected(answer.error());
    more = *answer;
    return {};
  };
  while (more) {
    const std::size_t got = std::fread(piece.data(), 1, piece.size(), file->get());
    if (std::ferror(file->get()) != 0) {
      return io_error(fmt::format("{}: cannot read: {}", path, std::generic_category().message(errno)));
    }
    std::string_view rest = std::string_view(piece).substr(0, got);
    for (std::size_t end = rest.find('\n'); more && end != std::string_view::npos; end = rest.find('\n')) {
      held.append(rest.substr(0, end));
      if (auto taken = take(held); !taken) return taken;
      held.clear();
      rest.remove_prefix(end + 1);
    }
    held.append(rest);
    if (held.size() > kMaxLineBytes) {
      return bad_input(fmt::format("{}:{}: expected lines of at most {} bytes", path, number + 1, kMaxLineBytes));
    }
    if (got == 0) {
      if (more && !held.empty()) return take(held);
      break;
    }
  }
  return {};
}

}  // namespace

Result<TextSource> TextSource::open(const std::string& source, const std::string& field) {
  TextSource made;
  made.name_ = source;
  made.field_ = field;
  if (source == "kjv") {
    made.kind_ = Kind::memory;
    auto text = king_james_text();
    if (!text) return tl::make_unexpected(text.error());
    made.text_ = std::move(*text);
    return made;
  }
  std::error_code error;
  const auto status = std::filesystem::status(source, error);
  if (std::filesystem::is_directory(status)) {
    auto files = files_of(source);
    if (!files) return tl::make_unexpected(files.error());
    made.files_ = std::move(*files);
    return made;
  }
  if (!std::filesystem::exists(status)) {
    return io_error(fmt::format("{}: expected `kjv`, a text file, a folder or a JSONL file, found nothing there", source));
  }
  if (!std::filesystem::is_regular_file(status)) {
    return bad_input(
        fmt::format("{}: expected a regular file, which is read more than once; found a device or pipe", source));
  }
  if (source.ends_with(".jsonl") || source.ends_with(".ndjson")) made.kind_ = Kind::jsonl;
  made.files_ = {source};
  return made;
}

Result<void> TextSource::read(const Sink& sink) const {
  bool more = true;
  switch (kind_) {
    case Kind::memory:
      return Parts(sink, name_).add(text_, true, more);
    case Kind::jsonl:
      return read_json_lines(files_.front(), field_, sink);
    case Kind::files:
      for (const std::string& path : files_) {
        if (auto done = read_file(path, sink, more); !done || !more) return done;
      }
      return {};
  }
  return {};
}

}  // namespace quern
