#include "head/float_linear_logsumexp.h"

#include <algorithm>
#include <type_traits>

#include "head/portable_logsumexp.h"
#include "head/vocabulary_segments.h"
#include "simd/aligned_buffer.h"
#include "simd/vectors.h"

namespace instsel {
namespace {

// Vocabulary entries whose logits for 32 rows are taken into the states at once: a multiple of all `entries_at_once`.
constexpr std::int64_t block_entries = 96;
// Rows by at most this depth (40 KB, of which shorter vectors than of 512 bits take half at a time) stay in the
// first-level cache while the entries of a block pass by. Each such sum is added up by itself: so a logit's rounding
// error grows with the root of 320, not of the hidden size.
constexpr std::int64_t largest_slab = 320;
// The weights that meet all rows before the next are fetched stay in half of a 1 MB second-level cache.
constexpr std::int64_t panel_bytes = 512 << 10;

// Entries whose sums with 16 or 32 rows fill the registers: each number of the rows is loaded once for all of them.
template <int lanes>
constexpr int entries_at_once = lanes == 16 ? 12 : lanes == 8 ? 6 : 4;

// 32 rows [depth][32] by the entries of a block, whose weights lie `stride` apart.
template <int lanes>
INSTSEL_INLINE void multiply_block(const float* weight, std::int64_t stride, const float* rows, std::int64_t depth,
                                   const GroupLogits& block) {
    const std::int64_t slabs = (depth + largest_slab - 1) / largest_slab;
    for (std::int64_t slab = 0; slab < slabs; ++slab) {
        const std::int64_t k = depth * slab / slabs;
        multiply<lanes, int(group_rows), entries_at_once<lanes>>(weight + k, block.entries, stride, 1,
                                                                 depth * (slab + 1) / slabs - k,
                                                                 rows + group_rows * k, block.z,
                                                                 k > 0 ? Sums::added : Sums::replaced);
    }
}

// What the units of a pass have in common.
template <class Element>
struct Pass {
    const Matrix<Element>& weight;
    const HeadTransform& head;
    const float* rows;  // [groups][depth][32]
    GroupStates* states;  // [segments][groups]
    std::int64_t groups;
    bool argmax;
};

std::int64_t panel_entries(std::int64_t depth) {
    return std::max<std::int64_t>(1, panel_bytes / (4 * depth) / block_entries) * block_entries;
}

// One segment of the vocabulary against its groups of rows. Weights that are float32 are read where they lie.
template <int lanes, class Element>
INSTSEL_INLINE void multiply_unit(const Pass<Element>& pass, const SegmentUnit& unit, float* converted) {
    const std::int64_t depth = pass.weight.columns;
    alignas(64) float z[block_entries * group_rows];
    GroupStates* states = pass.states + unit.segment * pass.groups;
    for (std::int64_t group = unit.first_group; group < unit.last_group; ++group) states[group].clear();
    for (std::int64_t start = unit.first_entry; start < unit.last_entry; start += panel_entries(depth)) {
        const std::int64_t stop = std::min(unit.last_entry, start + panel_entries(depth));
        const Element* from = pass.weight.data + start * pass.weight.row_stride;
        const float* panel = reinterpret_cast<const float*>(from);
        std::int64_t stride = pass.weight.row_stride;
        if (!std::is_same<Element, float>::value) {
            for (std::int64_t entry = 0; entry < stop - start; ++entry) {
#pragma omp simd
                for (std::int64_t k = 0; k < depth; ++k) {
                    converted[entry * depth + k] = to_float(from[entry * pass.weight.row_stride + k]);
                }
            }
            panel = converted;
            stride = depth;
        }
        for (std::int64_t group = unit.first_group; group < unit.last_group; ++group) {
            for (std::int64_t entry = start; entry < stop; entry += block_entries) {
                const GroupLogits block{z, entry, std::min(block_entries, stop - entry)};
                multiply_block<lanes>(panel + (entry - start) * stride, stride, pass.rows + group * group_rows * depth,
                                      depth, block);
                accumulate_block<lanes>(block, pass.head, pass.argmax, states[group]);
            }
        }
    }
}

INSTSEL_VARIANTS(template <class Element>, unit,
                 (const Pass<Element>& pass, const SegmentUnit& unit, float* converted),
                 multiply_unit<lanes>(pass, unit, converted))

// Rows side by side: [depth][32], zeros where there are no more rows.
template <class Element>
void pack_group(const Matrix<Element>& hidden, std::int64_t first_row, std::int64_t rows, float* packed) {
    for (std::int64_t k = 0; k < hidden.columns; ++k) {
        for (std::int64_t row = 0; row < group_rows; ++row) {
            packed[group_rows * k + row] =
                row < rows ? to_float(hidden.data[(first_row + row) * hidden.row_stride + k]) : 0.0f;
        }
    }
}

template <class Element>
void run_pass(const Matrix<Element>& hidden, std::int64_t first_row, std::int64_t rows, const Matrix<Element>& weight,
              const HeadTransform& head, const RowStates& out, int threads, InstructionSet instructions) {
    const auto run_unit = INSTSEL_PICK(unit<Element>, instructions);
    const std::int64_t depth = hidden.columns;
    const SegmentedWork work(weight.rows, rows, threads);
    const AlignedBuffer packed = allocate_aligned(4 * group_rows * depth * work.groups);
    const AlignedBuffer states = allocate_aligned(work.segments * work.groups * std::int64_t(sizeof(GroupStates)));
    const ThreadMemory panels(threads, std::is_same<Element, float>::value ? 0 : 4 * panel_entries(depth) * depth);
    float* packed_rows = reinterpret_cast<float*>(packed.get());
    GroupStates* group_states = reinterpret_cast<GroupStates*>(states.get());
    const Pass<Element> pass{weight, head, packed_rows, group_states, work.groups, out.argmax != nullptr};
#pragma omp parallel num_threads(threads)
    {
        auto* converted = panels.own<float>();
#pragma omp for schedule(static)
        for (std::int64_t group = 0; group < work.groups; ++group) {
            pack_group(hidden, first_row + group * group_rows, std::min(group_rows, rows - group * group_rows),
                       packed_rows + group * group_rows * depth);
        }
#pragma omp for schedule(dynamic, 1)
        for (std::int64_t unit = 0; unit < work.units(); ++unit) run_unit(pass, SegmentUnit(work, unit), converted);
    }
    for (std::int64_t row = 0; row < rows; ++row) {
        join_segments(group_states + row / group_rows, work.segments, work.groups, row % group_rows, first_row + row,
                      out);
    }
}

}  // namespace

template <class Element>
void float_linear_logsumexp(const Matrix<Element>& hidden, const Matrix<Element>& weight, const HeadTransform& head,
                            const RowStates& states, int threads, InstructionSet instructions) {
    const std::int64_t state_bytes = segment_count(weight.rows) * std::int64_t(sizeof(GroupStates)) / group_rows;
    const std::int64_t step = rows_of_a_pass(4 * hidden.columns + state_bytes);
    for (std::int64_t row = 0; row < hidden.rows; row += step) {
        run_pass(hidden, row, std::min(step, hidden.rows - row), weight, head, states, threads, instructions);
    }
}

template void float_linear_logsumexp(const Matrix<float>&, const Matrix<float>&, const HeadTransform&,
                                     const RowStates&, int, InstructionSet);
template void float_linear_logsumexp(const Matrix<bfloat16>&, const Matrix<bfloat16>&, const HeadTransform&,
                                     const RowStates&, int, InstructionSet);
template void float_linear_logsumexp(const Matrix<float16>&, const Matrix<float16>&, const HeadTransform&,
                                     const RowStates&, int, InstructionSet);

}  // namespace instsel
