// Builds safetensors images for tests, good ones and bad ones. Shares no code with the reader or the writer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quern {

struct ImageTensor {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::string data;
};

/// A tensor of f32 values.
[[nodiscard]] ImageTensor f32_image_tensor(std::string name, std::vector<std::int64_t> shape, std::span<const float> values);
/// Length, header and data as they are given.
[[nodiscard]] std::string safetensors_image(std::string_view header, std::string_view data);
/// A good file.
[[nodiscard]] std::string safetensors_image(const std::vector<ImageTensor>& tensors);

/// A folder of its own under the system's temporary one, removed with the object.
class ScratchFolder {
 public:
  ScratchFolder();
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  [[nodiscard]] std::string path(std::string_view file = {}) const;
  void write(std::string_view file, std::string_view bytes) const;

 private:
  std::filesystem::path folder_;
};

}  // namespace quern
