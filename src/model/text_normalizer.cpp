#include "model/text_normalizer.hpp"

#include "model/unicode_nfc.hpp"

namespace quern {

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size() + text.size() / 2);
  std::size_t done = 0;
  for (std::size_t at = text.find(from); at != std::string_view::npos; at = text.find(from, done)) {
    out.append(text.substr(done, at - done)).append(to);
    done = at + from.size();
  }
  return out.append(text.substr(done));
}

namespace {

// How long replacing makes a text, before it is done: a hostile file may ask for more than there is memory.
std::size_t replaced_bytes(std::string_view text, std::string_view from, std::string_view to) {
  std::size_t count = 0;
  for (std::size_t at = text.find(from); at != std::string_view::npos; at = text.find(from, at + from.size())) ++count;
  return text.size() + count * to.size() - count * from.size();
}

}  // namespace

Result<std::string> normalize(std::string_view text, const std::vector<NormalizerStep>& steps, TextStand stand) {
  const std::size_t limit = 64 * text.size() + (std::size_t{1} << 20);
  std::string now(text);
  for (const NormalizerStep& step : steps) {
    std::size_t bytes = now.size();
    switch (step.kind) {
      case NormalizerStep::Kind::replace:
        if (step.from.empty()) break;
        if (step.to.size() > step.from.size()) bytes = replaced_bytes(now, step.from, step.to);
        if (bytes <= limit) now = replace_all(now, step.from, step.to);
        break;
      case NormalizerStep::Kind::prepend:
        if (now.empty() || stand == TextStand::continues) break;
        if (step.first_only && stand != TextStand::first) break;
        if (step.unless_present && now.starts_with(step.to)) break;
        bytes += step.to.size();
        if (bytes <= limit) now.insert(0, step.to);
        break;
      case NormalizerStep::Kind::nfc:
        now = to_nfc(now);
        break;
    }
    if (bytes > limit) return bad_input("the vocabulary's normalizer makes a text more than 64 times as long as it was");
  }
  return now;
}

}  // namespace quern
