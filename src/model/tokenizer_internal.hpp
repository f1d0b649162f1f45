// What a Tokenizer holds; only its own sources include this.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "model/bpe.hpp"
#include "model/pretokenizer.hpp"
#include "model/tokenizer.hpp"

namespace quern::internal {

struct TokenizerData {
  TokenizerKind kind = TokenizerKind::bytes;
  std::vector<std::string> tokens;  // bytes of each id; a special token's name
  std::int32_t end_of_text = -1;    // always the last id, -1: none

  // characters
  std::vector<std::int32_t> code_points;
  std::array<std::int32_t, 128> ascii_ids{};  // -1: not in the vocabulary

  // bpe
  std::vector<TokenPair> merge_pairs;
  BpeMerges merges;
  Pretokenizer pretokenizer;
};

}  // namespace quern::internal
