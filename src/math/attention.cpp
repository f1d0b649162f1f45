#include "math/attention.hpp"

#include <algorithm>
#include <bit>
#include <cassert>

#include "math/attention_scratch-inl.hpp"
#include "math/kv_rows-inl.hpp"

namespace quern {
namespace {

std::int64_t queries_per_task(const AttentionShape& shape) {
  const std::int64_t group = shape.heads / shape.kv_heads;
  return group >= kAttentionTaskRows ? 1 : kAttentionTaskRows / group;
}

/// Walks the tasks of a call in an order fixed by shapes: sequences with more keys first (by powers of two), then in the
/// given order; in a sequence the last queries, which see most keys, first. Indexes must rise from call to call.
class TaskCursor {
 public:
  struct Place {
    const AttentionSequence* sequence = nullptr;
    std::int64_t chunk = 0;
    std::int64_t kv_head = 0;
  };

  /// `chunk_rows` query rows per task; 0: whole sequences.
  TaskCursor(std::span<const AttentionSequence> sequences, std::int64_t kv_heads, std::int64_t chunk_rows)
      : sequences_(sequences), kv_heads_(kv_heads), chunk_rows_(chunk_rows) {
    for (const AttentionSequence& sequence : sequences) {
      total_ += tasks_of(sequence);
      if (size_class(sequence) > class_) class_ = size_class(sequence);
    }
  }

  [[nodiscard]] std::int64_t tasks() const { return total_; }

  Place find(std::int64_t index) {
    while (true) {
      for (; next_ < sequences_.size(); ++next_) {
        const AttentionSequence& sequence = sequences_[next_];
        if (size_class(sequence) != class_) continue;
        const std::int64_t tasks = tasks_of(sequence);
        if (index < passed_ + tasks) {
          const std::int64_t local = index - passed_;
          return {&sequence, tasks / kv_heads_ - 1 - local / kv_heads_, local % kv_heads_};
        }
        passed_ += tasks;
      }
      --class_;
      next_ = 0;
      assert(class_ >= 0 && "task index past the last task");
    }
  }

 private:
  [[nodiscard]] static int size_class(const AttentionSequence& sequence) {
    return static_cast<int>(std::bit_width(static_cast<std::uint64_t>(sequence.first_position + sequence.rows)));
  }
  [[nodiscard]] std::int64_t tasks_of(const AttentionSequence& sequence) const {
    if (sequence.rows == 0) return 0;
    return (chunk_rows_ == 0 ? 1 : (sequence.rows + chunk_rows_ - 1) / chunk_rows_) * kv_heads_;
  }

  std::span<const AttentionSequence> sequences_;
  std::int64_t kv_heads_;
  std::int64_t chunk_rows_;
  std::int64_t total_ = 0;
  std::int64_t passed_ = 0;
  std::size_t next_ = 0;
  int class_ = 0;
};

/// What this thread likely computes after task `index`: threads take tasks in turns.
AttentionTaskAhead task_ahead(TaskCursor& cursor, const TeamMember& member, std::int64_t index, std::int64_t chunk_rows) {
  const std::int64_t next = index + member.count();
  if (next >= cursor.tasks()) return {};
  const TaskCursor::Place place = cursor.find(next);
  return {place.sequence, place.kv_head, place.chunk * chunk_rows};
}

template <class T>
constexpr ElementType kElement = ElementType::f32;
template <>
constexpr ElementType kElement<bf16> = ElementType::bf16;

}  // namespace

std::size_t attention_scratch_bytes(const Backend& backend, const AttentionShape& shape, ElementType type,
                                    std::int64_t max_length) {
  const std::int64_t head = padded_head(shape.head_dim);
  const std::int64_t rows = forward_task_rows(shape.heads / shape.kv_heads);
  ScratchCutter forward;
  ScratchCutter backward;
  if (type == ElementType::bf16 && backend.kernels->isa == Isa::amx) {
    cut_tile_forward(forward, rows, head);
    if (max_length > 0) cut_tile_backward(backward, max_length, head);
  } else {
    cut_forward(forward, rows, head);
    if (max_length > 0) cut_backward(backward, max_length, head);
  }
  return static_cast<std::size_t>(std::max(forward.used, backward.used));
}

template <class T>
void attention_forward(Exec& exec, const AttentionShape& shape, std::span<const AttentionSequence> sequences,
                       const AttentionRows<const T>& q, const AttentionRows<T>& out, float* lse,
                       const DropoutMask& dropout) {
  const std::int64_t chunk = queries_per_task(shape);
  TaskCursor cursor(sequences, shape.kv_heads, chunk);
  TaskCursor ahead = cursor;
  const AttentionKernels& kernels = *exec.backend.kernels->attention;
  exec.member.for_each(cursor.tasks(), [&](std::int64_t index) {
    const TaskCursor::Place place = cursor.find(index);
    assert(kv_format(place.sequence->kv.type).block_elements > 0 && "keys and values must be of a KV cache's format");
    assert(shape.head_dim % kv_format(place.sequence->kv.type).block_elements == 0 && "heads must be whole blocks");
    assert(place.sequence->first_position + place.sequence->rows <= place.sequence->kv.length &&
           "every query needs its own key");
    AttentionForwardTask task;
    task.shape = &shape;
    task.sequence = place.sequence;
    task.dropout = &dropout;
    task.kv_head = place.kv_head;
    task.first_query = place.chunk * chunk;
    task.queries = std::min(chunk, place.sequence->rows - task.first_query);
    task.q = q.data;
    task.q_stride = q.row_stride;
    task.out = out.data;
    task.out_stride = out.row_stride;
    task.lse = lse;
    task.scratch = exec.scratch.data();
    task.ahead = task_ahead(ahead, exec.member, index, chunk);
    if constexpr (kElement<T> == ElementType::f32) {
      kernels.forward_f32(task);
    } else {
      kernels.forward_bf16(task);
    }
  });
}

template <class T>
void attention_backward(Exec& exec, const AttentionShape& shape, std::span<const AttentionSequence> sequences,
                        const AttentionRows<const T>& q, const AttentionRows<const T>& out,
                        const AttentionRows<const T>& dout, const float* lse, const AttentionRows<T>& dq,
                        const AttentionRows<T>& dk, const AttentionRows<T>& dv, const DropoutMask& dropout) {
  TaskCursor cursor(sequences, shape.kv_heads, 0);
  TaskCursor ahead = cursor;
  const AttentionKernels& kernels = *exec.backend.kernels->attention;
  exec.member.for_each(cursor.tasks(), [&](std::int64_t index) {
    const TaskCursor::Place place = cursor.find(index);
    assert(place.sequence->kv.type == kElement<T> && "keys and values must have the queries' type");
    assert(place.sequence->first_position == 0 && place.sequence->kv.length == place.sequence->rows &&
           "gradients are of whole sequences");
    AttentionBackwardTask task;
    task.shape = &shape;
    task.sequence = place.sequence;
    task.dropout = &dropout;
    task.kv_head = place.kv_head;
    task.q = q.data;
    task.q_stride = q.row_stride;
    task.out = out.data;
    task.out_stride = out.row_stride;
    task.dout = dout.data;
    task.dout_stride = dout.row_stride;
    task.lse = lse;
    task.dq = dq.data;
    task.dq_stride = dq.row_stride;
    task.dk = dk.data;
    task.dk_stride = dk.row_stride;
    task.dv = dv.data;
    task.dv_stride = dv.row_stride;
    task.scratch = exec.scratch.data();
    task.ahead = task_ahead(ahead, exec.member, index, 0);
    if constexpr (kElement<T> == ElementType::f32) {
      kernels.backward_f32(task);
    } else {
      kernels.backward_bf16(task);
    }
  });
}

template void attention_forward<float>(Exec&, const AttentionShape&, std::span<const AttentionSequence>,
                                       const AttentionRows<const float>&, const AttentionRows<float>&, float*,
                                       const DropoutMask&);
template void attention_forward<bf16>(Exec&, const AttentionShape&, std::span<const AttentionSequence>,
                                      const AttentionRows<const bf16>&, const AttentionRows<bf16>&, float*,
                                      const DropoutMask&);
template void attention_backward<float>(Exec&, const AttentionShape&, std::span<const AttentionSequence>,
                                        const AttentionRows<const float>&, const AttentionRows<const float>&,
                                        const AttentionRows<const float>&, const float*, const AttentionRows<float>&,
                                        const AttentionRows<float>&, const AttentionRows<float>&, const DropoutMask&);
template void attention_backward<bf16>(Exec&, const AttentionShape&, std::span<const AttentionSequence>,
                                       const AttentionRows<const bf16>&, const AttentionRows<const bf16>&,
                                       const AttentionRows<const bf16>&, const float*, const AttentionRows<bf16>&,
                                       const AttentionRows<bf16>&, const AttentionRows<bf16>&, const DropoutMask&);

}  // namespace quern
