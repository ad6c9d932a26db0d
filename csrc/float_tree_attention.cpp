#include "float_tree_attention.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "attention_rows.h"
#include "exponential.h"
#include "register_product.h"

namespace instsel {
namespace {

// What one row block needs; on the stack of its thread. Rows of queries lie side by side, as the lanes of vectors.
struct alignas(64) Scratch {
    float query[largest_head * rows_at_once];               // [head][32 rows]
    float scores[chunk_blocks * key_block * rows_at_once];  // [key][32 rows], then probabilities
    float out[largest_head * rows_at_once];                 // [head][32 rows]
    float max[rows_at_once];                                // of the scaled scores so far, in units of log2
    float sum[rows_at_once];                                // of the probabilities, relative to it
};

struct Tensors {
    const HeadsView<const float>& query;
    const HeadsView<const float>& key;
    const HeadsView<const float>& value;
    const HeadsView<float>& out;
};

// The rows from..to that see a key.
struct Seen {
    std::int32_t from;
    std::int32_t to;

    Seen(const Sight& sight, bool whole, std::int64_t position)
        : from(whole ? 0 : std::int32_t(sight.row_at(position))),
          to(whole ? rows_at_once : std::int32_t(sight.row_behind(position))) {}
};

template <int rows>
INSTSEL_INLINE void softcap_scores(float* scores, std::int64_t keys, float scaling, float softcap) {
    for (std::int64_t key = 0; key < keys; ++key, scores += rows_at_once) {
#pragma omp simd
        for (int row = 0; row < rows; ++row) scores[row] = softcap * tanh_float(scores[row] * scaling / softcap);
    }
}

template <int rows>
INSTSEL_INLINE void find_largest(const float* scores, const Seen& seen, float* largest) {
#pragma omp simd
    for (int row = 0; row < rows; ++row) {
        const float z = row >= seen.from && row < seen.to ? scores[row] : -std::numeric_limits<float>::infinity();
        largest[row] = z > largest[row] ? z : largest[row];
    }
}

template <int rows>
INSTSEL_INLINE void find_probabilities(float* scores, const Seen& seen, float factor, Scratch& scratch) {
#pragma omp simd
    for (int row = 0; row < rows; ++row) {
        const float p = exp2_float(scores[row] * factor - scratch.max[row]);
        scores[row] = row >= seen.from && row < seen.to ? p : 0.0f;
        scratch.sum[row] += scores[row];
    }
}

// Raises the maxima to the largest scores of a chunk, and lowers what was added before by as much.
template <int rows>
INSTSEL_INLINE void raise_maxima(const float* largest, float factor, std::int64_t head_size, bool first_chunk,
                                 Scratch& scratch) {
    alignas(64) float shrink[rows];
    bool raised = false;
    for (int row = 0; row < rows; ++row) {
        // A finite floor: a row that sees nothing in this chunk would meet -inf - -inf.
        const float bounded = std::max(std::numeric_limits<float>::lowest(), largest[row] * factor);
        const float before = scratch.max[row];
        scratch.max[row] = bounded > before ? bounded : before;
        shrink[row] = bounded > before ? exp2_float(before - scratch.max[row]) : 1.0f;
        raised = raised || bounded > before;
    }
    if (first_chunk || !raised) return;
    for (std::int64_t d = -1; d < head_size; ++d) {
        float* values = d < 0 ? scratch.sum : scratch.out + rows_at_once * d;
#pragma omp simd
        for (int row = 0; row < rows; ++row) values[row] *= shrink[row];
    }
}

// Scores of a chunk into probabilities relative to the running maximum; what was added before is scaled to it.
template <int rows>
INSTSEL_INLINE void softmax_chunk(const PathBlock* blocks, std::int64_t count, const BlockStart& start,
                                  const AttentionShape& shape, bool first_chunk, Scratch& scratch) {
    constexpr float log2_e = 1.44269504f;
    const bool capped = shape.softcap != 0.0f;
    const float factor = (capped ? 1.0f : shape.scaling) * log2_e;
    alignas(64) float largest[rows];
    std::fill(largest, largest + rows, -std::numeric_limits<float>::infinity());
    for (std::int64_t i = 0; i < count; ++i) {
        float* scores = scratch.scores + i * key_block * rows_at_once;
        const bool whole = start.sight.whole(blocks[i], start.last_position);
        if (capped) softcap_scores<rows>(scores, blocks[i].keys, shape.scaling, shape.softcap);
        for (std::int64_t k = 0; k < blocks[i].keys; ++k) {
            find_largest<rows>(scores + k * rows_at_once, {start.sight, whole, blocks[i].position + k}, largest);
        }
    }
    raise_maxima<rows>(largest, factor, shape.head_size, first_chunk, scratch);
    for (std::int64_t i = 0; i < count; ++i) {
        float* scores = scratch.scores + i * key_block * rows_at_once;
        const bool whole = start.sight.whole(blocks[i], start.last_position);
        for (std::int64_t k = 0; k < blocks[i].keys; ++k) {
            find_probabilities<rows>(scores + k * rows_at_once, {start.sight, whole, blocks[i].position + k}, factor,
                                     scratch);
        }
    }
}

// `rows` is 16 where a row block has no more, as one of a short answer has.
template <int lanes, int rows>
INSTSEL_INLINE void walk_path(const Tensors& tensors, const AttentionShape& shape, std::int64_t head,
                              const BlockStart& start, const std::vector<PathBlock>& path, Scratch& scratch) {
    std::fill(scratch.max, scratch.max + rows_at_once, std::numeric_limits<float>::lowest());
    std::fill(scratch.sum, scratch.sum + rows_at_once, 0.0f);
    const std::int64_t total = std::int64_t(path.size());
    for (std::int64_t first = 0; first < total; first += chunk_blocks) {
        const PathBlock* blocks = path.data() + first;
        const std::int64_t count = std::min(chunk_blocks, total - first);
        for (std::int64_t i = 0; i < count; ++i) {
            multiply<lanes, rows>(tensors.key.at(blocks[i].first_key, head), blocks[i].keys, tensors.key.token_stride, 1,
                                  shape.head_size, scratch.query, scratch.scores + i * key_block * rows_at_once, false);
        }
        softmax_chunk<rows>(blocks, count, start, shape, first == 0, scratch);
        for (std::int64_t i = 0; i < count; ++i) {
            multiply<lanes, rows>(tensors.value.at(blocks[i].first_key, head), shape.head_size, 1,
                                  tensors.value.token_stride, blocks[i].keys,
                                  scratch.scores + i * key_block * rows_at_once, scratch.out, first + i > 0);
        }
    }
}

template <int lanes>
INSTSEL_INLINE void attend(const Tensors& tensors, const AttentionShape& shape, std::int64_t head,
                           const BlockStart& start, const std::vector<PathBlock>& path, Scratch& scratch) {
    const RowRange& rows = start.rows;
    std::fill(scratch.query, scratch.query + shape.head_size * rows_at_once, 0.0f);
    for (std::int64_t lane = 0; lane < rows.count; ++lane) {
        const std::int64_t row = rows.first + lane;
        const float* from = tensors.query.at(rows.token + row / rows.group, rows.head + row % rows.group);
        for (std::int64_t d = 0; d < shape.head_size; ++d) scratch.query[rows_at_once * d + lane] = from[d];
    }
    if (rows.count <= 16) {
        walk_path<lanes, 16>(tensors, shape, head, start, path, scratch);
    } else {
        walk_path<lanes, 32>(tensors, shape, head, start, path, scratch);
    }
    for (std::int64_t lane = 0; lane < rows.count; ++lane) {
        const std::int64_t row = rows.first + lane;
        float* to = tensors.out.at(rows.token + row / rows.group, rows.head + row % rows.group);
        for (std::int64_t d = 0; d < shape.head_size; ++d) {
            to[d] = scratch.out[rows_at_once * d + lane] / scratch.sum[lane];
        }
    }
}

// The one body, once per instruction set.
#define INSTSEL_ATTEND(name, lanes)                                                                                  \
    void name(const Tensors& tensors, const AttentionShape& shape, std::int64_t head, const BlockStart& start,       \
              const std::vector<PathBlock>& path, Scratch& scratch) {                                                \
        attend<lanes>(tensors, shape, head, start, path, scratch);                                                   \
    }
INSTSEL_ATTEND(plain_attend, 4)
INSTSEL_AVX2 INSTSEL_ATTEND(avx2_attend, 8)
INSTSEL_AVX512 INSTSEL_ATTEND(avx512_attend, 16)
#undef INSTSEL_ATTEND

}  // namespace

void float_tree_attention(const HeadsView<const float>& query, const HeadsView<const float>& key,
                          const HeadsView<const float>& value, const HeadsView<float>& out, const TreeLayout& layout,
                          const AttentionShape& shape, int threads, InstructionSet instructions) {
    if (shape.head_size > largest_head) throw std::invalid_argument("query: expected a head size up to 256");
    const auto run = instructions >= InstructionSet::avx512   ? avx512_attend
                     : instructions == InstructionSet::avx2 ? avx2_attend
                                                            : plain_attend;
    const Tensors tensors{query, key, value, out};
    const std::int64_t group = query.heads / key.heads;
    const std::vector<RowBlock> work = row_blocks(layout, group, key.heads, rows_at_once);
#pragma omp parallel num_threads(threads)
    {
        Scratch scratch;
        std::vector<PathBlock> path;
#pragma omp for schedule(dynamic, 4)
        for (std::int64_t item = 0; item < std::int64_t(work.size()); ++item) {
            const RowBlock& block = work[std::size_t(item)];
            const BlockStart start = start_block(layout, shape, block, group, path);
            run(tensors, shape, block.key_head, start, path, scratch);
        }
    }
}

}  // namespace instsel
