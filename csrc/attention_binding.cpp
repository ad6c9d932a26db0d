#include "attention_binding.h"

#include "amx_tree_attention.h"
#include "arrays.h"
#include "float_tree_attention.h"

namespace instsel {
namespace {

template <class Element>
HeadsView<Element> heads_of(const std::string& name, const py::array& array, py::ssize_t head_size) {
    const ElementType wanted = sizeof(Element) == 4 ? ElementType::float32 : ElementType::bfloat16;
    if (element_type(name, array) != wanted) {
        refuse(name, wanted == ElementType::float32 ? "float32" : "uint16 (the bits of bfloat16)");
    }
    if (array.ndim() != 3 || array.shape(2) != head_size) refuse(name, "shape [tokens, heads, head size]");
    if (array.size() == 0) return {nullptr, array.shape(0), array.shape(1), 0, 0};
    const py::ssize_t size = array.itemsize();
    if (array.shape(2) > 1 && array.strides(2) != size) refuse(name, "contiguous heads");
    for (int axis = 0; axis < 2; ++axis) {
        if (array.strides(axis) < 0 || array.strides(axis) % size != 0) refuse(name, "strides of whole elements");
    }
    return {static_cast<Element*>(const_cast<void*>(array.data())), array.shape(0), array.shape(1),
            array.strides(0) / size, array.strides(1) / size};
}

template <class Element>
HeadsView<const Element> constant(const HeadsView<Element>& view) {
    return {view.data, view.tokens, view.heads, view.token_stride, view.head_stride};
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
struct AttentionTensors {
    HeadsView<Element> query;
    HeadsView<Element> key;
    HeadsView<Element> value;
    HeadsView<Element> out;
    std::int64_t head_size;
};

template <class Element>
AttentionTensors<Element> tensors_of(const py::array& query, const py::array& key, const py::array& value,
                                     const py::array& out) {
    const py::ssize_t head_size = query.ndim() == 3 ? query.shape(2) : 0;
    if (head_size < 1 || head_size > 256) refuse("query", "a head size from 1 to 256");
    const AttentionTensors<Element> tensors{
        heads_of<Element>("query", query, head_size), heads_of<Element>("key", key, head_size),
        heads_of<Element>("value", value, head_size), heads_of<Element>("out", out, head_size), head_size};
    if (!out.writeable() || tensors.out.tokens != tensors.query.tokens || tensors.out.heads != tensors.query.heads) {
        refuse("out", "a writeable array of the shape of query");
    }
    if (tensors.value.tokens != tensors.key.tokens || tensors.value.heads != tensors.key.heads) {
        refuse("value", "the shape of key");
    }
    if (tensors.key.heads == 0 || tensors.query.heads % tensors.key.heads != 0) {
        refuse("key", "a number of heads that divides query's");
    }
    return tensors;
}

void bind_amx(const py::array& query, const py::array& key, const py::array& value, const py::array& out,
              const py::array& query_offsets, const py::array& range_start, const py::array& range_stop,
              const py::array& range_block, const py::array& path_offsets, const py::array& path_ranges,
              float scaling, float softcap, std::int64_t window, int threads, const py::array& workspace) {
    const auto tensors = tensors_of<std::uint16_t>(query, key, value, out);
    const TreeLayout layout = layout_of(query_offsets, range_start, range_stop, range_block, path_offsets,
                                        path_ranges, tensors.query.tokens, tensors.key.tokens);
    std::uint8_t* space = vector_of<std::uint8_t>("workspace", workspace, -1, true);
    const std::int64_t needed = amx_tree_attention_workspace(layout.blocks(), tensors.key.heads, tensors.head_size);
    if (workspace.shape(0) < needed || reinterpret_cast<std::uintptr_t>(space) % 64 != 0) {
        refuse("workspace", std::to_string(needed) + " bytes aligned to 64");
    }
    py::gil_scoped_release release;
    amx_tree_attention(constant(tensors.query), constant(tensors.key), constant(tensors.value), tensors.out, layout,
                       {tensors.head_size, scaling, softcap, window}, space, threads);
}

void bind_float(const py::array& query, const py::array& key, const py::array& value, const py::array& out,
                const py::array& query_offsets, const py::array& range_start, const py::array& range_stop,
                const py::array& range_block, const py::array& path_offsets, const py::array& path_ranges,
                float scaling, float softcap, std::int64_t window, int threads) {
    const auto tensors = tensors_of<float>(query, key, value, out);
    const TreeLayout layout = layout_of(query_offsets, range_start, range_stop, range_block, path_offsets,
                                        path_ranges, tensors.query.tokens, tensors.key.tokens);
    py::gil_scoped_release release;
    float_tree_attention(constant(tensors.query), constant(tensors.key), constant(tensors.value), tensors.out, layout,
                         {tensors.head_size, scaling, softcap, window}, threads);
}

}  // namespace

void bind_tree_attention(py::module_& m) {
    using py::arg;
    m.def("amx_tree_attention_workspace", &amx_tree_attention_workspace, arg("blocks"), arg("key_heads"),
          arg("head_size"));
    m.def("amx_tree_attention", &bind_amx, arg("query"), arg("key"), arg("value"), arg("out"), arg("query_offsets"),
          arg("range_start"), arg("range_stop"), arg("range_block"), arg("path_offsets"), arg("path_ranges"),
          arg("scaling"), arg("softcap"), arg("window"), arg("threads"), arg("workspace"));
    m.def("has_float_tree_attention", &has_float_tree_attention);
    m.def("float_tree_attention", &bind_float, arg("query"), arg("key"), arg("value"), arg("out"),
          arg("query_offsets"), arg("range_start"), arg("range_stop"), arg("range_block"), arg("path_offsets"),
          arg("path_ranges"), arg("scaling"), arg("softcap"), arg("window"), arg("threads"));
}

}  // namespace instsel
