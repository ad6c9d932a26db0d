// Both attention kernels on small trees, against softmax in double precision over explicit paths.

#include <new>

#include "attention/bfloat16_tree_attention.h"
#include "attention/float_tree_attention.h"
#include "checks.h"

namespace instsel {
namespace {

template <class Element>
HeadsView<const Element> view_of(const std::vector<Element>& values, std::int64_t heads, std::int64_t size) {
    return {values.data(), std::int64_t(values.size()) / (heads * size), heads, heads * size, size};
}

void run_attention(const std::vector<float>& query, const std::vector<float>& key, const std::vector<float>& value,
                   std::vector<float>& out, std::int64_t heads, const TreeLayout& layout, const AttentionShape& shape,
                   InstructionSet instructions) {
    const std::int64_t size = shape.head_size;
    const auto queries = view_of(query, heads, size);
    float_tree_attention({queries, view_of(key, 1, size), view_of(value, 1, size),
                          {out.data(), queries.tokens, heads, heads * size, size}}, layout, shape, 2, instructions);
}

void run_attention(const std::vector<bfloat16>& query, const std::vector<bfloat16>& key,
                   const std::vector<bfloat16>& value, std::vector<bfloat16>& out, std::int64_t heads,
                   const TreeLayout& layout, const AttentionShape& shape,
                   InstructionSet instructions) {
    const std::int64_t size = shape.head_size;
    const auto bits = [&](const std::vector<bfloat16>& values, std::int64_t count) {
        const auto view = view_of(values, count, size);
        return HeadsView<const std::uint16_t>{reinterpret_cast<const std::uint16_t*>(view.data), view.tokens, count,
                                              view.token_stride, size};
    };
    const std::int64_t bytes = bfloat16_tree_attention_workspace(layout.blocks(), 1, size);
    auto* workspace = static_cast<std::uint8_t*>(::operator new(std::size_t(bytes), std::align_val_t(64)));
    const auto queries = bits(query, heads);
    bfloat16_tree_attention({queries, bits(key, 1), bits(value, 1),
                             {reinterpret_cast<std::uint16_t*>(out.data()), queries.tokens, heads, heads * size, size}},
                            layout, shape, workspace, 2, instructions);
    ::operator delete(workspace, std::align_val_t(64));
}

// A root and two children; the window and soft-cap cross block and chunk borders.
template <class Element>
void check_attention(std::int64_t root, std::int64_t child, std::int64_t size, float softcap, std::int64_t window,
                     InstructionSet instructions, const std::vector<float>& sinks = {}) {
    const double tolerance = sizeof(Element) == 2 ? 0.03 : 1e-5;
    const std::int64_t heads = 3, tokens = root + 2 * child;
    const auto query = random_matrix<Element>(tokens, heads * size, 1.0f);
    const auto key = random_matrix<Element>(tokens, size, 1.0f);
    const auto value = random_matrix<Element>(tokens, size, 1.0f);
    std::vector<Element> out(std::size_t(tokens * heads * size));
    const auto number = [](std::int64_t n) { return std::int32_t(n); };
    const std::vector<std::int32_t> queries{0, number(root), number(root + child), number(tokens)};
    const std::vector<std::int32_t> start{0, number(root), number(root + child)};
    const std::vector<std::int32_t> stop{number(root), number(root + child), number(tokens)};
    std::vector<std::int32_t> block{0};
    for (std::size_t i = 0; i < 3; ++i) block.push_back(block.back() + (stop[i] - start[i] + 31) / 32);
    const std::vector<std::int32_t> paths{0, 1, 3, 5}, path_ranges{0, 0, 1, 0, 2};
    const TreeLayout layout{queries.data(), start.data(), stop.data(), block.data(), paths.data(), path_ranges.data(),
                            3,              3};
    const float scaling = 1.0f / std::sqrt(float(size));
    run_attention(query, key, value, out, heads, layout, {size, scaling, softcap, window, sinks.empty() ? nullptr : sinks.data()}, instructions);
    for (std::int64_t token = 0; token < tokens; ++token) {
        std::vector<std::int64_t> path;
        const std::int64_t node = token < root ? 0 : token < root + child ? 1 : 2;
        for (std::int64_t k = 0; node > 0 && k < root; ++k) path.push_back(k);
        for (std::int64_t k = start[std::size_t(node)]; k <= token; ++k) path.push_back(k);
        if (window != 0 && std::int64_t(path.size()) > window) path.erase(path.begin(), path.end() - window);
        for (std::int64_t h = 0; h < heads; ++h) {
            std::vector<double> scores;
            for (const std::int64_t k : path) {
                double dot = 0.0;
                for (std::int64_t d = 0; d < size; ++d) {
                    dot += double(to_float(query[std::size_t((token * heads + h) * size + d)])) *
                           double(to_float(key[std::size_t(k * size + d)]));
                }
                dot *= double(scaling);
                scores.push_back(softcap == 0.0f ? dot : softcap * std::tanh(dot / softcap));
            }
            if (!sinks.empty()) scores.push_back(double(sinks[std::size_t(h)]));
            const double lse = plain_logsumexp(scores);
            for (std::int64_t d = 0; d < size; ++d) {
                double sum = 0.0;
                for (std::size_t k = 0; k < path.size(); ++k) {
                    sum += std::exp(scores[k] - lse) * double(to_float(value[std::size_t(path[k] * size + d)]));
                }
                const float got = to_float(out[std::size_t((token * heads + h) * size + d)]);
                expect(std::fabs(double(got) - sum) < tolerance, std::string("attention by ") + name_of(instructions));
            }
        }
    }
}

}  // namespace

void check_tree_attention() {
    const std::vector<float> sinks{-1000.0f, 0.5f, 300.0f};  // of three heads: far below, among and above the scores
    for (const InstructionSet instructions : instruction_sets_here()) {
        for (const std::int64_t size : {1, 8, 24, 64, 77, 96, 256}) {
            check_attention<float>(37, 9, size, 0.0f, 0, instructions);
            if (instructions < InstructionSet::avx512_bf16) continue;
            check_attention<bfloat16>(37, 9, size, 0.0f, 0, instructions);
        }
        check_attention<float>(300, 40, 64, 5.0f, 50, instructions);
        check_attention<float>(300, 40, 64, 5.0f, 50, instructions, sinks);
        check_attention<float>(37, 3, 24, 0.0f, 0, instructions, sinks);
        if (instructions < InstructionSet::avx512_bf16) continue;
        check_attention<bfloat16>(300, 40, 64, 5.0f, 50, instructions);
        check_attention<bfloat16>(300, 40, 64, 5.0f, 50, instructions, sinks);
        check_attention<bfloat16>(37, 3, 24, 0.0f, 0, instructions, sinks);
    }
}

}  // namespace instsel
