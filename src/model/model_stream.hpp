// A model on its way between file formats: configuration, vocabulary, and tensors that are read piece by piece.
//
// Readers (GGUF, Hugging Face folders, llama2.c, checkpoints) make a ModelStream, writers (GGUF, Hugging Face folders,
// checkpoints) take one: each format is written down once. Tensors have the same names, shapes and meaning in every stream,
// whatever the file; they are GGUF's, with what some files fuse taken apart:
//
//   token_embd.weight [vocab, width]; position_embd.weight [context, width]; output_norm.weight, .bias [width];
//   output.weight [vocab, width] (untied); and for each layer, after "blk.N.":
//   attn_norm.weight, .bias                       [width]
//   attn_q.weight [query_width, width], attn_k.weight, attn_v.weight [kv_width, width]; .bias [rows]
//   attn_q_norm.weight, attn_k_norm.weight        [head_dim]
//   attn_output.weight [width, query_width]; .bias [width]
//   attn_sinks.weight                             [heads]
//   post_attention_norm.weight                    [width], post_norms: of the attention output
//   ffn_norm.weight, .bias                        [width], before the feed-forward part (of GPT-OSS too)
//   post_ffw_norm.weight                          [width], post_norms
//   ffn_gate.weight (gated), ffn_up.weight [mlp_width, width]; ffn_down.weight [width, mlp_width]; .bias [rows]
//   ffn_gate_inp.weight [experts, width]; .bias [experts]
//   ffn_gate_exps.weight, ffn_up_exps.weight [experts, mlp_width, width]; .bias [experts, mlp_width]
//   ffn_down_exps.weight [experts, width, mlp_width]; .bias [experts, width]
//
// Rows of q and k (and their biases, and the elements of QK norms) are in the order that config.rope_pairing names. Norm
// weights are what the normalized vector is multiplied by (Gemma's files hold one less). Frequency factors of RoPE are in
// the config, not among the tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "math/element_type.hpp"
#include "math/result.hpp"
#include "model/model_config.hpp"
#include "model/tokenizer.hpp"

namespace quern {

/// One tensor: what it is, and how to read rows of it. A row is the last, contiguous dimension; a vector is one row.
struct StreamTensor {
  std::string name;
  std::vector<std::int64_t> shape;      ///< outermost first, one to three dimensions
  ElementType type = ElementType::f32;  ///< of what read() gives: f32, f16, bf16 or a block-quantized type
  std::string origin;                   ///< where it comes from, for messages: "FILE: tensor NAME"
  /// Reads rows first .. first + count - 1 (of all outer dimensions flattened) as bytes of `type`. `out` has exactly their
  /// size. Called by one thread at a time, in any order. Errors: what the file's reader says.
  std::function<Result<void>(std::int64_t first, std::int64_t count, std::span<std::byte> out)> read;
  /// Tells the source that the tensor is not needed any more, so that mapped pages leave memory; may be empty.
  std::function<void()> release;

  [[nodiscard]] std::int64_t cols() const { return shape.back(); }
  [[nodiscard]] std::int64_t rows() const;  ///< product of all dimensions but the last
  [[nodiscard]] std::int64_t elements() const { return rows() * cols(); }
  [[nodiscard]] std::size_t row_bytes() const;  ///< bytes of one row in `type`
};

/// What a model's files say about it beside shape, vocabulary and weights. Empty strings: nothing.
struct ModelFacts {
  std::string name;           ///< general.name; a folder's name
  std::string chat_template;  ///< Jinja text
  std::vector<std::pair<std::string, std::string>> named_chat_templates;
  std::string source_format;       ///< "GGUF", "Hugging Face folder", "checkpoint", "llama2.c"
  std::string architecture;        ///< GGUF's word where the source says one (also from Hugging Face's model_type)
  std::int64_t trained_steps = 0;  ///< checkpoints
};

/// A model that can be read. Copies share the source, which lives as long as any of them.
struct ModelStream {
  ModelConfig config;
  ModelFacts facts;
  std::optional<Tokenizer> tokenizer;
  std::vector<StreamTensor> tensors;   ///< embeddings, layers in order, final norm, head
  std::vector<std::string> remarks;    ///< what was lost, rounded or left out in reading: one sentence each
  std::shared_ptr<const void> source;  ///< keeps mappings alive

  [[nodiscard]] const StreamTensor* find(std::string_view name) const;
};

/// Names and shapes that a model of this config has, in the order of ModelStream::tensors. What readers must give.
struct StreamTensorSpec {
  std::string name;
  std::vector<std::int64_t> shape;
};
[[nodiscard]] std::vector<StreamTensorSpec> stream_tensors(const ModelConfig& config);

/// Checks that the stream has exactly the tensors that its config asks for, in that order and of those shapes. The error
/// names the first that is missing, misshapen, unknown or there twice, beginning with `where`.
[[nodiscard]] Result<void> check_stream(const ModelStream& stream, std::string_view where);

/// Reads rows as f32, decoded where they are not; `out` [count, cols].
[[nodiscard]] Result<void> read_rows_f32(const StreamTensor& tensor, std::int64_t first, std::int64_t count,
                                         std::span<float> out);

/// The same model with its q and k rows in the other order where `pairing` is not the config's (RoPE only). Values are
/// moved, never changed.
[[nodiscard]] ModelStream with_rope_pairing(ModelStream stream, RopePairing pairing);

/// A tensor that is rows first_row .. first_row + rows - 1 of another (fused q, k and v; gate and up).
[[nodiscard]] StreamTensor slice_rows(const StreamTensor& tensor, std::string name, std::int64_t first_row,
                                      std::vector<std::int64_t> shape);

// Readers.
/// Any GGUF model that can be run. Quantized tensors keep their type.
[[nodiscard]] Result<ModelStream> stream_gguf(const std::string& path);
/// A checkpoint or run folder (its best checkpoint).
[[nodiscard]] Result<ModelStream> stream_checkpoint(const std::string& run_or_file);
/// A Hugging Face folder: config.json, model.safetensors or its shards, tokenizer.json. (huggingface_reader.cpp)
[[nodiscard]] Result<ModelStream> stream_huggingface(const std::string& folder);
/// A llama2.c checkpoint (export version 0, as github.com/karpathy/llama2.c writes it) and its tokenizer.bin.
[[nodiscard]] Result<ModelStream> stream_llama2c(const std::string& path, const std::string& tokenizer_path);

// Writers. Each writes beside and renames; nothing half-written is left. `progress` gets bytes written and all bytes.
struct StreamWriteOptions {
  /// Type of matrices: f32, f16, bf16 or q8_0; none: as the stream has them. Vectors and routers are F32 in GGUF.
  std::optional<ElementType> type;
  /// GGUF: a SHA-256 of each tensor's data in the metadata, which `quern inspect --verify` checks.
  bool checksums = false;
  std::function<Result<void>(std::size_t done, std::size_t all)> progress;  ///< an error ends the writing (Ctrl-C)
};
/// What a target file would say: its tensors with types and bytes, for --dry-run and tables.
struct PlannedTensor {
  std::string name;
  std::vector<std::int64_t> shape;  ///< outermost first
  std::string type;
  std::size_t bytes = 0;
};
struct StreamPlan {
  std::string architecture;  ///< of the target: GGUF's word, Hugging Face's class, "checkpoint"
  std::vector<PlannedTensor> tensors;
  std::vector<std::string> remarks;  ///< what the target loses or changes
};

/// GGUF of the architecture that has what the config asks for. Error bad_input names the field that no architecture has.
[[nodiscard]] Result<StreamPlan> plan_gguf(const ModelStream& stream, const StreamWriteOptions& options);
[[nodiscard]] Result<void> write_gguf(const ModelStream& stream, const std::string& path, const StreamWriteOptions& options);
/// A Hugging Face folder: config.json, generation_config.json, model.safetensors (shards of 5 GB), tokenizer.json,
/// tokenizer_config.json. (huggingface_writer.cpp)
[[nodiscard]] Result<StreamPlan> plan_huggingface(const ModelStream& stream, const StreamWriteOptions& options);
[[nodiscard]] Result<void> write_huggingface(const ModelStream& stream, const std::string& folder,
                                             const StreamWriteOptions& options);
/// A checkpoint of weights in f32, to go on training from. Error where the model has no backward pass (trainable()).
[[nodiscard]] Result<StreamPlan> plan_checkpoint(const ModelStream& stream);
[[nodiscard]] Result<void> write_checkpoint(const ModelStream& stream, const std::string& path,
                                            const StreamWriteOptions& options);

}  // namespace quern
