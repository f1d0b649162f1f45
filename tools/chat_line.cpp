#include "chat_line.hpp"

#include <histedit.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <cwchar>
#include <filesystem>
#include <iostream>
#include <string_view>

#include "run_model.hpp"

namespace quern::tools {

namespace {

constexpr int kHistoryEntries = 1000;

/// The history's file, whose folder is made; empty where there is no place for it.
std::string history_file() {
  namespace fs = std::filesystem;
  const char* state = std::getenv("XDG_STATE_HOME");
  const char* home = std::getenv("HOME");
  fs::path folder;
  if (state != nullptr && state[0] == '/') {
    folder = fs::path(state) / "quern";
  } else if (home != nullptr && home[0] == '/') {
    folder = fs::path(home) / ".local" / "state" / "quern";
  } else {
    return "";
  }
  std::error_code code;
  fs::create_directories(folder, code);
  return code ? "" : (folder / "chat_history").string();
}

/// Reads one character, which may be several bytes, and gives up when a signal comes: libedit's own reader goes on.
int read_character(EditLine* /*editor*/, wchar_t* out) {
  std::mbstate_t state{};
  while (true) {
    // A signal that comes just before a wait does not end it: so none is long.
    pollfd input{STDIN_FILENO, POLLIN, 0};
    while (!interrupted() && ::poll(&input, 1, 100) <= 0) {
    }
    if (interrupted()) return -1;
    char byte = 0;
    const ssize_t got = ::read(STDIN_FILENO, &byte, 1);
    if (got < 0 && errno == EINTR) continue;  // a window that changed its size
    if (got <= 0) return static_cast<int>(got);
    const std::size_t length = std::mbrtowc(out, &byte, 1, &state);
    if (length == static_cast<std::size_t>(-2)) continue;  // more bytes to come
    if (length == static_cast<std::size_t>(-1)) {          // no UTF-8: as it is
      *out = static_cast<unsigned char>(byte);
    }
    return 1;
  }
}

}  // namespace

struct LineReader::Editor {
  EditLine* edit = nullptr;
  History* history = nullptr;
  std::string file;
  const char* prompt = "> ";

  static char* prompt_of(EditLine* edit) {
    void* self = nullptr;
    el_get(edit, EL_CLIENTDATA, &self);
    return const_cast<char*>(static_cast<Editor*>(self)->prompt);
  }
};

LineReader::LineReader() {
  if (isatty(STDIN_FILENO) == 0 || isatty(STDOUT_FILENO) == 0) return;
  // Characters of several bytes need the user's locale, or any with UTF-8.
  if (std::setlocale(LC_CTYPE, "") == nullptr || MB_CUR_MAX == 1) std::setlocale(LC_CTYPE, "C.UTF-8");
  auto editor = std::make_unique<Editor>();
  editor->edit = el_init("quern", stdin, stdout, stderr);
  if (editor->edit == nullptr) return;
  el_set(editor->edit, EL_CLIENTDATA, editor.get());
  el_set(editor->edit, EL_PROMPT, &Editor::prompt_of);
  el_set(editor->edit, EL_EDITOR, "emacs");
  el_set(editor->edit, EL_SIGNAL, 0);
  el_set(editor->edit, EL_GETCFN, &read_character);
  editor->history = history_init();
  if (editor->history != nullptr) {
    HistEvent event{};
    history(editor->history, &event, H_SETSIZE, kHistoryEntries);
    history(editor->history, &event, H_SETUNIQUE, 1);
    editor->file = history_file();
    if (!editor->file.empty()) history(editor->history, &event, H_LOAD, editor->file.c_str());
    el_set(editor->edit, EL_HIST, history, editor->history);
  }
  el_source(editor->edit, nullptr);  // the user's ~/.editrc
  editor_ = std::move(editor);
}

LineReader::~LineReader() {
  if (!editor_) return;
  if (editor_->history != nullptr) {
    HistEvent event{};
    if (!editor_->file.empty()) {
      history(editor_->history, &event, H_SAVE, editor_->file.c_str());
      chmod(editor_->file.c_str(), S_IRUSR | S_IWUSR);  // what people tell a model is their own
    }
    history_end(editor_->history);
  }
  el_end(editor_->edit);
}

LineEnd LineReader::read(const char* prompt, std::string& line) {
  line.clear();
  if (!editor_)
    return std::getline(std::cin, line) ? LineEnd::line : interrupted() ? LineEnd::interrupted : LineEnd::end_of_file;
  editor_->prompt = prompt;
  // Before the prompt, not after it as el_gets() alone does: a Ctrl-D in between would be read as a NUL.
  el_set(editor_->edit, EL_PREP_TERM, 1);
  int length = 0;
  const char* text = el_gets(editor_->edit, &length);
  if (interrupted()) {
    // The line that was begun is dropped.
    el_reset(editor_->edit);
    std::fputs("^C\n", stdout);
    return LineEnd::interrupted;
  }
  if (text == nullptr || length <= 0) return LineEnd::end_of_file;
  line.assign(text, static_cast<std::size_t>(length));
  while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
  return LineEnd::line;
}

void LineReader::remember(const std::string& text) {
  if (!editor_ || editor_->history == nullptr || text.empty()) return;
  HistEvent event{};
  history(editor_->history, &event, H_ENTER, text.c_str());
}

LineEnd read_turn(LineReader& reader, std::string& text) {
  constexpr std::string_view kQuotes = R"(""")";
  std::string line;
  text.clear();
  if (const LineEnd end = reader.read("> ", line); end != LineEnd::line) return end;
  if (line.starts_with(kQuotes)) {
    line.erase(0, kQuotes.size());
    while (!line.ends_with(kQuotes)) {
      text += line;
      if (!line.empty() || !text.empty()) text += '\n';
      if (const LineEnd end = reader.read("\" ", line); end != LineEnd::line) return end;
    }
    text.append(line, 0, line.size() - kQuotes.size());
    while (text.ends_with('\n')) text.pop_back();
  } else {
    while (line.ends_with('\\')) {
      line.back() = '\n';
      text += line;
      if (const LineEnd end = reader.read(". ", line); end != LineEnd::line) return end;
    }
    text += line;
  }
  reader.remember(text);
  return LineEnd::line;
}

}  // namespace quern::tools
