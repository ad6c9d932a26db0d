#include "binding/attention_binding.h"

#include <algorithm>
#include <limits>

#include "attention/bfloat16_tree_attention.h"
#include "attention/float_tree_attention.h"
#include "binding/arrays.h"

namespace instsel {
namespace {

// So that the sizes that follow from a layout do not overflow.
constexpr std::int64_t largest_heads = 1 << 16;
constexpr std::int64_t largest_count = std::numeric_limits<std::int32_t>::max();

template <class Element>
HeadsView<Element> heads_of(const std::string& name, const py::array& array, py::ssize_t head_size) {
    const ElementType wanted = sizeof(Element) == 4 ? ElementType::float32 : ElementType::bfloat16;
    if (element_type(name, array) != wanted) {
        refuse(name, wanted == ElementType::float32 ? "float32" : "uint16 (the bits of bfloat16)");
    }
    if (array.ndim() != 3 || array.shape(2) != head_size) refuse(name, "shape [tokens, heads, head size]");
    if (array.shape(1) > largest_heads) refuse(name, "at most " + std::to_string(largest_heads) + " heads");
    if (array.size() == 0) return {nullptr, array.shape(0), array.shape(1), 0, 0};
    check_alignment(name, array);
    const py::ssize_t size = array.itemsize();
    if (array.shape(2) > 1 && array.strides(2) != size) refuse(name, "contiguous heads");
    std::int64_t strides[2];
    for (int axis = 0; axis < 2; ++axis) {
        // The stride of a single token or head may be any number.
        const py::ssize_t stride = array.shape(axis) > 1 ? array.strides(axis) : 0;
        if (stride < 0 || stride % size != 0) refuse(name, "strides of whole elements");
        strides[axis] = stride / size;
    }
    return {static_cast<Element*>(const_cast<void*>(array.data())), array.shape(0), array.shape(1), strides[0],
            strides[1]};
}

void check_offsets(const std::string& name, const std::int32_t* offsets, std::int64_t count, std::int64_t last) {
    for (std::int64_t i = 0; i < count; ++i) {
        if (offsets[i + 1] < offsets[i]) refuse(name, "non-decreasing offsets");
    }
    if (offsets[0] != 0 || offsets[count] != last) refuse(name, "offsets from 0 to " + std::to_string(last));
}

// The plan's arrays, all int32, checked so that every key, block and query that they name exists.
TreeLayout layout_of(const py::array& queries, const py::array& start, const py::array& stop, const py::array& block,
                     const py::array& paths, const py::array& path_ranges, std::int64_t tokens, std::int64_t keys) {
    TreeLayout layout{};
    layout.query_offsets = vector_of<std::int32_t>("query_offsets", queries, -1, false);
    layout.nodes = queries.shape(0) - 1;
    layout.ranges = start.ndim() == 1 ? start.shape(0) : -1;
    layout.range_start = vector_of<std::int32_t>("range_start", start, layout.ranges, false);
    layout.range_stop = vector_of<std::int32_t>("range_stop", stop, layout.ranges, false);
    layout.range_block = vector_of<std::int32_t>("range_block", block, layout.ranges + 1, false);
    layout.path_offsets = vector_of<std::int32_t>("path_offsets", paths, layout.nodes + 1, false);
    layout.path_ranges = vector_of<std::int32_t>("path_ranges", path_ranges, -1, false);
    if (layout.nodes < 0) refuse("query_offsets", "at least one entry");
    check_offsets("query_offsets", layout.query_offsets, layout.nodes, tokens);
    check_offsets("path_offsets", layout.path_offsets, layout.nodes, path_ranges.shape(0));
    for (std::int64_t range = 0; range < layout.ranges; ++range) {
        const std::int64_t length = std::int64_t(layout.range_stop[range]) - layout.range_start[range];
        if (layout.range_start[range] < 0 || length < 0 || layout.range_stop[range] > keys) {
            refuse("range_start", "ranges within the keys");
        }
        const std::int64_t blocks = std::int64_t(layout.range_block[range + 1]) - layout.range_block[range];
        if (blocks != (length + key_block - 1) / key_block) refuse("range_block", "a block per 32 keys");
    }
    if (layout.range_block[0] != 0) refuse("range_block", "offsets from 0");
    for (std::int64_t node = 0; node < layout.nodes; ++node) {
        const std::int64_t rows = layout.query_offsets[node + 1] - layout.query_offsets[node];
        if (layout.path_offsets[node + 1] == layout.path_offsets[node]) refuse("path_offsets", "a range per node");
        for (std::int64_t i = layout.path_offsets[node]; i < layout.path_offsets[node + 1]; ++i) {
            const std::int32_t range = layout.path_ranges[i];
            if (range < 0 || range >= layout.ranges) refuse("path_ranges", "indices of ranges");
            const bool own = i + 1 == layout.path_offsets[node + 1];
            if (own && layout.range_stop[range] - layout.range_start[range] != rows) {
                refuse("path_ranges", "a last range with a key per query of the node");
            }
        }
    }
    return layout;
}

template <class Element>
AttentionTensors<Element> tensors_of(const py::array& query, const py::array& key, const py::array& value,
                                     const py::array& out) {
    const py::ssize_t head_size = query.ndim() == 3 ? query.shape(2) : 0;
    if (head_size < 1 || head_size > 256) refuse("query", "a head size from 1 to 256");
    const AttentionTensors<Element> tensors{
        heads_of<const Element>("query", query, head_size), heads_of<const Element>("key", key, head_size),
        heads_of<const Element>("value", value, head_size), heads_of<Element>("out", out, head_size)};
    if (!out.writeable() || tensors.out.tokens != tensors.query.tokens || tensors.out.heads != tensors.query.heads) {
        refuse("out", "a writeable array of the shape of query");
    }
    if (tensors.value.tokens != tensors.key.tokens || tensors.value.heads != tensors.key.heads) {
        refuse("value", "the shape of key");
    }
    if (tensors.key.heads == 0 || tensors.query.heads % tensors.key.heads != 0) {
        refuse("key", "a number of heads that divides query's");
    }
    if (tensors.query.tokens * (tensors.query.heads / tensors.key.heads) > largest_count) {
        refuse("query", "fewer than 2^31 pairs of a token and a head of a group");
    }
    return tensors;
}

std::int64_t window_of(std::int64_t window) {
    if (window < 0) refuse("window", "0 (none) or more, got " + std::to_string(window));
    return std::min(window, std::int64_t(1) << 40);  // longer than any path, and far from overflow
}

std::int64_t workspace_of(std::int64_t blocks, std::int64_t key_heads, std::int64_t head_size) {
    if (blocks < 0 || blocks > largest_count) refuse("blocks", "0 to 2^31 - 1");
    if (key_heads < 0 || key_heads > largest_heads) refuse("key_heads", "0 to " + std::to_string(largest_heads));
    if (head_size < 0 || head_size > 256) refuse("head_size", "0 to 256");
    return bfloat16_tree_attention_workspace(blocks, key_heads, head_size);
}

void bind_bfloat16(const py::array& query, const py::array& key, const py::array& value, const py::array& out,
                   const py::array& query_offsets, const py::array& range_start, const py::array& range_stop,
                   const py::array& range_block, const py::array& path_offsets, const py::array& path_ranges,
                   float scaling, float softcap, std::int64_t window, const py::object& sinks, int threads,
                   const py::array& workspace, const std::string& instruction_set) {
    const InstructionSet instructions = instructions_of(instruction_set, threads);
    const auto tensors = tensors_of<std::uint16_t>(query, key, value, out);
    const TreeLayout layout = layout_of(query_offsets, range_start, range_stop, range_block, path_offsets,
                                        path_ranges, tensors.query.tokens, tensors.key.tokens);
    std::uint8_t* space = vector_of<std::uint8_t>("workspace", workspace, -1, true);
    const std::int64_t needed = workspace_of(layout.blocks(), tensors.key.heads, query.shape(2));
    const bool aligned = needed == 0 || reinterpret_cast<std::uintptr_t>(space) % 64 == 0;
    if (workspace.shape(0) < needed || !aligned) {
        refuse("workspace", std::to_string(needed) + " bytes aligned to 64");
    }
    const AttentionShape shape{query.shape(2), scaling, softcap, window_of(window),
                               optional_vector<float>("sinks", sinks, tensors.query.heads)};
    check_apart({{"out", out}, {"workspace", workspace}},
                {{"query", query}, {"key", key}, {"value", value}, {"query_offsets", query_offsets},
                 {"range_start", range_start}, {"range_stop", range_stop}, {"range_block", range_block},
                 {"path_offsets", path_offsets}, {"path_ranges", path_ranges}, {"sinks", sinks}});
    py::gil_scoped_release release;
    bfloat16_tree_attention(tensors, layout, shape, space, threads, instructions);
}

void bind_float(const py::array& query, const py::array& key, const py::array& value, const py::array& out,
                const py::array& query_offsets, const py::array& range_start, const py::array& range_stop,
                const py::array& range_block, const py::array& path_offsets, const py::array& path_ranges,
                float scaling, float softcap, std::int64_t window, const py::object& sinks, int threads,
                const std::string& instruction_set) {
    const InstructionSet instructions = instructions_of(instruction_set, threads);
    const auto tensors = tensors_of<float>(query, key, value, out);
    const TreeLayout layout = layout_of(query_offsets, range_start, range_stop, range_block, path_offsets,
                                        path_ranges, tensors.query.tokens, tensors.key.tokens);
    const AttentionShape shape{query.shape(2), scaling, softcap, window_of(window),
                               optional_vector<float>("sinks", sinks, tensors.query.heads)};
    check_apart({{"out", out}},
                {{"query", query}, {"key", key}, {"value", value}, {"query_offsets", query_offsets},
                 {"range_start", range_start}, {"range_stop", range_stop}, {"range_block", range_block},
                 {"path_offsets", path_offsets}, {"path_ranges", path_ranges}, {"sinks", sinks}});
    py::gil_scoped_release release;
    float_tree_attention(tensors, layout, shape, threads, instructions);
}

}  // namespace

void bind_tree_attention(py::module_& m) {
    using py::arg;
    m.def("bfloat16_tree_attention_workspace", &workspace_of, arg("blocks"), arg("key_heads"), arg("head_size"));
    m.def("bfloat16_tree_attention", &bind_bfloat16, arg("query"), arg("key"), arg("value"), arg("out"),
          arg("query_offsets"), arg("range_start"), arg("range_stop"), arg("range_block"), arg("path_offsets"),
          arg("path_ranges"), arg("scaling"), arg("softcap"), arg("window"), arg("sinks"), arg("threads"),
          arg("workspace"), arg("instruction_set"));
    m.def("float_tree_attention", &bind_float, arg("query"), arg("key"), arg("value"), arg("out"),
          arg("query_offsets"), arg("range_start"), arg("range_stop"), arg("range_block"), arg("path_offsets"),
          arg("path_ranges"), arg("scaling"), arg("softcap"), arg("window"), arg("sinks"), arg("threads"),
          arg("instruction_set"));
}

}  // namespace instsel
