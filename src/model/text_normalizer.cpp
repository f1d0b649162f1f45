#include "model/text_normalizer.hpp"

#include "model/unicode_nfc.hpp"

namespace quern {
namespace {

std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size() + text.size() / 2);
  std::size_t done = 0;
  for (std::size_t at = text.find(from); at != std::string_view::npos; at = text.find(from, done)) {
    out.append(text.substr(done, at - done)).append(to);
    done = at + from.size();
  }
  return out.append(text.substr(done));
}

}  // namespace

std::string normalize(std::string_view text, const std::vector<NormalizerStep>& steps, bool first) {
  std::string now(text);
  for (const NormalizerStep& step : steps) {
    switch (step.kind) {
      case NormalizerStep::Kind::replace:
        if (!step.from.empty()) now = replaced(now, step.from, step.to);
        break;
      case NormalizerStep::Kind::prepend:
        if (now.empty() || (step.first_only && !first)) break;
        if (!step.unless_present || !now.starts_with(step.to)) now.insert(0, step.to);
        break;
      case NormalizerStep::Kind::nfc:
        now = to_nfc(now);
        break;
    }
  }
  return now;
}

}  // namespace quern
