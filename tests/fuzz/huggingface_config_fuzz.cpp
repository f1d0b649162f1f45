// config.json of Hugging Face folders: any bytes. What is accepted is a valid model, and the class that expresses it gives
// a configuration that can be read again.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "model/huggingface_families.hpp"
#include "model/json_document.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto json = quern::internal::parse_json_document(text, "fuzz");
  if (!json) return 0;
  const auto config = quern::internal::read_huggingface_config(*json, "fuzz");
  if (!config) return 0;
  if (!quern::validate(config->model)) std::abort();
  const auto choice = quern::internal::choose_huggingface_family(config->model);
  if (!choice) return 0;
  const auto written = quern::internal::huggingface_config_json(*choice->family, config->model);
  if (!quern::internal::read_huggingface_config(written, "written")) std::abort();
  return 0;
}
