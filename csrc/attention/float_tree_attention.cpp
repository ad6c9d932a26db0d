#include "attention/float_tree_attention.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>
#include <vector>

#include "attention/attention_lanes.h"
#include "simd/exponential.h"
#include "simd/threads.h"
#include "simd/vectors.h"

namespace instsel {
namespace {

// What one row block needs; on the stack of its thread. Rows of queries lie side by side, as the lanes of vectors.
struct alignas(64) Scratch {
    float query[largest_head * rows_at_once];               // [head][32 rows]
    float scores[chunk_blocks * key_block * rows_at_once];  // [key][32 rows], then probabilities
    float out[largest_head * rows_at_once];                 // [head][32 rows]
};

using Tensors = AttentionTensors<float>;

// Maxima and sums of some rows, as vectors.
template <int lanes, int rows>
struct Softmax {
    using Floats = typename Vector<lanes>::Floats;
    using Ints = typename Vector<lanes>::Ints;
    static constexpr int vectors = rows / lanes;

    Floats max[vectors];  // of the scaled scores so far, in units of log2
    Floats sum[vectors];  // of the probabilities, relative to it

    INSTSEL_INLINE Softmax() {
        for (int i = 0; i < vectors; ++i) {
            max[i] = Floats{} + std::numeric_limits<float>::lowest();
            sum[i] = Floats{};
        }
    }
};

// Scores that a row does not see become -inf: as such they raise no maximum, and are told from all others afterwards.
template <int rows>
INSTSEL_INLINE void hide_unseen(float* scores, const PathBlock& block, const RowMask& mask) {
    constexpr float hidden = -std::numeric_limits<float>::infinity();
    for (int key = 0; key < block.keys; ++key, scores += rows_at_once) {
        const auto from = std::int32_t(mask.row_at(block.position + key));
        const auto behind = std::int32_t(mask.row_behind(block.position + key));
#pragma omp simd
        for (std::int32_t row = 0; row < rows; ++row) scores[row] = (row < from) | (row >= behind) ? hidden : scores[row];
    }
}

// Of several running maxima none has to wait for the one before.
template <int lanes, int rows>
INSTSEL_INLINE void find_largest(const float* scores, int keys, typename Vector<lanes>::Floats* largest) {
    using Floats = typename Vector<lanes>::Floats;
    constexpr int chains = lanes / 4;
    for (int i = 0; i < rows / lanes; ++i) {
        Floats running[chains];
        for (auto& maxima : running) maxima = largest[i];
        for (int key = 0; key < keys; key += chains) {
            for (int chain = 0; chain < chains; ++chain) {
                Floats z;
                Vector<lanes>::load(scores + rows_at_once * std::min(key + chain, keys - 1) + lanes * i, z);
                running[chain] = z > running[chain] ? z : running[chain];
            }
        }
        for (const Floats& maxima : running) largest[i] = maxima > largest[i] ? maxima : largest[i];
    }
}

// Scores become probabilities relative to the maxima; `whole` says that none of them is hidden.
template <int lanes, int rows, bool whole>
INSTSEL_INLINE void find_probabilities(float* scores, int keys, float factor, Softmax<lanes, rows>& softmax) {
    using Floats = typename Vector<lanes>::Floats;
    const Floats hidden = Floats{} - std::numeric_limits<float>::infinity();
    for (int key = 0; key < keys; ++key, scores += rows_at_once) {
        for (int i = 0; i < rows / lanes; ++i) {
            Floats z, p;
            Vector<lanes>::load(scores + lanes * i, z);
            Vector<lanes>::exp2(z * factor - softmax.max[i], p);
            if (!whole) p = z == hidden ? Floats{} : p;
            softmax.sum[i] += p;
            Vector<lanes>::store(p, scores + lanes * i);
        }
    }
}

// Raises the maxima to the largest scores of a chunk, and lowers what was added before by as much.
template <int lanes, int rows>
INSTSEL_INLINE void raise_maxima(const typename Vector<lanes>::Floats* largest, float factor, std::int64_t head_size,
                                 Softmax<lanes, rows>& softmax, float* out) {
    using Floats = typename Vector<lanes>::Floats;
    for (int i = 0; i < rows / lanes; ++i) {
        // A row that sees nothing in this chunk has no largest score, and keeps its finite maximum.
        const Floats before = softmax.max[i], scaled = largest[i] * factor;
        softmax.max[i] = scaled > before ? scaled : before;
        Floats shrink;
        Vector<lanes>::exp2(before - softmax.max[i], shrink);
        softmax.sum[i] *= shrink;
        for (std::int64_t d = 0; d < head_size; ++d) {
            Floats value;
            Vector<lanes>::load(out + rows_at_once * d + lanes * i, value);
            Vector<lanes>::store(value * shrink, out + rows_at_once * d + lanes * i);
        }
    }
}

// Scores of a chunk into probabilities relative to the running maximum; what was added before is scaled to it.
template <int lanes, int rows>
INSTSEL_INLINE void softmax_chunk(const PathBlock* blocks, std::int64_t count, const BlockStart& start,
                                  const AttentionShape& shape, bool first_chunk, Softmax<lanes, rows>& softmax,
                                  Scratch& scratch) {
    const bool capped = shape.softcap != 0.0f;
    const float factor = (capped ? 1.0f : shape.scaling) * log2_e;
    typename Vector<lanes>::Floats largest[rows / lanes];
    for (auto& vector : largest) vector = typename Vector<lanes>::Floats{} - std::numeric_limits<float>::infinity();
    for (std::int64_t i = 0; i < count; ++i) {
        float* scores = scratch.scores + i * key_block * rows_at_once;
        if (capped) {
            const std::int64_t numbers = blocks[i].keys * rows_at_once;
#pragma omp simd
            for (std::int64_t j = 0; j < numbers; ++j) {
                scores[j] = shape.softcap * tanh_float(scores[j] * shape.scaling / shape.softcap);
            }
        }
        if (!start.mask.whole(blocks[i], start.last_position)) {
            hide_unseen<rows>(scores, blocks[i], start.mask);
        }
        find_largest<lanes, rows>(scores, blocks[i].keys, largest);
    }
    raise_maxima<lanes, rows>(largest, factor, first_chunk ? 0 : shape.head_size, softmax, scratch.out);
    for (std::int64_t i = 0; i < count; ++i) {
        float* scores = scratch.scores + i * key_block * rows_at_once;
        if (start.mask.whole(blocks[i], start.last_position)) {
            find_probabilities<lanes, rows, true>(scores, blocks[i].keys, factor, softmax);
        } else {
            find_probabilities<lanes, rows, false>(scores, blocks[i].keys, factor, softmax);
        }
    }
}

// Whether a block's keys, and its scores, lie right behind those of another.
inline bool follows(const PathBlock& block, const PathBlock& other) {
    return other.keys == key_block && block.first_key == other.first_key + key_block;
}

// out += values^T probabilities of one block, without the keys that a row does not see; in the order of `multiply`.
template <int rows>
INSTSEL_INLINE void add_seen_values(const HeadsView<const float>& value, std::int64_t head, const PathBlock& block,
                                    const RowMask& mask, std::int64_t head_size, const float* probabilities,
                                    float* out) {
    for (int key = 0; key < block.keys; ++key, probabilities += rows_at_once) {
        const float* values = value.at(block.first_key + key, head);
        const auto from = std::int32_t(mask.row_at(block.position + key));
        const auto behind = std::int32_t(mask.row_behind(block.position + key));
        for (std::int64_t d = 0; d < head_size; ++d) {
            float* sums = out + rows_at_once * d;
#pragma omp simd
            for (std::int32_t row = 0; row < rows; ++row) {
                const float sum = sums[row] + values[d] * probabilities[row];
                sums[row] = (row < from) | (row >= behind) ? sums[row] : sum;
            }
        }
    }
}

// The sinks' shares of the softmax, which add no value; one that leaves nothing to the scores is infinite.
template <int lanes, int rows>
INSTSEL_INLINE void add_sinks(const float* sinks, const RowRange& range, Softmax<lanes, rows>& softmax) {
    using Floats = typename Vector<lanes>::Floats;
    alignas(64) float of_rows[rows_at_once];
    find_sinks(sinks, range, of_rows);
    for (int i = 0; i < rows / lanes; ++i) {
        Floats sink, share;
        Vector<lanes>::load(of_rows + lanes * i, sink);
        const Floats lead = sink - softmax.max[i], largest = Floats{} + 126.0f;
        Vector<lanes>::exp2(lead > largest ? largest : lead, share);
        softmax.sum[i] += lead > largest ? Floats{} + std::numeric_limits<float>::infinity() : share;
    }
}

// Divides the sums of values by those of probabilities; whether those of the first `count` rows are finite.
template <int lanes, int rows>
INSTSEL_INLINE bool divide_sums(const Softmax<lanes, rows>& softmax, std::int64_t head_size, std::int64_t count,
                                float* out) {
    using Ints = typename Vector<lanes>::Ints;
    constexpr std::int32_t not_finite = 0x7f800000;  // the exponent of infinities and NaN
    std::int32_t exponents[rows];
    for (int i = 0; i < rows / lanes; ++i) {
        const typename Vector<lanes>::Floats factor = 1.0f / softmax.sum[i];
        Ints largest{};
        for (std::int64_t d = 0; d < head_size; ++d) {
            typename Vector<lanes>::Floats value;
            Vector<lanes>::load(out + rows_at_once * d + lanes * i, value);
            value *= factor;
            const Ints exponent = (Ints)value & not_finite;
            largest = exponent > largest ? exponent : largest;
            Vector<lanes>::store(value, out + rows_at_once * d + lanes * i);
        }
        std::memcpy(exponents + lanes * i, &largest, sizeof(largest));
    }
    return *std::max_element(exponents, exponents + count) != not_finite;
}

// Whether the results are finite. `rows` is 16 where a row block has no more, as one of a short answer has.
template <int lanes, int rows>
INSTSEL_INLINE bool walk_path(const Tensors& tensors, const AttentionShape& shape, std::int64_t head,
                              const BlockStart& start, const std::vector<PathBlock>& path, Unseen unseen,
                              Scratch& scratch) {
    Softmax<lanes, rows> softmax;
    const std::int64_t total = std::int64_t(path.size());
    for (std::int64_t first = 0; first < total; first += chunk_blocks) {
        const PathBlock* blocks = path.data() + first;
        const std::int64_t count = std::min(chunk_blocks, total - first);
        for (std::int64_t i = 0; i < count; ++i) {
            multiply<lanes, rows>(tensors.key.at(blocks[i].first_key, head), blocks[i].keys,
                                  tensors.key.token_stride, 1, shape.head_size, scratch.query,
                                  scratch.scores + i * key_block * rows_at_once, Sums::replaced);
        }
        softmax_chunk<lanes, rows>(blocks, count, start, shape, first == 0, softmax, scratch);
        if (unseen == Unseen::left_out) {
            if (first == 0) std::fill_n(scratch.out, rows_at_once * shape.head_size, 0.0f);
            for (std::int64_t i = 0; i < count; ++i) {
                add_seen_values<rows>(tensors.value, head, blocks[i], start.mask, shape.head_size,
                                      scratch.scores + i * key_block * rows_at_once, scratch.out);
            }
            continue;
        }
        // The values of blocks that lie side by side are added up at once: sums stay in the registers all the while,
        // and are the same as if they had been put down after each block.
        for (std::int64_t i = 0, behind; i < count; i = behind) {
            std::int64_t keys = blocks[i].keys;
            for (behind = i + 1; behind < count && follows(blocks[behind], blocks[behind - 1]); ++behind) {
                keys += blocks[behind].keys;
            }
            multiply<lanes, rows>(tensors.value.at(blocks[i].first_key, head), shape.head_size, 1,
                                  tensors.value.token_stride, keys, scratch.scores + i * key_block * rows_at_once,
                                  scratch.out, first + i > 0 ? Sums::continued : Sums::replaced);
        }
    }
    if (shape.sinks != nullptr) add_sinks<lanes, rows>(shape.sinks, start.rows, softmax);
    return divide_sums(softmax, shape.head_size, start.rows.count, scratch.out);
}

template <int lanes>
INSTSEL_INLINE void attend(const Tensors& tensors, const AttentionShape& shape, std::int64_t head,
                           const BlockStart& start, const std::vector<PathBlock>& path, Scratch& scratch) {
    const bool half = start.rows.count <= 16;
    load_queries(tensors.query, start.rows, half ? 16 : 32, shape.head_size, scratch.query);
    for (const Unseen unseen : {Unseen::times_zero, Unseen::left_out}) {
        const bool finite = half ? walk_path<lanes, 16>(tensors, shape, head, start, path, unseen, scratch)
                                 : walk_path<lanes, 32>(tensors, shape, head, start, path, unseen, scratch);
        if (finite) break;
    }
    store_rows(tensors.out, start.rows, shape.head_size, scratch.out);
}

INSTSEL_VARIANTS(, attend,
                 (const Tensors& tensors, const AttentionShape& shape, std::int64_t head, const BlockStart& start,
                  const std::vector<PathBlock>& path, Scratch& scratch),
                 attend<lanes>(tensors, shape, head, start, path, scratch))

}  // namespace

void float_tree_attention(const Tensors& tensors, const TreeLayout& layout, const AttentionShape& shape, int threads,
                          InstructionSet instructions) {
    if (shape.head_size > largest_head) throw std::invalid_argument("query: expected a head size up to 256");
    const auto run = INSTSEL_PICK(attend, instructions);
    const std::int64_t group = tensors.query.heads / tensors.key.heads;
    const std::vector<RowBlock> work = row_blocks(layout, group, tensors.key.heads, 1);
    std::vector<std::vector<PathBlock>> paths = path_memory(layout, 1, threads);
#pragma omp parallel num_threads(threads)
    {
        Scratch scratch;
        std::vector<PathBlock> path = std::move(paths[std::size_t(thread_number())]);
#pragma omp for schedule(dynamic, 4)
        for (std::int64_t item = 0; item < std::int64_t(work.size()); ++item) {
            const RowBlock& block = work[std::size_t(item)];
            const BlockStart start = start_block(layout, shape, block, group, path);
            // What the block ends with, and the next begins with, is on its way while the products run.
            fetch_rows(tensors.out, start.rows, shape.head_size);
            if (item + 1 < std::int64_t(work.size())) {
                fetch_rows(tensors.query, row_range(layout, work[std::size_t(item + 1)], group), shape.head_size);
            }
            run(tensors, shape, block.key_head, start, path, scratch);
        }
    }
}

}  // namespace instsel
