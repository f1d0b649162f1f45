// quern chat as scripts and people use it: turns, commands, files, templates; on a terminal editing, history and Ctrl-C.
#include <gtest/gtest.h>

#include <poll.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "tools/run_quern.hpp"
#include "tools/tiny_run.hpp"

namespace quern {
namespace {

class CliChat : public WithTinyRun {
 protected:
  /// `lines` as standard input. The model never says white space, which answers do not begin with.
  static ProgramResult chat(const std::string& lines, const std::string& options = "") {
    const std::string input = folder().write("input.txt", lines);
    return run_shell("cat " + input + " | env XDG_STATE_HOME=" + folder().file("state") + " " QUERN_BINARY " chat " +
                     model() + " --temperature 0 -n 8 " + options);
  }
  static nlohmann::json messages(const std::string& path) {
    return nlohmann::json::parse(read_text_file(path), nullptr, false)["messages"];
  }
};

TEST_F(CliChat, OneLineIsOneTurnAndTheConversationGoesOn) {
  const std::string saved = folder().file("saved.json");
  const ProgramResult result =
      chat("the cat 1\n\nthe cat 2\n/save " + saved + "\n/stats\n", "--system 'on the mat' --context 256");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.err, "no chat template")) << result.err;
  EXPECT_TRUE(contains(result.out, "reused ")) << "the second turn finds the first in the cache\n" << result.out;
  EXPECT_FALSE(contains(result.out, "> ")) << "no prompt where nobody sits";
  const auto json = messages(saved);
  ASSERT_EQ(json.size(), 5U) << json;
  const char* roles[] = {"system", "user", "assistant", "user", "assistant"};
  for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(json[i]["role"], roles[i]);
  EXPECT_EQ(json[0]["content"], "on the mat");
  EXPECT_EQ(json[3]["content"], "the cat 2");

  // What was computed before and what the cache kept give the same answer.
  const ProgramResult loaded =
      chat("/load " + saved + "\nthe cat 3\n/save " + folder().file("a.json") + "\n", "--context 256 --precision f32");
  ASSERT_EQ(loaded.code, 0) << loaded.err;
  const ProgramResult continued =
      chat("/load " + saved + "\nthe cat 3\n/load " + saved + "\nthe cat 3\n/save " + folder().file("b.json") + "\n",
           "--context 256 --precision f32");
  ASSERT_EQ(continued.code, 0) << continued.err;
  EXPECT_EQ(messages(folder().file("a.json")), messages(folder().file("b.json")));
}

TEST_F(CliChat, SpeculationSaysTheSame) {
  const std::string lines = "the cat 1 sat on the mat\nthe cat 2 sat\nthe cat 1\n/stats\n";
  const auto said = [&](const std::string& options) {
    const ProgramResult result = chat(lines, "--context 256 " + options);
    EXPECT_EQ(result.code, 0) << result.err;
    return result.out.substr(0, result.out.find("load "));
  };
  const std::string plain = said("--speculate none");
  EXPECT_EQ(said(""), plain);
  EXPECT_EQ(said("--draft " + model() + " --draft-tokens 4"), plain);
  EXPECT_EQ(chat("x\n", "--speculate draft").code, 2);
}

TEST_F(CliChat, CommandsChangeTheConversation) {
  const std::string saved = folder().file("commands.json");
  ASSERT_EQ(chat("hello\n/system be brief\n/reset\n/save " + saved + "\n").code, 0);
  EXPECT_EQ(messages(saved).size(), 1U);
  EXPECT_EQ(messages(saved)[0]["content"], "be brief");
  ASSERT_EQ(chat("/system be brief\n/system\n/save " + saved + "\n/exit\nnot reached\n").code, 0);
  EXPECT_EQ(messages(saved).size(), 0U);
  EXPECT_TRUE(contains(chat("/help\n").out, "/system TEXT"));
}

TEST_F(CliChat, LinesJoin) {
  const std::string saved = folder().file("lines.json");
  ASSERT_EQ(chat("one\\\ntwo\n/save " + saved + "\n/reset\n\"\"\"\nthree\n\nfour\n\"\"\"\n/save " + saved + "2\n").code, 0);
  EXPECT_EQ(messages(saved)[0]["content"], "one\ntwo");
  EXPECT_EQ(messages(saved + "2")[0]["content"], "three\n\nfour");
}

TEST_F(CliChat, TemplatesOfAFileHideReasoning) {
  // The generation begins inside the reasoning; the tiny model never closes it.
  const std::string thinking =
      folder().write("thinking.jinja",
                     "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: <think>{# </think> #}");
  const ProgramResult hidden = chat("the cat\n", "--template " + thinking);
  ASSERT_EQ(hidden.code, 0) << hidden.err;
  EXPECT_FALSE(contains(hidden.err, "no chat template")) << hidden.err;
  const ProgramResult shown = chat("the cat\n", "--show-reasoning --template " + thinking);
  EXPECT_TRUE(contains(hidden.out, "[reasoning of ")) << hidden.out;
  EXPECT_TRUE(contains(shown.out, "[reasoning]\n")) << shown.out;
}

TEST_F(CliChat, MistakesGetASentence) {
  const auto refused = [&](const std::string& lines, const std::string& options, const std::string& part) {
    const ProgramResult result = chat(lines, options);
    EXPECT_EQ(result.code, 2) << lines << options << result.out;
    EXPECT_TRUE(contains(result.err, part)) << result.err;
    EXPECT_TRUE(contains(result.err, "quern: ")) << result.err;
  };
  refused("/bogus\n", "", "/bogus: there is no such command");
  refused("/save\n", "", "/save: a file's name is missing");
  refused("/load " + folder().file("absent.json") + "\n", "", "absent.json");
  refused("/load " + folder().write("list.json", "[1]") + "\n", "", "list.json: expected a JSON object");
  refused("/load " + folder().write("half.json", R"({"messages": [{"role": "user"}]})") + "\n", "", "message 1");
  refused("x\n", "--template " + folder().write("bad.jinja", "{% if %}"), "bad.jinja: chat template, line 1: ");
  refused("x\n", "--template " + folder().write("no.jinja", "{{ raise_exception('not me') }}"),
          "no.jinja: chat template, line 1: not me");
  refused(std::string(100, 'x') + "\n", "", "leaves no room in a context of 64");
}

/// The program on a terminal of its own.
class Terminal {
 public:
  explicit Terminal(const std::string& command) {
    child_ = forkpty(&descriptor_, nullptr, nullptr, nullptr);
    if (child_ == 0) {
      execl("/bin/sh", "sh", "-c", ("exec " + command).c_str(), static_cast<char*>(nullptr));
      _exit(127);
    }
  }
  ~Terminal() {
    if (child_ > 0) {
      kill(child_, SIGKILL);
      waitpid(child_, nullptr, 0);
    }
    close(descriptor_);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  void type(const std::string& text) const { EXPECT_EQ(write(descriptor_, text.data(), text.size()), std::ssize(text)); }
  /// Waits until the program has printed `text` (after what an earlier call found).
  bool wait_for(const std::string& text) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (std::chrono::steady_clock::now() < deadline) {
      const std::size_t found = output_.find(text, seen_);
      if (found != std::string::npos) {
        seen_ = found + text.size();
        return true;
      }
      pollfd waiting{descriptor_, POLLIN, 0};
      if (poll(&waiting, 1, 100) <= 0) continue;
      char buffer[4096];
      const ssize_t got = read(descriptor_, buffer, sizeof(buffer));
      if (got <= 0) break;
      output_.append(buffer, static_cast<std::size_t>(got));
    }
    return false;
  }
  int wait_for_exit() {
    (void)wait_for("no such text will come");  // drains; ends when the terminal closes
    int status = 0;
    waitpid(child_, &status, 0);
    child_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  [[nodiscard]] const std::string& output() const { return output_; }

 private:
  int descriptor_ = -1;
  pid_t child_ = -1;
  std::string output_;
  std::size_t seen_ = 0;
};

TEST_F(CliChat, OnATerminalCtrlCEndsTheAnswerAndTwiceTheProgram) {
  const std::string state = folder().file("terminal_state");
  Terminal terminal("env TERM=xterm XDG_STATE_HOME=" + state + " " QUERN_BINARY " chat " + model() +
                    " --temperature 1 -n 100000 --context 100000");
  ASSERT_TRUE(terminal.wait_for("/help lists commands")) << terminal.output();
  ASSERT_TRUE(terminal.wait_for("> "));
  terminal.type("the cat\n");
  ASSERT_TRUE(terminal.wait_for("the cat")) << terminal.output();
  usleep(300'000);
  terminal.type("\x03");
  ASSERT_TRUE(terminal.wait_for("(interrupted)")) << terminal.output();
  ASSERT_TRUE(terminal.wait_for("> ")) << terminal.output();
  for (int i = 0; i < 10; ++i) {  // a Ctrl-C that comes with the prompt is not lost
    terminal.type("/bogus\n");
    ASSERT_TRUE(terminal.wait_for("there is no such command")) << "a mistake does not end a conversation\n"
                                                               << terminal.output();
    ASSERT_TRUE(terminal.wait_for("> "));
    terminal.type("\x03");
    ASSERT_TRUE(terminal.wait_for("Ctrl-C again leaves")) << terminal.output();
    ASSERT_TRUE(terminal.wait_for("> "));
  }
  terminal.type("\x03");
  EXPECT_EQ(terminal.wait_for_exit(), 130) << terminal.output();
  EXPECT_TRUE(contains(read_text_file(state + "/quern/chat_history"), "bogus"));
}

TEST_F(CliChat, HistoryComesBackAndCtrlDLeaves) {
  const std::string command =
      "env TERM=xterm XDG_STATE_HOME=" + folder().file("history_state") + " " QUERN_BINARY " chat " + model() + " -n 2";
  {
    Terminal terminal(command);
    ASSERT_TRUE(terminal.wait_for("> ")) << terminal.output();
    terminal.type("/unknown-to-all\n");
    ASSERT_TRUE(terminal.wait_for("no such command"));
    ASSERT_TRUE(terminal.wait_for("> "));
    terminal.type("\x04");
    EXPECT_EQ(terminal.wait_for_exit(), 0) << terminal.output();
  }
  Terminal terminal(command);
  ASSERT_TRUE(terminal.wait_for("> ")) << terminal.output();
  terminal.type("\x10\n");  // Ctrl-P: the line before
  EXPECT_TRUE(terminal.wait_for("/unknown-to-all: there is no such command")) << terminal.output();
}

}  // namespace
}  // namespace quern
