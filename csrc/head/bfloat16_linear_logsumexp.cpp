#include "head/bfloat16_linear_logsumexp.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "head/avx512_logsumexp.h"
#include "head/vocabulary_segments.h"
#include "simd/aligned_buffer.h"
#include "simd/bfloat16_products.h"

namespace instsel {

#if defined(__x86_64__)
namespace {

// The packed weights that meet all rows before the next are fetched stay in half of a 2 MB second-level cache.
constexpr std::int64_t panel_bytes = 512 << 10;

// Adds up the logits of a finished block entry by entry, spread over the tiles of the block that is being multiplied.
template <bool transform>
struct EntryWalk {
    const LogitsBlock& block;
    const HeadTransform& head;
    std::int64_t tiles;
    BlockWalk& walk;
    int& entry;

    INSTSEL_AMX_BF16 INSTSEL_INLINE void operator()(std::int64_t tile) const {
        const int due = int((tile + 1) * block.entries / tiles);
        for (; entry < due; ++entry) walk_entry<transform>(block, entry, head, walk);
    }
};

// 32 entries times 32 rows over the whole depth into `block.z`, while the logits of the block before are added up:
// tile products and vector arithmetic run side by side. The weights pass through the first-level cache with a hint not
// to stay there, where they would displace the hidden states.
template <class Products, bool transform, bool argmax>
INSTSEL_AMX_BF16 void multiply_block(const std::uint8_t* weights, const std::uint8_t* hidden, std::int64_t tiles,
                                     const LogitsBlock& block, const LogitsBlock& before, const HeadTransform& head) {
    BlockWalk walk;
    if (before.entries > 0) start_walk(before, walk);
    int entry = 0;
    Products::template multiply<2, Streamed::left>(ConsecutiveTiles{weights}, hidden, tiles, false, block.z,
                                         EntryWalk<transform>{before, head, tiles, walk, entry});
    if (before.entries > 0) finish_walk<argmax>(before, walk);
}

template <bool transform, bool argmax>
INSTSEL_AMX_BF16 void finish_block(const LogitsBlock& block, const HeadTransform& head) {
    BlockWalk walk;
    start_walk(block, walk);
    for (int entry = 0; entry < block.entries; ++entry) walk_entry<transform>(block, entry, head, walk);
    finish_walk<argmax>(block, walk);
}

struct PackedHidden {
    const std::uint8_t* data;  // [groups of 32 rows][depth tiles][2][tile]
    std::int64_t groups;
    std::int64_t tiles;
};

// One segment of the vocabulary against all rows of a pass.
template <class Products, bool transform, bool argmax>
INSTSEL_AMX_BF16 void multiply_segment(const PackedHidden& hidden, const Matrix<bfloat16>& weight, std::int64_t first,
                                  std::int64_t last, const HeadTransform& head, VectorStates* states,
                                  std::uint8_t* panels) {
    const std::int64_t panel_size = 2 * hidden.tiles * tile_bytes;
    const std::int64_t panels_at_once = std::max<std::int64_t>(1, panel_bytes / panel_size);
    alignas(64) float z[2][block_entries * group_rows];
    LogitsBlock before{z[1], states, 0, 0};
    int turn = 0;
    for (std::int64_t group = 0; group < 2 * hidden.groups; ++group) states[group].clear();
    for (std::int64_t start = first; start < last; start += panels_at_once * block_entries) {
        const std::int64_t stop = std::min(last, start + panels_at_once * block_entries);
        for (std::int64_t row = start; row < stop; row += 16) {
            std::uint8_t* target = panels + (row - start) / 32 * panel_size + ((row - start) / 16 % 2) * tile_bytes;
            pack_left(reinterpret_cast<const std::uint16_t*>(weight.data) + row * weight.row_stride,
                      weight.row_stride, std::min<std::int64_t>(16, stop - row), weight.columns, 2 * tile_bytes,
                      target);
        }
        for (std::int64_t group = 0; group < hidden.groups; ++group) {
            for (std::int64_t row = start; row < stop; row += block_entries) {
                const LogitsBlock block{z[turn], states + 2 * group, std::int32_t(row),
                                        int(std::min<std::int64_t>(block_entries, stop - row))};
                multiply_block<Products, transform, argmax>(panels + (row - start) / 32 * panel_size,
                                                            hidden.data + group * panel_size, hidden.tiles, block,
                                                            before, head);
                before = block;
                turn = 1 - turn;
            }
        }
    }
    if (before.entries > 0) finish_block<transform, argmax>(before, head);
}

using SegmentFunction = void (*)(const PackedHidden&, const Matrix<bfloat16>&, std::int64_t, std::int64_t,
                                 const HeadTransform&, VectorStates*, std::uint8_t*);

template <class Products>
INSTSEL_AMX_BF16 void run_pass(const Matrix<bfloat16>& hidden, std::int64_t first_row, std::int64_t rows,
                          const Matrix<bfloat16>& weight, const HeadTransform& head, const RowStates& out,
                          int threads) {
    const std::int64_t tiles = depth_tiles(hidden.columns);
    const std::int64_t group_bytes = 2 * tiles * tile_bytes;
    const SegmentedWork work(weight.rows, rows, threads);
    const AlignedBuffer packed = allocate_aligned(work.groups * group_bytes);
    const AlignedBuffer state_buffer =
        allocate_aligned(work.segments * work.groups * 2 * std::int64_t(sizeof(VectorStates)));
    VectorStates* states = reinterpret_cast<VectorStates*>(state_buffer.get());
    const bool transform = !head.is_identity();
    const bool argmax = out.argmax != nullptr;
    const SegmentFunction function =
        transform ? (argmax ? multiply_segment<Products, true, true> : multiply_segment<Products, true, false>)
                  : (argmax ? multiply_segment<Products, false, true> : multiply_segment<Products, false, false>);
    const ThreadMemory panels(threads, std::max<std::int64_t>(1, panel_bytes / group_bytes) * group_bytes);
#pragma omp parallel num_threads(threads)
    {
        auto* own_panels = panels.own<std::uint8_t>();
#pragma omp for schedule(static)
        for (std::int64_t half = 0; half < 2 * work.groups; ++half) {
            const std::int64_t row = half * 16;
            pack_right(reinterpret_cast<const std::uint16_t*>(hidden.data) + (first_row + row) * hidden.row_stride,
                       hidden.row_stride, std::max<std::int64_t>(0, std::min<std::int64_t>(16, rows - row)),
                       hidden.columns, 2 * tile_bytes, packed.get() + half / 2 * group_bytes + half % 2 * tile_bytes);
        }
        Products::begin();
#pragma omp for schedule(dynamic, 1)
        for (std::int64_t index = 0; index < work.units(); ++index) {
            const SegmentUnit unit(work, index);
            function({packed.get() + unit.first_group * group_bytes, unit.last_group - unit.first_group, tiles}, weight,
                     unit.first_entry, unit.last_entry, head,
                     states + 2 * (unit.segment * work.groups + unit.first_group), own_panels);
        }
        Products::end();
    }
    for (std::int64_t row = 0; row < rows; ++row) {
        join_segments(states + row / 16, work.segments, 2 * work.groups, row % 16, first_row + row, out);
    }
}

}  // namespace

void bfloat16_linear_logsumexp(const Matrix<bfloat16>& hidden, const Matrix<bfloat16>& weight,
                               const HeadTransform& head, const RowStates& states, int threads,
                               InstructionSet instructions) {
    const auto run = instructions == InstructionSet::amx ? run_pass<AmxProducts> : run_pass<DotProducts>;
    if (instructions < InstructionSet::avx512_bf16) throw std::invalid_argument(no_bfloat16_products);
    const std::int64_t state_bytes = segment_count(weight.rows) * std::int64_t(sizeof(VectorStates)) / 16;
    const std::int64_t step = rows_of_a_pass(2 * hidden.columns + state_bytes);
    for (std::int64_t row = 0; row < hidden.rows; row += step) {
        run(hidden, row, std::min(step, hidden.rows - row), weight, head, states, threads);
    }
}

#else

void bfloat16_linear_logsumexp(const Matrix<bfloat16>&, const Matrix<bfloat16>&, const HeadTransform&,
                               const RowStates&, int, InstructionSet) {
    throw std::invalid_argument(no_bfloat16_products);
}

#endif

}  // namespace instsel
