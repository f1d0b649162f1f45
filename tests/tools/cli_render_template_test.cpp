// quern render-template: what it prints, from files and standard input, and what bad input gets.
#include <gtest/gtest.h>

#include <algorithm>

#include <fstream>
#include <string>

#include "tools/run_quern.hpp"

namespace quern {
namespace {

class RenderTemplate : public testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& text) {
    std::ofstream(folder_.file(name), std::ios::binary) << text;
    return folder_.file(name);
  }
  void expect_bad_input(const std::string& arguments, const std::string& part) {
    const ProgramResult result = run_quern("render-template " + arguments);
    EXPECT_EQ(result.code, 2) << arguments;
    EXPECT_EQ(result.out, "") << arguments;
    EXPECT_NE(result.err.find(part), std::string::npos) << arguments << ": " << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }
  TestFolder folder_{"render_template"};
};

TEST_F(RenderTemplate, PrintsExactlyTheText) {
  const std::string text = write(
      "t.jinja", "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{{ strftime_now('%H:%M:%S %d') }}");
  const std::string context = write("c.json", R"({"messages": [{"role": "user", "content": "naïve"}]})");
  const ProgramResult result = run_quern("render-template " + text + " --context " + context + " --now 2026-01-15T10:30:05");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out, "<user>naïve\n10:30:05 15");
  const ProgramResult piped = run_quern("render-template " + text + " --context - --now '2026-02-28 23:59' < " + context);
  EXPECT_EQ(piped.out, "<user>naïve\n23:59:00 28");
  EXPECT_EQ(run_quern("render-template " + text + " --context " + context).code, 0);  // this machine's time
}

TEST_F(RenderTemplate, ChoosesANamedTemplate) {
  const std::string config =
      write("tokenizer_config.json",
            R"({"chat_template": [{"name": "default", "template": "D"}, {"name": "rag", "template": "{{ x }}"}]})");
  const std::string context = write("c.json", R"({"x": 5})");
  EXPECT_EQ(run_quern("render-template " + config + " --context " + context).out, "D");
  EXPECT_EQ(run_quern("render-template " + config + " --name rag --context " + context).out, "5");
  expect_bad_input(config + " --name nope --context " + context, "no chat template named `nope`; there are default, rag");
}

TEST_F(RenderTemplate, BadInputGetsOneSentence) {
  const std::string good = write("t.jinja", "x"), context = write("c.json", "{}");
  expect_bad_input(folder_.file("absent.jinja") + " --context " + context, "absent.jinja: no such file or folder");
  expect_bad_input(good + " --context " + folder_.file("absent.json"), "absent.json: cannot be opened");
  expect_bad_input(good, "--context is required");
  expect_bad_input(good + " --context " + write("bad.json", "{"), "not valid JSON");
  expect_bad_input(good + " --context " + context + " --now yesterday",
                   "--now: expected a time such as 2026-01-15T10:30:00");
  expect_bad_input(good + " --context " + context + " --now 2026-02-30", "found `2026-02-30`");
  expect_bad_input(write("if.jinja", "\n{% if %}") + " --context " + context, "if.jinja: chat template, line 2");
  expect_bad_input(write("stop.jinja", "{{ raise_exception('No system role') }}") + " --context " + context,
                   "No system role");
  expect_bad_input(write("m.gguf", "GGUF\x03") + " --context " + context, "m.gguf");
}

}  // namespace
}  // namespace quern
