// Where the tokens of a packed prefix tree lie, as the attention kernels want it (see kernels/tree_plan.py).
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace instsel {

// Keys are read in blocks of this many, counted from the start of their range: so the order in which a path is added
// up depends on the path alone, not on where it lies in the pack.
constexpr std::int64_t key_block = 32;
constexpr int rows_at_once = 32;  // queries of a row block

struct TreeLayout {
    const std::int32_t* query_offsets;  // [nodes + 1]
    const std::int32_t* range_start;    // [ranges]: distinct ranges of keys
    const std::int32_t* range_stop;
    const std::int32_t* range_block;   // [ranges + 1]: the first block of each range
    const std::int32_t* path_offsets;  // [nodes + 1]
    const std::int32_t* path_ranges;   // the ranges of each node's path, root first, its own tokens last
    std::int64_t nodes;
    std::int64_t ranges;

    std::int64_t blocks() const { return range_block[ranges]; }
    // The range of a node's own tokens.
    std::int32_t own_range(std::int64_t node) const { return path_ranges[path_offsets[node + 1] - 1]; }
};

// [tokens, heads, head_size] with any strides but a unit one along the head; strides are in elements.
template <class Element>
struct HeadsView {
    Element* data;
    std::int64_t tokens;
    std::int64_t heads;
    std::int64_t token_stride;
    std::int64_t head_stride;

    Element* at(std::int64_t token, std::int64_t head) const {
        return data + token * token_stride + head * head_stride;
    }
};

template <class Element>
struct AttentionTensors {
    HeadsView<const Element> query;
    HeadsView<const Element> key;
    HeadsView<const Element> value;
    HeadsView<Element> out;
};

struct AttentionShape {
    std::int64_t head_size;
    float scaling;
    float softcap;        // 0: none
    std::int64_t window;  // 0: none
    const float* sinks = nullptr;  // [query heads]: one more logit of each row, which has no value; null: none
};

// The rows of a row block: (token, head of the group) pairs of one node.
struct RowRange {
    std::int64_t token;       // of the pack, of the node's first row
    std::int64_t head;        // first query head of the group
    std::int64_t group;
    std::int64_t first;       // row of the block within the node
    std::int64_t count;
};

// 32 rows of work: a row is a (token of a node, head of the group that shares a key head) pair. All are rows of one node,
// or they are all rows of several siblings that follow each other, such as short answers to one question.
struct RowBlock {
    std::int32_t node;
    std::int32_t key_head;
    std::int32_t first_row;
    std::int32_t siblings;
};

inline bool are_siblings(const TreeLayout& layout, std::int64_t node, std::int64_t other) {
    const std::int32_t* path = layout.path_ranges + layout.path_offsets[node];
    const std::int32_t* other_path = layout.path_ranges + layout.path_offsets[other];
    const std::int64_t length = layout.path_offsets[node + 1] - layout.path_offsets[node];
    return length == layout.path_offsets[other + 1] - layout.path_offsets[other] &&
           std::equal(path, path + length - 1, other_path);
}

inline std::int64_t node_rows(const TreeLayout& layout, std::int64_t node, std::int64_t group) {
    return (layout.query_offsets[node + 1] - layout.query_offsets[node]) * group;
}

// At most `most_siblings` nodes share a row block.
inline std::vector<RowBlock> row_blocks(const TreeLayout& layout, std::int64_t group, std::int64_t key_heads,
                                        std::int64_t most_siblings) {
    std::vector<RowBlock> blocks;
    for (std::int64_t node = 0, siblings; node < layout.nodes; node += siblings) {
        std::int64_t rows = node_rows(layout, node, group);
        for (siblings = 1; rows > 0 && siblings < most_siblings && node + siblings < layout.nodes; ++siblings) {
            const std::int64_t more = node_rows(layout, node + siblings, group);
            if (more == 0 || rows + more > rows_at_once || !are_siblings(layout, node, node + siblings)) break;
            rows += more;
        }
        for (std::int64_t head = 0; head < key_heads; ++head) {
            for (std::int64_t row = 0; row < rows; row += rows_at_once) {
                blocks.push_back(
                    {std::int32_t(node), std::int32_t(head), std::int32_t(row), std::int32_t(siblings)});
            }
        }
    }
    return blocks;
}

// A block of keys on a node's path.
struct PathBlock {
    std::int64_t index;     // of the packed block
    std::int64_t first_key;
    std::int64_t position;  // of its first key on the path
    std::int32_t keys;
    std::int32_t first_row;   // the rows of the row block that may see any of it: those of one sibling, or all
    std::int32_t row_behind;
};

// The blocks that any of the queries at path positions [first, last] sees.
inline void path_blocks(const TreeLayout& layout, std::int64_t node, std::int64_t first, std::int64_t last,
                        std::int64_t window, std::vector<PathBlock>& blocks) {
    blocks.clear();
    std::int64_t position = 0;
    for (std::int32_t entry = layout.path_offsets[node]; entry < layout.path_offsets[node + 1]; ++entry) {
        const std::int32_t range = layout.path_ranges[entry];
        const std::int64_t length = layout.range_stop[range] - layout.range_start[range];
        for (std::int64_t start = 0; start < length; start += key_block) {
            const std::int64_t keys = length - start < key_block ? length - start : key_block;
            const std::int64_t here = position + start;
            const bool seen = here <= last && (window == 0 || first - (here + keys - 1) < window);
            if (!seen) continue;
            blocks.push_back({layout.range_block[range] + start / key_block, layout.range_start[range] + start, here,
                              std::int32_t(keys), 0, rows_at_once});
        }
        position += length;
    }
}

// The position of a node's first own token on its path.
inline std::int64_t context_length(const TreeLayout& layout, std::int64_t node) {
    std::int64_t length = 0;
    for (std::int32_t entry = layout.path_offsets[node]; entry + 1 < layout.path_offsets[node + 1]; ++entry) {
        length += layout.range_stop[layout.path_ranges[entry]] - layout.range_start[layout.path_ranges[entry]];
    }
    return length;
}

}  // namespace instsel
