// A block of attention's rows: where it lies in the tree, and which of its rows see which keys.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "attention/tree_layout.h"
#include "simd/exponential.h"

namespace instsel {

constexpr std::int64_t largest_head = 256;
constexpr std::int64_t chunk_blocks = 8;  // blocks of keys whose scores are held at once: 32 KB

// What becomes of values that a row does not see. Its probabilities of them are 0, which adds nothing unless they are
// infinite or NaN: then its result is NaN, and it is found again without them.
enum class Unseen { times_zero, left_out };

// Which of 32 rows see a key at a path position: a contiguous run, as rows are in order of position.
struct RowMask {
    std::int64_t first_position;  // of row 0
    std::int64_t first_head;      // of row 0 within its group: rows need not start at a position's first head
    std::int64_t group;           // rows per position
    std::int64_t window;          // 0: none

    std::int64_t row_at(std::int64_t position) const {
        return std::clamp<std::int64_t>((position - first_position) * group - first_head, 0, rows_at_once);
    }
    // The row behind the last that sees a key.
    std::int64_t row_behind(std::int64_t key_position) const {
        return window == 0 ? rows_at_once : row_at(key_position + window);
    }
    std::uint32_t rows(const PathBlock& block, std::int64_t key) const {
        const std::int64_t position = block.position + key, behind = block.row_behind;
        const std::int64_t from = std::min(row_at(position) + block.first_row, behind);
        const std::int64_t to = std::min(row_behind(position), behind);
        return to <= from ? 0u : std::uint32_t(((std::uint64_t(1) << to) - 1) & ~((std::uint64_t(1) << from) - 1));
    }
    // Whether all rows up to the last position see all keys of a block.
    bool whole(const PathBlock& block, std::int64_t last_position) const {
        return block.keys == key_block && block.position + key_block - 1 <= first_position &&
               (window == 0 || last_position - block.position < window);
    }
};

// Where the rows of a half are, of those that there are: heads of a group follow each other, then comes the next token.
template <class Element>
INSTSEL_INLINE int find_rows(const HeadsView<Element>& tensor, const RowRange& rows, int half, Element* (&places)[16]) {
    const int count = int(std::clamp<std::int64_t>(rows.count - 16 * half, 0, 16));
    const std::int64_t first = rows.first + 16 * half;
    std::int64_t token = rows.token + first / rows.group, head = first % rows.group;
    for (int lane = 0; lane < count; ++lane) {
        places[lane] = tensor.at(token, rows.head + head);
        if (++head == rows.group) {
            head = 0;
            ++token;
        }
    }
    return count;
}

// The sinks of the heads that the rows are of, in units of log2.
inline void find_sinks(const float* sinks, const RowRange& rows, float (&of_rows)[rows_at_once]) {
    std::int64_t head = rows.first % rows.group;
    for (float& sink : of_rows) {
        sink = sinks[rows.head + head] * log2_e;
        if (++head == rows.group) head = 0;
    }
}

// Fetches rows into the second-level cache, to be read or, if they are not const, to be written.
template <class Element>
INSTSEL_INLINE void fetch_rows(const HeadsView<Element>& tensor, const RowRange& rows, std::int64_t head_size) {
    constexpr std::int64_t line = 64 / std::int64_t(sizeof(Element));
    for (int half = 0; half < 2; ++half) {
        Element* places[16];
        const int count = find_rows(tensor, rows, half, places);
        for (int lane = 0; lane < count; ++lane) {
            for (std::int64_t d = 0; d < head_size; d += line) {
                __builtin_prefetch(places[lane] + d, std::is_const<Element>::value ? 0 : 1, 2);
            }
        }
    }
}

// A path for each thread, with memory for any row block's: an exception must not leave a thread.
inline std::vector<std::vector<PathBlock>> path_memory(const TreeLayout& layout, std::int64_t most_siblings,
                                                       int threads) {
    std::int64_t longest = 0;
    for (std::int64_t node = 0; node < layout.nodes; ++node) {
        std::int64_t blocks = most_siblings - 1;
        for (std::int32_t entry = layout.path_offsets[node]; entry < layout.path_offsets[node + 1]; ++entry) {
            const std::int32_t range = layout.path_ranges[entry];
            blocks += layout.range_block[range + 1] - layout.range_block[range];
        }
        longest = std::max(longest, blocks);
    }
    std::vector<std::vector<PathBlock>> paths(static_cast<std::size_t>(threads));
    for (auto& path : paths) path.reserve(std::size_t(longest));
    return paths;
}

// A row block as both kernels begin it; the blocks of keys that it sees go into `blocks`.
struct BlockStart {
    RowRange rows;
    std::int64_t last_position;
    RowMask mask;
};

// Siblings see what comes before them, and each the keys of its own, a block a sibling.
inline BlockStart start_siblings(const TreeLayout& layout, const RowBlock& work, const RowRange& rows,
                                 std::int64_t context, std::vector<PathBlock>& blocks) {
    path_blocks(layout, work.node, context, context - 1, 0, blocks);
    std::int32_t row = 0;
    for (std::int64_t node = work.node; node < work.node + work.siblings; ++node) {
        const std::int32_t range = layout.own_range(node);
        const std::int32_t keys = layout.range_stop[range] - layout.range_start[range];
        const auto behind = std::int32_t(row + keys * rows.group);
        blocks.push_back({layout.range_block[range], layout.range_start[range], context, keys, row, behind});
        row = behind;
    }
    return {rows, context, {context, 0, rows.group, 0}};
}

inline RowRange row_range(const TreeLayout& layout, const RowBlock& work, std::int64_t group) {
    const std::int64_t token = layout.query_offsets[work.node];
    const std::int64_t all_rows = (layout.query_offsets[work.node + work.siblings] - token) * group;
    return {token, work.key_head * group, group, work.first_row,
            std::min<std::int64_t>(rows_at_once, all_rows - work.first_row)};
}

inline BlockStart start_block(const TreeLayout& layout, const AttentionShape& shape, const RowBlock& work,
                              std::int64_t group, std::vector<PathBlock>& blocks) {
    const RowRange rows = row_range(layout, work, group);
    const std::int64_t context = context_length(layout, work.node);
    if (work.siblings > 1) return start_siblings(layout, work, rows, context, blocks);
    const std::int64_t first_position = context + rows.first / group;
    const std::int64_t last_position = context + (rows.first + rows.count - 1) / group;
    path_blocks(layout, work.node, first_position, last_position, shape.window, blocks);
    // Rows need not start at a token's first head: the run of lanes is counted from that head's place.
    return {rows, last_position, {first_position, rows.first % group, group, shape.window}};
}

}  // namespace instsel
