// Chat templates: published ones with recorded texts, our own twin of their shapes, requests, errors, and the files that
// templates come in.
#include "infer/chat_template.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "infer/chat_template_file.hpp"
#include "model/gguf_writer.hpp"
#include "support/shared_data.hpp"

namespace quern {
namespace {

using Json = nlohmann::ordered_json;

const std::chrono::local_seconds kNow =
    std::chrono::local_days(std::chrono::year(2026) / 1 / 15) + std::chrono::minutes(630);

Result<std::string> render(const std::string& text, const std::string& context) {
  const auto parsed = ChatTemplate::parse(text);
  if (!parsed) return tl::make_unexpected(parsed.error());
  return parsed->render(context, kNow);
}

std::string error_of(const std::string& text, const std::string& context = "{}") {
  const auto rendered = render(text, context);
  return rendered ? "rendered: " + *rendered : rendered.error().message;
}

TEST(ChatTemplate, PublishedTemplatesGiveTheRecordedTexts) {
  const auto folder = shared_data("testdata/templates");
  if (!folder) GTEST_SKIP() << "shared data absent: testdata/templates";
  int cases = 0;
  for (const auto& entry : std::filesystem::directory_iterator(*folder)) {
    if (entry.path().extension() != ".json") continue;
    std::ifstream file(entry.path());
    const Json data = Json::parse(file);
    ASSERT_EQ(data["now"], "2026-01-15T10:30:00");
    for (const Json& one : data["cases"]) {
      ++cases;
      const std::string where = entry.path().filename().string() + ": " + one["title"].get<std::string>();
      const auto rendered = render(data["template"].get<std::string>(), one["context"].dump());
      if (one.contains("expected")) {
        EXPECT_EQ(rendered ? *rendered : rendered.error().message, one["expected"].get<std::string>()) << where;
      } else {
        EXPECT_FALSE(rendered) << where;
        const std::string part = one["error"].is_string() ? one["error"].get<std::string>() : std::string();
        EXPECT_NE((rendered ? std::string() : rendered.error().message).find(part), std::string::npos) << where;
      }
    }
  }
  EXPECT_GE(cases, 90);
}

// A template of our own with what published ones do: alternation, a system message in the first turn, tools, dates.
constexpr const char* kTemplate = R"jinja({#- Our own. -#}
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set system = '' %}
    {%- set rest = messages %}
{%- endif %}
{%- macro show(value, level=0) -%}
    {%- if value is mapping -%}
        {%- for key, inner in value | dictsort -%}
            {{ '  ' * level ~ key ~ ': ' }}{{ show(inner, level + 1) }}{{ ';' if not loop.last }}
        {%- endfor -%}
    {%- elif value is string -%}{{ value }}
    {%- else -%}{{ value | tojson }}
    {%- endif -%}
{%- endmacro %}
{%- if tools is defined and tools %}
    {{- '[tools ' ~ strftime_now('%d %b %Y') ~ ']' }}
    {%- for tool in tools %}
        {{- show(tool.function.parameters) }}
    {%- endfor %}
{%- endif %}
{%- set ns = namespace(turns=0) %}
{%- for message in rest %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate') }}
    {%- endif %}
    {%- if message.role == 'user' %}
        {%- set ns.turns = ns.turns + 1 %}
        {{- '<user>' + (system + '\n\n' if loop.first and system else '') + message.content + '</user>' }}
    {%- else %}
        {%- generation %}
        {{- '<model>' + message.content.split('</think>')[-1].lstrip('\n') + eos_token }}
        {%- endgeneration %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{ '<model>' }}
{%- endif %}
)jinja";

TEST(ChatTemplate, RequestsBecomeText) {
  const auto parsed = ChatTemplate::parse(kTemplate);
  ASSERT_TRUE(parsed) << parsed.error().message;
  ChatRequest request;
  request.bos_token = "<s>";
  request.eos_token = "</s>";
  request.messages = {{.role = "system", .content = " Be kind. ", .reasoning = {}, .tool_calls_json = {}},
                      {.role = "user", .content = "Hi ❤️", .reasoning = {}, .tool_calls_json = {}}};
  auto text = parsed->render(request, kNow);
  ASSERT_TRUE(text) << text.error().message;
  EXPECT_EQ(*text, "<s><user>Be kind.\n\nHi ❤️</user><model>");

  request.messages.push_back(
      {.role = "assistant", .content = "<think>\nhm\n</think>\n\nHello", .reasoning = {}, .tool_calls_json = {}});
  request.add_generation_prompt = false;
  request.tools_json = R"([{"function": {"parameters": {"b": {"y": 1.5, "x": null}, "a": "t"}}}])";
  text = parsed->render(request, kNow);
  ASSERT_TRUE(text) << text.error().message;
  EXPECT_EQ(*text, "<s>[tools 15 Jan 2026]a: t;b:   x: null;  y: 1.5<user>Be kind.\n\nHi ❤️</user><model>Hello</s>");
}

TEST(ChatTemplate, RequestsCarryReasoningToolCallsAndVariables) {
  const auto parsed = ChatTemplate::parse(
      "{{ messages[0].reasoning_content }}{{ messages[0].thinking }}{{ messages[0].tool_calls[0].name }}"
      "{{ enable_thinking }}{{ messages[1].thinking is defined }}{{ tools is defined }}{{ add_generation_prompt }}");
  ASSERT_TRUE(parsed);
  ChatRequest request;
  request.messages = {{.role = "assistant", .content = "", .reasoning = "r", .tool_calls_json = R"([{"name": "f"}])"},
                      {.role = "user", .content = "bad \xff byte", .reasoning = {}, .tool_calls_json = {}}};
  request.variables_json = R"({"enable_thinking": false})";
  const auto text = parsed->render(request, kNow);
  ASSERT_TRUE(text) << text.error().message;
  EXPECT_EQ(*text, "rrfFalseFalseFalseTrue");
  request.tools_json = "{}";
  EXPECT_EQ(parsed->render(request, kNow).error().message, "tools: expected a JSON array");
  request.tools_json = "";
  request.variables_json = "[";
  EXPECT_EQ(parsed->render(request, kNow).error().message, "variables of the chat template: expected a JSON object");
}

TEST(ChatTemplate, ErrorsNameTheLine) {
  EXPECT_EQ(error_of("a\n{{ x.y.z }}"), "chat template, line 2: 'x' is undefined");
  EXPECT_EQ(error_of("a\nb\n{% if %}"), "chat template, line 3: expected an expression, found '%}'");
  EXPECT_EQ(error_of("{% for x in y %}\n\n"), "chat template, line 2: unexpected end of template, expected 'endfor'");
  EXPECT_EQ(error_of("\n{% include 'x' %}"), "chat template, line 2: the tag 'include' is not supported in chat templates");
  EXPECT_EQ(error_of("{% macro m() %}\n{{ 1 + none }}\n{% endmacro %}\n{{ m() }}"),
            "chat template, line 2: unsupported operand type(s) for +: 'int' and 'NoneType'");
  EXPECT_EQ(error_of("{{ 1 }}{{ 'a' * \n{} }}"),
            "chat template, line 1: unsupported operand type(s) for *: 'str' and 'dict'");
  EXPECT_EQ(error_of("{{ raise_exception('Only user and assistant roles are supported!') }}"),
            "chat template, line 1: Only user and assistant roles are supported!");
  EXPECT_EQ(error_of("\xff"), "chat template: the template is not valid UTF-8");
  EXPECT_EQ(error_of("x", "[1]"), "context of the chat template: expected a JSON object");
  EXPECT_EQ(error_of("x", "{"), "context of the chat template: not valid JSON (byte 2)");
  EXPECT_FALSE(ChatTemplate::parse(std::string(5'000'000, 'x')));
  EXPECT_EQ(render("", "{}").value(), "");
}

TEST(ChatTemplate, OneTemplateServesManyThreads) {
  const auto parsed = ChatTemplate::parse(kTemplate);
  ASSERT_TRUE(parsed);
  std::vector<std::string> texts(4);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    threads.emplace_back([&, i] {
      const std::string context =
          R"({"bos_token": "", "messages": [{"role": "user", "content": "n)" + std::to_string(i) + R"("}]})";
      for (int repeat = 0; repeat < 50; ++repeat) texts[i] = parsed->render(context, kNow).value_or("failed");
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (std::size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(texts[i], "<user>n" + std::to_string(i) + "</user>");
}

class TemplateFiles : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(testing::TempDir()) / ("template_files_" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return folder_ / name;
  }
  std::filesystem::path folder_;
};

TEST_F(TemplateFiles, TextAndJson) {
  EXPECT_EQ(read_chat_template(write("a.jinja", "{{ 1 }}\n")).value(), "{{ 1 }}\n");
  EXPECT_EQ(read_chat_template(write("empty.txt", "")).value(), "");
  const auto config = write("tokenizer_config.json", R"({"chat_template": "{{ 2 }}"})");
  EXPECT_EQ(read_chat_template(config).value(), "{{ 2 }}");
  EXPECT_EQ(read_chat_template(config, "default").value(), "{{ 2 }}");
  EXPECT_FALSE(read_chat_template(config, "rag"));
  EXPECT_EQ(read_chat_template(folder_).value(), "{{ 2 }}");
  write("chat_template.jinja", "{{ 3 }}");
  EXPECT_EQ(read_chat_template(folder_).value(), "{{ 3 }}");
  const auto list =
      write("list.json", R"({"chat_template": [{"name": "default", "template": "D"}, {"name": "rag", "template": "R"}]})");
  EXPECT_EQ(read_chat_template(list).value(), "D");
  EXPECT_EQ(read_chat_template(list, "rag").value(), "R");
  const auto missing = read_chat_template(list, "tool_use");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().message, list.string() + ": no chat template named `tool_use`; there are default, rag");
}

TEST_F(TemplateFiles, Gguf) {
  const std::string path = (folder_ / "model.bin").string();
  auto writer = GgufWriter::create(path);
  ASSERT_TRUE(writer) << writer.error().message;
  writer->add_string("general.architecture", "llama");
  writer->add_string("tokenizer.chat_template", "{{ 4 }}");
  writer->add_string("tokenizer.chat_template.tool_use", "{{ 5 }}");
  ASSERT_TRUE(writer->begin_data());
  ASSERT_TRUE(writer->finish());
  EXPECT_EQ(read_chat_template(path).value_or("none"), "{{ 4 }}");
  EXPECT_EQ(read_chat_template(path, "tool_use").value_or("none"), "{{ 5 }}");
  const auto missing = read_chat_template(path, "rag");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().message, path + ": no chat template (key tokenizer.chat_template.rag)");
}

TEST_F(TemplateFiles, BadFiles) {
  const auto message = [&](const std::filesystem::path& path) {
    const auto text = read_chat_template(path);
    return text ? "read" : text.error().message.substr(path.string().size());
  };
  EXPECT_EQ(message(folder_ / "absent.jinja"), ": no such file or folder");
  EXPECT_EQ(message(write("no.json", "{")), ": expected a JSON object");
  EXPECT_EQ(message(write("other.json", "{}")), ": no key `chat_template`");
  EXPECT_EQ(message(write("number.json", R"({"chat_template": 3})")), ": chat_template: expected a string or a list");
  EXPECT_EQ(message(write("list.json", R"({"chat_template": [3]})")),
            ": chat_template: expected objects with the strings `name` and `template`");
  EXPECT_NE(message(write("broken.gguf", "GGUF")), "read");
  EXPECT_FALSE(read_chat_template(write("a.jinja", "x"), "rag"));
  std::filesystem::create_directories(folder_ / "empty");
  EXPECT_FALSE(read_chat_template(folder_ / "empty"));
}

}  // namespace
}  // namespace quern
