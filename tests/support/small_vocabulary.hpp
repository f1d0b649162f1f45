// A small published vocabulary for tests that need one and no model file.
#pragma once

#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

namespace quern {

/// tokenizer.json of a SentencePiece vocabulary: <unk>, <s> in front of every text, </s>, a token per byte, the lower-case
/// letters, and merges that spell " the" and " cat". A text gets a space in front.
inline std::string small_sentencepiece_json() {
  using Json = nlohmann::json;
  Json vocab = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}};
  int next = 3;
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", static_cast<unsigned>(byte));
    vocab[name] = next++;
  }
  vocab["▁"] = next++;
  for (char c = 'a'; c <= 'z'; ++c) vocab[std::string(1, c)] = next++;
  Json merges = Json::array();
  for (const auto& [left, right] : {std::pair{"t", "h"}, {"th", "e"}, {"▁", "the"}, {"c", "a"}, {"ca", "t"}, {"▁", "cat"}}) {
    merges.push_back({left, right});
    vocab[std::string(left) + right] = next++;
  }
  const auto special = [](int id, const char* text) {
    return Json{{"id", id}, {"content", text}, {"special", true}, {"normalized", false}};
  };
  const Json prepend = {{"type", "Prepend"}, {"prepend", "▁"}};
  const Json spell = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}};
  const Json unspell = {{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}};
  const Json strip = {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}};
  const Json bos = {{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}}, text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const Json json = {
      {"version", "1.0"},
      {"added_tokens", {special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")}},
      {"normalizer", {{"type", "Sequence"}, {"normalizers", {prepend, spell}}}},
      {"pre_tokenizer", nullptr},
      {"post_processor", {{"type", "TemplateProcessing"}, {"single", {bos, text}}}},
      {"decoder", {{"type", "Sequence"}, {"decoders", {unspell, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}, strip}}}},
      {"model",
       {{"type", "BPE"},
        {"unk_token", "<unk>"},
        {"fuse_unk", true},
        {"byte_fallback", true},
        {"vocab", vocab},
        {"merges", merges}}}};
  return json.dump();
}

}  // namespace quern
