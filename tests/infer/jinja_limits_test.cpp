// Hostile templates: nesting, recursion and growth without end fail with a sentence, soon and in bounded memory.
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "infer/jinja_interpreter.hpp"
#include "infer/jinja_json.hpp"
#include "infer/jinja_syntax.hpp"

namespace quern::jinja {
namespace {

std::string times(const std::string& text, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += text;
  return out;
}

/// Small bounds, so that every one is met within milliseconds; the depth is the real one.
Limits small_limits() {
  Limits limits;
  limits.steps = 2'000'000;
  limits.memory_bytes = std::size_t{1} << 24;
  limits.output_bytes = std::size_t{1} << 20;
  return limits;
}

/// What rendering says: "ok: TEXT" or the failure.
std::string outcome(const std::string& text, const Limits& limits = small_limits()) {
  try {
    const Block body = parse_template(text);
    Heap heap(limits);
    const Value context = read_json(heap, R"({"x": "abc"})");
    return "ok: " + Interpreter(heap, limits, context, {}).render(body);
  } catch (const Failure& failure) {
    return failure.message;
  }
}

void expect_failure(const std::string& text, const std::string& part) {
  EXPECT_NE(outcome(text).find(part), std::string::npos) << text.substr(0, 120) << "\n" << outcome(text);
}

TEST(JinjaLimits, NestingInTheTextIsBounded) {
  for (const std::string& text :
       {"{{ " + times("(", 100000) + "1" + times(")", 100000) + " }}",
        "{{ " + times("[", 100000) + times("]", 100000) + " }}", "{{ " + times("{1:", 100000) + times("}", 100000) + " }}",
        "{{ " + times("not ", 100000) + "1 }}", "{{ " + times("- ", 100000) + "1 }}", "{{ " + times("1+", 100000) + "1 }}",
        "{{ " + times("1**", 100000) + "1 }}", "{{ " + times("0 or ", 100000) + "1 }}", "{{ x" + times(".a", 100000) + " }}",
        "{{ x" + times("[0]", 100000) + " }}", "{{ x" + times("()", 100000) + " }}",
        "{{ x" + times("|upper", 100000) + " }}", "{{ " + times("1 if 0 else ", 100000) + "1 }}",
        "{{ 1" + times(" if 0", 100000) + " }}", times("{% if 1 %}", 50000), times("{% for a in x %}", 50000),
        times("{% macro m() %}", 50000), "{% set " + times("(", 9999) + "a" + times(")", 9999) + " = 1 %}",
        "{% for " + times("(", 9999) + "a" + times(")", 9999) + " in x %}"}) {
    expect_failure(text, "nested too deeply");
  }
  // Chains that are flat in the tree may be long.
  EXPECT_EQ(outcome("{{ " + times("1~", 5000) + "1 }}"), "ok: " + times("1", 5001));
  EXPECT_EQ(outcome("{{ " + times("1==", 5000) + "1 }}"), "ok: True");
  EXPECT_EQ(outcome("{% if 0 %}" + times("{% elif 0 %}", 5000) + "{% else %}e{% endif %}"), "ok: e");
}

TEST(JinjaLimits, RecursionOfMacrosEnds) {
  expect_failure("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nested too deeply");
  expect_failure("{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
                 "nested too deeply");
  expect_failure("{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{% endmacro %}{{ m() }}", "nested too deeply");
  expect_failure("{% macro m() %}" + times("{% if 1 %}", 50) + "{{ " + times("[", 150) + "m()" + times("]", 150) + " }}" +
                     times("{% endif %}", 50) + "{% endmacro %}{{ m() }}",
                 "nested too deeply");
  EXPECT_EQ(outcome("{% macro m(n) %}{% if n %}{{ m(n - 1) }}{% endif %}x{% endmacro %}{{ m(50) }}"),
            "ok: " + times("x", 51));
}

TEST(JinjaLimits, DeepAndCyclicValuesEnd) {
  const std::string deep =
      "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}"
      "{% set ns.y = [ns.y] %}{% endfor %}";
  expect_failure(deep + "{{ ns.x }}", "nested too deeply");
  expect_failure(deep + "{{ ns.x|tojson }}", "nested too deeply");
  expect_failure(deep + "{{ ns.x == ns.y }}", "nested too deeply");
  expect_failure(deep + "{{ ns.x < ns.y }}", "nested too deeply");
  expect_failure("{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}", "nested too deeply");
  // Few values that print or compare as exponentially many.
  const std::string shared =
      "{% set ns = namespace(x=(1,), y=(1,)) %}{% for i in range(100) %}{% set ns.x = (ns.x, ns.x) %}"
      "{% set ns.y = (ns.y, ns.y) %}{% endfor %}";
  expect_failure(shared + "{{ ns.x }}", "than a rendering may");
  expect_failure(shared + "{{ ns.x|tojson }}", "than a rendering may");
  expect_failure(shared + "{{ ns.x == ns.y }}", "than a rendering may");
  expect_failure(shared + "{{ {ns.x: 1} }}", "than a rendering may");
}

TEST(JinjaLimits, GrowthIsBounded) {
  const std::string grow = "{% set ns = namespace(x='aaaaaaaa', l=[1]) %}{% for i in range(60) %}";
  for (const std::string& text : {
           grow + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
           grow + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
           grow + "{% set ns.l = ns.l + ns.l %}{% endfor %}",
           grow + "{% set ns.x = ns.x|replace('a', 'aa') %}{% endfor %}",
           std::string("{{ 'a' * 1000000000000 }}"),
           std::string("{{ ('a' * 100000) * 10000000000000 }}"),
           std::string("{{ [1] * 1000000000000 }}"),
           std::string("{{ 'a'.ljust(100000000000) }}"),
           std::string("{{ '1'.zfill(10000000000) }}"),
           std::string("{{ 'a'|center(10000000000) }}"),
           std::string("{{ 'a\nb'|indent(10000000000) }}"),
           std::string("{{ ('a' * 100000)|replace('', 'b' * 100000) }}"),
           std::string("{{ ('a' * 100000)|join('b' * 100000) }}"),
           std::string("{{ [1]|batch(100000000000, 0)|list }}"),
           std::string("{{ [1]|slice(100000000000)|list }}"),
           std::string("{{ '\t'.expandtabs(100000000000) }}"),
           std::string("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}"),
           std::string("{% set x = 'a' * 100000 %}{% for a in range(100000) %}{{ x }}{% endfor %}"),
           std::string("{% set x = 'a' * 100000 %}{% for a in range(99999) %}{% set y %}{{ x }}{% endset %}{% endfor %}"),
           std::string("{% set x = 'a' * 99999 %}{% set y = 'a' * 99999 %}{% for a in range(99999) %}{% set z = x == y %}{% "
                       "endfor %}"),
           std::string("{% set x = 'A' * 99999 %}{% for a in range(99999) %}{% set z = x|lower %}{% endfor %}"),
       }) {
    expect_failure(text, "than a rendering may");
  }
  for (const char* const text : {"{{ '%1000000000d' % 1 }}", "{{ '{:1000000000}'.format(1) }}",
                                 "{{ '{:.999999}'.format(1.5) }}", "{{ [1]|tojson(indent=100000000) }}",
                                 "{{ range(100001) }}", "{{ range(-9223372036854775807, 9223372036854775807) }}"}) {
    EXPECT_EQ(outcome(text).find("ok"), std::string::npos) << text;
  }
}

TEST(JinjaLimits, IntegersOverflowWithASentence) {
  for (const char* const text :
       {"{{ 9223372036854775807 + 1 }}", "{{ -9223372036854775807 - 2 }}", "{{ 9223372036854775807 * 2 }}", "{{ 9 ** 99 }}",
        "{{ (-9223372036854775807 - 1) // -1 }}", "{{ (-9223372036854775807 - 1)|abs }}",
        "{{ -(-9223372036854775807 - 1) }}", "{{ 9223372036854775807|round(-1) }}"}) {
    EXPECT_NE(outcome(text).find("64 bits"), std::string::npos) << text << outcome(text);
  }
  EXPECT_NE(outcome("{{ 9223372036854775808 }}").find("not a 64-bit integer"), std::string::npos);
  EXPECT_NE(outcome("{{ '9223372036854775808'|int }}").find("not a 64-bit integer"), std::string::npos);
  EXPECT_NE(outcome("{{ 1e300|int }}").find("too large"), std::string::npos);
  EXPECT_EQ(outcome("{{ (-9223372036854775807 - 1) % -1 }}"), "ok: 0");
  EXPECT_EQ(outcome("{{ 'abc'[::-9223372036854775807 - 1] }}{{ [1,2,3][::9223372036854775807] }}"), "ok: c[1]");
  EXPECT_EQ(outcome("{{ 'abc'[9223372036854775807:-9223372036854775807:-1] }}"), "ok: cba");
  EXPECT_EQ(outcome("{{ range(0, 10, 9223372036854775807)|list }}"), "ok: [0]");
}

TEST(JinjaLimits, ContextsAreBoundedToo) {
  const Limits limits = small_limits();
  const auto read = [&](const std::string& json) -> std::string {
    try {
      Heap heap(limits);
      (void)read_json(heap, json);
      return "ok";
    } catch (const Failure& failure) {
      return failure.message;
    }
  };
  EXPECT_EQ(read(times("[", 100) + times("]", 100)), "ok");
  EXPECT_EQ(read(times("[", 100000) + times("]", 100000)), "values are nested too deeply");
  EXPECT_EQ(read(times("{\"a\":", 100000)), "values are nested too deeply");
  EXPECT_NE(read("[1,"), "ok");
  EXPECT_NE(read("{\"a\" 1}").find("not valid JSON"), std::string::npos);
  EXPECT_NE(read("[18446744073709551615]").find("exceeds 64 bits"), std::string::npos);
  EXPECT_NE(read("[100000000000000000000000]").find("exceeds 64 bits"), std::string::npos);
  EXPECT_NE(read("[" + times("1,", 3000000) + "1]").find("than a rendering may"), std::string::npos);
  EXPECT_NE(read("\"\xff\"").find("not valid JSON"), std::string::npos);
}

}  // namespace
}  // namespace quern::jinja
