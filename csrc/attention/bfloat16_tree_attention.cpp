#include "attention/bfloat16_tree_attention.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>
#include <vector>

#include "attention/attention_packing.h"
#include "attention/attention_softmax.h"
#include "simd/bfloat16_products.h"
#include "simd/threads.h"

namespace instsel {

#if defined(__x86_64__)
namespace {

// Short siblings in one row block: each adds a block of keys to the last chunk.
constexpr std::int64_t most_siblings = 4;
constexpr std::int64_t most_blocks = chunk_blocks + most_siblings - 1;

// Everything that one row block needs beside the packed keys and values; about 120 KB, on the stack of its thread.
struct alignas(64) Scratch {
    std::uint8_t query[2 * largest_head / 32 * tile_bytes];
    float scores[most_blocks * 1024];
    std::uint8_t probabilities[most_blocks * 2 * tile_bytes];
    float out[largest_head * rows_at_once];  // [head/16][2][16, 16 rows]
};

struct NothingBetween {
    INSTSEL_INLINE void operator()(std::int64_t) const {}
};

// The transposed values of some columns of the head, block after block of a chunk.
struct ValueTiles {
    static constexpr std::int64_t row_bytes = 64, half_bytes = tile_bytes;
    const PackedHeads& packed;
    const PathBlock* blocks;
    std::int64_t head;
    std::int64_t part;

    INSTSEL_INLINE const std::uint8_t* operator()(std::int64_t block) const {
        return packed.values(head, blocks[block].index) + 2 * part * tile_bytes;
    }
};

// out += values^T probabilities, over the blocks of a chunk.
template <class Products, int halves>
INSTSEL_AMX_BF16 void add_values(const PackedHeads& packed, std::int64_t head, const PathBlock* blocks,
                                 std::int64_t count, bool first_chunk, Scratch& scratch) {
    for (std::int64_t part = 0; part < packed.depth; ++part) {
        Products::template multiply<halves, Streamed::none>(ValueTiles{packed, blocks, head, part}, scratch.probabilities,
                                                   count, !first_chunk, scratch.out + part * 1024, NothingBetween{});
    }
}

// The keys of a block that each of 32 rows sees, as bits.
inline void find_seen_keys(const PathBlock& block, const RowMask& mask, std::uint32_t* seen) {
    std::fill_n(seen, rows_at_once, 0u);
    for (int key = 0; key < block.keys; ++key) {
        const std::uint32_t rows = mask.rows(block, key);
        for (int row = 0; row < rows_at_once; ++row) seen[row] |= (rows >> row & 1u) << key;
    }
}

// The same for one block, without the keys that a row does not see: once for all rows that see the same, the values of
// other keys being zero.
template <class Products, int halves>
INSTSEL_AMX_BF16 void add_seen_values(const PackedHeads& packed, std::int64_t head, const PathBlock& block,
                                      const RowMask& mask, const std::uint8_t* probabilities, bool add, float* out) {
    alignas(64) std::uint8_t values[2 * tile_bytes];
    alignas(64) float before[1024], sums[1024];
    std::uint32_t seen[rows_at_once];
    find_seen_keys(block, mask, seen);
    for (std::int64_t part = 0; part < packed.depth; ++part, out += 1024) {
        const std::uint8_t* from = packed.values(head, block.index) + 2 * part * tile_bytes;
        if (add) std::copy_n(out, 1024, before);
        for (int row = 0, behind; row < 16 * halves; row = behind) {
            for (behind = row + 1; behind < 16 * halves && seen[behind] == seen[row]; ++behind) continue;
            for (std::int64_t at = 0; at < 2 * tile_bytes; at += 64) {
                _mm512_store_si512(values + at, _mm512_maskz_loadu_epi16(__mmask32(seen[row]), from + at));
            }
            if (add) std::copy_n(before, 1024, sums);
            Products::template multiply<halves, Streamed::none>(ConsecutiveTiles{values}, probabilities, 1, add, sums,
                                                                NothingBetween{});
            for (int column = 0; column < 32; ++column) {
                for (int i = row; i < behind; ++i) {
                    const std::int64_t at = (column / 16 * 2 + i / 16) * 256 + column % 16 * 16 + i % 16;
                    out[at] = sums[at];
                }
            }
        }
    }
}

template <int halves>
INSTSEL_AMX_BF16 void softmax_chunk(const PathBlock* blocks, std::int64_t count, const RowMask& mask,
                                    std::int64_t last_position, const AttentionShape& shape, std::int64_t depth,
                                    SoftmaxRows& rows, bool first_chunk, Scratch& scratch) {
    const bool capped = shape.softcap != 0.0f;
    const __m512 factor = _mm512_set1_ps((capped ? 1.0f : shape.scaling) * log2_e);
    __m512 largest[2];
    for (auto& vector : largest) vector = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    for (std::int64_t block = 0; block < count; ++block) {
        if (capped) softcap_block(scratch.scores + block * 1024, shape.scaling, shape.softcap);
        if (mask.whole(blocks[block], last_position)) {
            block_maxima<true, halves>(scratch.scores, block, blocks[block], mask, largest);
        } else {
            block_maxima<false, halves>(scratch.scores, block, blocks[block], mask, largest);
        }
    }
    for (int half = 0; half < halves; ++half) {
        __m512 fall;
        const __mmask16 raised = raise_maxima(rows.max[half], largest[half], factor, fall);
        if (first_chunk || raised == 0) continue;
        const __m512 shrink = coarse_exp2_16(fall);
        rows.sum[half] = _mm512_mask_mul_ps(rows.sum[half], raised, rows.sum[half], shrink);
        for (std::int64_t tile = half; tile < 4 * depth; tile += 2) {
            for (int i = 0; i < 256; i += 16) {
                float* out = scratch.out + tile * 256 + i;
                const __m512 value = _mm512_load_ps(out);
                _mm512_store_ps(out, _mm512_mask_mul_ps(value, raised, value, shrink));
            }
        }
    }
    for (std::int64_t block = 0; block < count; ++block) {
        std::uint8_t* tiles = scratch.probabilities + 2 * block * tile_bytes;
        if (mask.whole(blocks[block], last_position)) {
            block_probabilities<true, halves>(scratch.scores, block, blocks[block], mask, factor, rows, tiles);
        } else {
            block_probabilities<false, halves>(scratch.scores, block, blocks[block], mask, factor, rows, tiles);
        }
    }
}

// `halves` is 1 where a row block has at most 16 rows, as one of a short answer has: its second half is left out.
template <class Products, int halves>
INSTSEL_AMX_BF16 SoftmaxRows walk_path(const PackedHeads& packed, std::int64_t head, const AttentionShape& shape,
                                       const BlockStart& start, const std::vector<PathBlock>& path,
                                       std::int64_t siblings, Unseen unseen, Scratch& scratch) {
    SoftmaxRows softmax = empty_softmax();
    // Chunks end where they would end for one sibling alone, so that its sums are the same bits in any company.
    const std::int64_t alone = std::int64_t(path.size()) - (siblings - 1);
    for (std::int64_t first = 0; first < alone; first += chunk_blocks) {
        const PathBlock* blocks = path.data() + first;
        const std::int64_t count = first + chunk_blocks < alone ? chunk_blocks : std::int64_t(path.size()) - first;
        for (std::int64_t block = 0; block < count; ++block) {
            const ConsecutiveTiles keys{packed.keys(head, blocks[block].index)};
            Products::template multiply<halves, Streamed::none>(keys, scratch.query, packed.depth, false,
                                                       scratch.scores + block * 1024, NothingBetween{});
        }
        softmax_chunk<halves>(blocks, count, start.mask, start.last_position, shape, packed.depth, softmax, first == 0,
                              scratch);
        if (unseen == Unseen::times_zero) {
            add_values<Products, halves>(packed, head, blocks, count, first == 0, scratch);
            continue;
        }
        for (std::int64_t block = 0; block < count; ++block) {
            add_seen_values<Products, halves>(packed, head, blocks[block], start.mask,
                                              scratch.probabilities + 2 * block * tile_bytes, first + block > 0,
                                              scratch.out);
        }
    }
    return softmax;
}

using Tensors = AttentionTensors<std::uint16_t>;

template <class Products>
INSTSEL_AMX_BF16 void attend(const Tensors& tensors, const PackedHeads& packed, const TreeLayout& layout,
                             const AttentionShape& shape, const RowBlock& work, std::vector<PathBlock>& path,
                             Scratch& scratch) {
    const BlockStart start = start_block(layout, shape, work, tensors.query.heads / tensors.key.heads, path);
    pack_queries(tensors.query, start.rows, shape.head_size, scratch.query);
    const auto walk = start.rows.count <= 16 ? walk_path<Products, 1> : walk_path<Products, 2>;
    for (const Unseen unseen : {Unseen::times_zero, Unseen::left_out}) {
        SoftmaxRows softmax = walk(packed, work.key_head, shape, start, path, work.siblings, unseen, scratch);
        if (shape.sinks != nullptr) add_sinks(shape.sinks, start.rows, softmax);
        if (store_rows(tensors.out, start.rows, shape.head_size, softmax.sum, scratch.out)) break;
    }
}

template <class Products>
INSTSEL_AMX_BF16 void attend_all(const Tensors& tensors, const TreeLayout& layout, const AttentionShape& shape,
                                 std::uint8_t* workspace, int threads) {
    const HeadsView<const std::uint16_t>& key = tensors.key;
    const std::vector<RowBlock> work = row_blocks(layout, tensors.query.heads / key.heads, key.heads,
                                                  shape.window == 0 ? most_siblings : 1);  // a window ends within a path
    std::vector<std::vector<PathBlock>> paths = path_memory(layout, most_siblings, threads);
    const PackedHeads packed{workspace, layout.blocks(), depth_tiles(shape.head_size)};
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic, 1)
        for (std::int64_t range = 0; range < layout.ranges; ++range) {
            for (std::int64_t head = 0; head < key.heads; ++head) {
                for (std::int64_t first = layout.range_start[range]; first < layout.range_stop[range];
                     first += key_block) {
                    const std::int64_t block =
                        layout.range_block[range] + (first - layout.range_start[range]) / key_block;
                    pack_block(key, tensors.value, head, first, std::min(key_block, layout.range_stop[range] - first),
                               shape.head_size, packed.keys(head, block), packed.values(head, block));
                }
            }
        }
        Products::begin();
        Scratch scratch;
        std::vector<PathBlock> path = std::move(paths[std::size_t(thread_number())]);
#pragma omp for schedule(dynamic, 4)
        for (std::int64_t item = 0; item < std::int64_t(work.size()); ++item) {
            attend<Products>(tensors, packed, layout, shape, work[std::size_t(item)], path, scratch);
        }
        Products::end();
    }
}

}  // namespace

std::int64_t bfloat16_tree_attention_workspace(std::int64_t blocks, std::int64_t key_heads, std::int64_t head_size) {
    return blocks * key_heads * 4 * depth_tiles(head_size) * tile_bytes;
}

void bfloat16_tree_attention(const Tensors& tensors, const TreeLayout& layout, const AttentionShape& shape,
                             std::uint8_t* workspace, int threads, InstructionSet instructions) {
    if (instructions < InstructionSet::avx512_bf16) throw std::invalid_argument(no_bfloat16_products);
    if (shape.head_size > largest_head) throw std::invalid_argument("query: expected a head size up to 256");
    const auto run = instructions == InstructionSet::amx ? attend_all<AmxProducts> : attend_all<DotProducts>;
    run(tensors, layout, shape, workspace, threads);
}

#else

std::int64_t bfloat16_tree_attention_workspace(std::int64_t, std::int64_t, std::int64_t) { return 0; }

void bfloat16_tree_attention(const AttentionTensors<std::uint16_t>&, const TreeLayout&, const AttentionShape&,
                             std::uint8_t*, int, InstructionSet) {
    throw std::invalid_argument(no_bfloat16_products);
}

#endif

}  // namespace instsel
