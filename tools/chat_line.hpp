// Lines from whoever sits at the terminal, with editing and a history that lasts; plain lines where nobody does.
#pragma once

#include <memory>
#include <optional>
#include <string>

namespace quern::tools {

/// What reading a line came to.
enum class LineEnd {
  line,         ///< there is a line
  end_of_file,  ///< standard input is over (Ctrl-D)
  interrupted   ///< Ctrl-C
};

/// Reads lines of standard input. On a terminal through libedit, with the history of earlier sessions from
/// $XDG_STATE_HOME/quern/chat_history (~/.local/state without it), which the destructor writes; else plainly, without a
/// prompt.
class LineReader {
 public:
  LineReader();
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  [[nodiscard]] bool is_interactive() const { return editor_ != nullptr; }
  /// One line without its end. Interrupts must be caught with catch_interrupts(false).
  [[nodiscard]] LineEnd read(const char* prompt, std::string& line);
  /// Adds what the user said, of one or more lines, to the history.
  void remember(const std::string& text);

 private:
  struct Editor;
  std::unique_ptr<Editor> editor_;
};

/// One turn: a line; lines that end in a backslash and the one after them; or the lines between two of three double quotes.
[[nodiscard]] LineEnd read_turn(LineReader& reader, std::string& text);

}  // namespace quern::tools
