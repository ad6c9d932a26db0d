#include "recurrence/tree_convolution.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "simd/exponential.h"

namespace instsel {
namespace {

constexpr std::int64_t largest_width = 64;
constexpr std::int64_t strip = 512;          // channels that a unit of work takes
constexpr std::int64_t tokens_at_once = 64;  // and tokens

// The rows that tokens see: `width` of them up to each token, some of its own node and the others before it.
template <class Element>
struct Contexts {
    std::vector<Element> zeros;
    std::vector<const Element*> before;  // [nodes, width - 1]: the last inputs of a node's path before its first token
    std::vector<std::int64_t> node;      // of each token

    Contexts(const TreeConvolution<Element>& convolution, const PackNodes& nodes)
        : zeros(convolution.x.columns, Element{}), before(nodes.count * (convolution.width - 1)), node(nodes.tokens()) {
        const std::int64_t reach = convolution.width - 1;
        for (std::int64_t n = 0; n < nodes.count; ++n) {
            const std::int64_t parent = nodes.parents[n];
            std::fill(node.begin() + nodes.offsets[n], node.begin() + nodes.offsets[n + 1], n);
            for (std::int64_t i = 0; i < reach; ++i) {
                const std::int64_t row = (-2 - parent) * reach + i;
                before[n * reach + i] = parent == -1 ? zeros.data()
                                        : parent < 0 ? convolution.initial + row * convolution.x.columns
                                                     : last_input(convolution, nodes, parent, i);
            }
        }
    }

    // The i-th of a node's last inputs, of which there are width - 1.
    const Element* last_input(const TreeConvolution<Element>& convolution, const PackNodes& nodes, std::int64_t n,
                              std::int64_t i) const {
        return seen(convolution, nodes, n, nodes.offsets[n + 1] - (convolution.width - 1) + i);
    }

    // What stands at a token of the node, or before its first.
    const Element* seen(const TreeConvolution<Element>& convolution, const PackNodes& nodes, std::int64_t n,
                        std::int64_t token) const {
        const std::int64_t reach = convolution.width - 1, place = token - nodes.offsets[n];
        return place >= 0 ? convolution.x.data + token * convolution.x.row_stride : before[n * reach + reach + place];
    }
};

// One token's channels first..last.
template <class Element>
struct Row {
    const Element* const* inputs;  // `width` rows
    const float* taps;
    const float* bias;
    std::int64_t channels;  // of a row of taps
    std::int64_t width;
    std::int64_t first;
    std::int64_t last;
    bool silu;
    Element* out;
};

// `width` taps, whose number is known, or row.width for width 0.
template <int width, class Element>
INSTSEL_INLINE void sum_row(const Row<Element>& row, float* sums) {
    const std::int64_t count = row.last - row.first;
    const std::int64_t taps = width > 0 ? width : row.width;
    const Element* inputs[width > 0 ? width : largest_width];
    for (std::int64_t k = 0; k < taps; ++k) inputs[k] = row.inputs[k] + row.first;
    const float* weights = row.taps + row.first;
    for (std::int64_t i = 0; i < count; ++i) sums[i] = row.bias == nullptr ? 0.0f : row.bias[row.first + i];
    if (width == 0) {
        for (std::int64_t k = 0; k < taps; ++k) {
#pragma omp simd
            for (std::int64_t i = 0; i < count; ++i) sums[i] += weights[k * row.channels + i] * to_float(inputs[k][i]);
        }
        return;
    }
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) {
        float sum = sums[i];
        for (int k = 0; k < width; ++k) sum += weights[k * row.channels + i] * to_float(inputs[k][i]);
        sums[i] = sum;
    }
}

template <class Element>
INSTSEL_INLINE void convolve_row(const Row<Element>& row) {
    alignas(64) float sums[strip];
    const std::int64_t count = row.last - row.first;
    switch (row.width) {
        case 2: sum_row<2>(row, sums); break;
        case 3: sum_row<3>(row, sums); break;
        case 4: sum_row<4>(row, sums); break;
        default: sum_row<0>(row, sums);
    }
    Element* out = row.out + row.first;
    if (row.silu) {
#pragma omp simd
        for (std::int64_t i = 0; i < count; ++i) {
            const float x = sums[i];
            out[i] = from_float<Element>(x / (1.0f + exp_float(x > -80.0f ? -x : 80.0f)));
        }
    } else {
#pragma omp simd
        for (std::int64_t i = 0; i < count; ++i) out[i] = from_float<Element>(sums[i]);
    }
}

INSTSEL_VARIANTS(template <class Element>, row, (const Row<Element>& row), convolve_row(row))

template <class Element>
void fetch(const TreeConvolution<Element>& convolution, std::int64_t token, std::int64_t first, std::int64_t last) {
    const Element* in = convolution.x.data + token * convolution.x.row_stride;
    const Element* out = convolution.out + token * convolution.x.columns;
    for (std::int64_t i = first; i < last; i += 64 / std::int64_t(sizeof(Element))) {
        __builtin_prefetch(in + i);
        __builtin_prefetch(out + i, 1);
    }
}

}  // namespace

template <class Element>
void tree_convolution(const TreeConvolution<Element>& convolution, const PackNodes& nodes, int threads,
                      InstructionSet instructions) {
    const auto run = INSTSEL_PICK(row<Element>, instructions);
    const std::int64_t channels = convolution.x.columns, tokens = nodes.tokens(), width = convolution.width;
    const Contexts<Element> contexts(convolution, nodes);
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
    for (std::int64_t begin = 0; begin < tokens; begin += tokens_at_once) {
        for (std::int64_t first = 0; first < channels; first += strip) {
            const std::int64_t end = std::min(begin + tokens_at_once, tokens);
            const std::int64_t last = std::min(first + strip, channels);
            const Element* inputs[largest_width];
            for (std::int64_t token = begin; token < end; ++token) {
                // A strip of the next rows begins in other pages: no processor fetches it by itself.
                if (token + 2 < end) fetch(convolution, token + 2, first, last);
                for (std::int64_t k = 0; k < width; ++k) {
                    inputs[k] = contexts.seen(convolution, nodes, contexts.node[token], token - width + 1 + k);
                }
                run({inputs, convolution.taps, convolution.bias, channels, width, first, last, convolution.silu,
                     convolution.out + token * channels});
            }
        }
    }
    const std::size_t bytes = std::size_t(channels) * sizeof(Element);
    for (std::int64_t n = 0; n < nodes.count; ++n) {
        if (nodes.kept[n] < 0) continue;
        for (std::int64_t i = 0; i + 1 < width; ++i) {
            std::memcpy(convolution.ends + (nodes.kept[n] * (width - 1) + i) * channels,
                        contexts.last_input(convolution, nodes, n, i), bytes);
        }
    }
}

template void tree_convolution(const TreeConvolution<float>&, const PackNodes&, int, InstructionSet);
template void tree_convolution(const TreeConvolution<bfloat16>&, const PackNodes&, int, InstructionSet);

}  // namespace instsel
