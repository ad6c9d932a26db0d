#include "recurrence/recurrence_binding.h"

#include "binding/arrays.h"
#include "recurrence/tree_convolution.h"
#include "recurrence/tree_delta_rule.h"
#include "recurrence/tree_scan.h"

namespace instsel {
namespace {

// So that the sizes that follow do not overflow: of heads, rows and columns of a state, and of a convolution's reach.
constexpr std::int64_t largest_size = 1 << 20;
constexpr std::int64_t largest_width = 64;

template <class Run>
void with_recurrence_element(const std::string& name, const py::array& array, Run&& run) {
    const ElementType type = element_type(name, array);
    if (type == ElementType::float32) return run(float());
    if (type == ElementType::bfloat16) return run(bfloat16());
    refuse(name, "float32 or uint16 (the bits of bfloat16)");
}

// A matrix of a row for each token, and so many columns.
template <class Element>
Matrix<Element> rows_of(const std::string& name, const py::array& array, std::int64_t rows, std::int64_t columns) {
    const ElementType wanted = sizeof(Element) == 4 ? ElementType::float32 : ElementType::bfloat16;
    if (element_type(name, array) != wanted) refuse(name, "another element type");
    const auto matrix = matrix_of<Element>(name, array);
    if (matrix.rows != rows || matrix.columns != columns) {
        refuse(name, "shape [" + std::to_string(rows) + ", " + std::to_string(columns) + "]");
    }
    return matrix;
}

// Elements without gaps, of the shape given.
template <class Element>
Element* contiguous(const std::string& name, const py::array& array, std::initializer_list<std::int64_t> shape,
                    bool writeable) {
    const ElementType wanted = sizeof(Element) == 4 ? ElementType::float32 : ElementType::bfloat16;
    if (element_type(name, array) != wanted) refuse(name, "another element type");
    bool same = array.ndim() == py::ssize_t(shape.size());
    py::ssize_t axis = 0;
    for (const std::int64_t size : shape) same = same && array.shape(axis++) == size;
    if (!same) refuse(name, "another shape");
    check_alignment(name, array);
    if ((array.flags() & py::array::c_style) == 0) refuse(name, "a contiguous array");
    if (writeable && !array.writeable()) refuse(name, "a writeable array");
    return static_cast<Element*>(const_cast<void*>(array.data()));
}

std::int64_t size_of(const std::string& name, std::int64_t size) {
    if (size < 1 || size > largest_size) refuse(name, "1 to " + std::to_string(largest_size));
    return size;
}

// Nodes of `tokens` in all, whose parents come before them or are among `initial_count` states.
PackNodes nodes_of(const py::array& offsets, const py::array& parents, const py::array& keep, std::int64_t tokens,
                   std::int64_t initial_count) {
    PackNodes nodes{};
    nodes.parents = vector_of<std::int64_t>("parents", parents, -1, false);
    nodes.count = parents.shape(0);
    nodes.offsets = vector_of<std::int64_t>("offsets", offsets, nodes.count + 1, false);
    if (nodes.offsets[0] != 0 || nodes.offsets[nodes.count] != tokens) {
        refuse("offsets", "offsets from 0 to " + std::to_string(tokens));
    }
    for (std::int64_t n = 0; n < nodes.count; ++n) {
        if (nodes.offsets[n + 1] < nodes.offsets[n]) refuse("offsets", "non-decreasing offsets");
        if (nodes.parents[n] >= n || nodes.parents[n] < -1 - initial_count) {
            refuse("parents", "an earlier node, none or an initial state");
        }
    }
    const std::int64_t* wanted = vector_of<std::int64_t>("keep", keep, -1, false);
    nodes.kept.assign(nodes.count, -1);
    for (std::int64_t i = 0; i < keep.shape(0); ++i) {
        if (wanted[i] < 0 || wanted[i] >= nodes.count || nodes.kept[wanted[i]] >= 0) {
            refuse("keep", "different nodes");
        }
        nodes.kept[wanted[i]] = i;
    }
    return nodes;
}

std::int64_t count_of(const py::array& array) {
    if (array.ndim() < 1) refuse("initial", "at least one dimension");
    return array.shape(0);
}

// [count, heads, rows, columns] without gaps.
StateArray states_array(const std::string& name, const py::array& array, std::int64_t count, std::int64_t heads,
                        std::int64_t rows, std::int64_t columns, bool writeable) {
    float* data = contiguous<float>(name, array, {count, heads, rows, columns}, writeable);
    return {data, heads * rows * columns, rows * columns, columns, 1};
}

void bind_convolution(const py::array& x, const py::array& taps, const py::object& bias, bool silu,
                      const py::array& offsets, const py::array& parents, const py::array& initial,
                      const py::array& keep, const py::array& out, const py::array& ends, int threads,
                      const std::string& instruction_set) {
    const InstructionSet instructions = choose_instruction_set(instruction_set);
    check_threads(threads);
    with_recurrence_element("x", x, [&](auto element) {
        using Element = decltype(element);
        TreeConvolution<Element> convolution{};
        convolution.x = matrix_of<Element>("x", x);
        const std::int64_t channels = convolution.x.columns;
        if (taps.ndim() != 2 || taps.shape(0) < 1 || taps.shape(0) > largest_width) refuse("taps", "1 to 64 rows");
        convolution.width = taps.shape(0);
        convolution.taps = contiguous<float>("taps", taps, {convolution.width, channels}, false);
        convolution.bias = optional_vector<float>("bias", bias, channels);
        convolution.silu = silu;
        const PackNodes nodes = nodes_of(offsets, parents, keep, convolution.x.rows, count_of(initial));
        const std::int64_t reach = convolution.width - 1;
        convolution.initial = contiguous<Element>("initial", initial, {count_of(initial), reach, channels}, false);
        convolution.ends = contiguous<Element>("ends", ends, {keep.shape(0), reach, channels}, true);
        convolution.out = contiguous<Element>("out", out, {convolution.x.rows, channels}, true);
        check_apart({{"out", out}, {"ends", ends}},
                    {{"x", x}, {"taps", taps}, {"bias", bias}, {"offsets", offsets}, {"parents", parents},
                     {"initial", initial}, {"keep", keep}});
        if (channels == 0) return;
        py::gil_scoped_release release;
        tree_convolution(convolution, nodes, threads, instructions);
    });
}

void bind_delta_rule(const py::array& query, const py::array& key, const py::array& value, const py::array& decay,
                     const py::array& beta, std::int64_t key_heads, std::int64_t heads, float scaling, bool normalize,
                     const py::array& offsets, const py::array& parents, const py::array& initial,
                     const py::array& keep, const py::array& out, const py::array& states, int threads,
                     const std::string& instruction_set) {
    const InstructionSet instructions = choose_instruction_set(instruction_set);
    check_threads(threads);
    if (size_of("heads", heads) % size_of("key_heads", key_heads) != 0) refuse("heads", "a multiple of key_heads");
    with_recurrence_element("query", query, [&](auto element) {
        using Element = decltype(element);
        DeltaRule<Element> rule{};
        rule.query = matrix_of<Element>("query", query);
        const std::int64_t tokens = rule.query.rows;
        if (value.ndim() != 2 || value.shape(1) % heads != 0) refuse("value", "as many columns for each head");
        if (rule.query.columns % key_heads != 0) refuse("query", "as many columns for each head");
        rule.key_heads = key_heads;
        rule.heads = heads;
        rule.key_size = size_of("query", rule.query.columns / key_heads);
        rule.value_size = size_of("value", value.shape(1) / heads);
        rule.key = rows_of<Element>("key", key, tokens, rule.query.columns);
        rule.value = rows_of<Element>("value", value, tokens, heads * rule.value_size);
        const bool per_row = decay.ndim() == 2 && decay.shape(1) != heads;
        rule.decay = rows_of<float>("decay", decay, tokens, per_row ? heads * rule.key_size : heads);
        rule.beta = rows_of<float>("beta", beta, tokens, heads);
        rule.scaling = scaling;
        rule.normalize = normalize;
        rule.initial_count = count_of(initial);
        const PackNodes nodes = nodes_of(offsets, parents, keep, tokens, rule.initial_count);
        rule.initial =
            states_array("initial", initial, rule.initial_count, heads, rule.key_size, rule.value_size, false);
        rule.states = states_array("states", states, keep.shape(0), heads, rule.key_size, rule.value_size, true);
        rule.out = contiguous<Element>("out", out, {tokens, heads * rule.value_size}, true);
        check_apart({{"out", out}, {"states", states}},
                    {{"query", query}, {"key", key}, {"value", value}, {"decay", decay}, {"beta", beta},
                     {"offsets", offsets}, {"parents", parents}, {"initial", initial}, {"keep", keep}});
        py::gil_scoped_release release;
        tree_delta_rule(rule, nodes, threads, instructions);
    });
}

void bind_scan(const py::array& x, const py::array& step_size, const py::array& rate, const py::array& write,
               const py::array& read, const py::object& skip, std::int64_t groups, const py::array& offsets,
               const py::array& parents, const py::array& initial, const py::array& keep, const py::array& out,
               const py::array& states, int threads, const std::string& instruction_set) {
    const InstructionSet instructions = choose_instruction_set(instruction_set);
    check_threads(threads);
    size_of("groups", groups);
    with_recurrence_element("x", x, [&](auto element) {
        using Element = decltype(element);
        TreeScan<Element> scan{};
        scan.x = matrix_of<Element>("x", x);
        const std::int64_t tokens = scan.x.rows;
        if (rate.ndim() != 2) refuse("rate", "2 dimensions");
        scan.groups = groups;
        scan.heads = size_of("rate", rate.shape(0));
        if (scan.heads % groups != 0) refuse("groups", "a divisor of the number of heads");
        if (scan.x.columns % scan.heads != 0) refuse("x", "as many columns for each head");
        scan.size = size_of("x", scan.x.columns / scan.heads);
        scan.write = matrix_of<Element>("write", write);
        if (scan.write.columns % groups != 0) refuse("write", "as many columns for each group");
        scan.rows = size_of("write", scan.write.columns / groups);
        scan.write = rows_of<Element>("write", write, tokens, groups * scan.rows);
        scan.read = rows_of<Element>("read", read, tokens, groups * scan.rows);
        scan.step_size = rows_of<float>("step_size", step_size, tokens, scan.heads);
        scan.rate = rows_of<float>("rate", rate, scan.heads, rate.shape(1) == 1 ? 1 : scan.rows);
        scan.skip = optional_vector<float>("skip", skip, scan.heads);
        scan.initial_count = count_of(initial);
        const PackNodes nodes = nodes_of(offsets, parents, keep, tokens, scan.initial_count);
        scan.initial = states_array("initial", initial, scan.initial_count, scan.heads, scan.rows, scan.size, false);
        scan.states = states_array("states", states, keep.shape(0), scan.heads, scan.rows, scan.size, true);
        scan.out = contiguous<float>("out", out, {tokens, scan.heads * scan.size}, true);
        check_apart({{"out", out}, {"states", states}},
                    {{"x", x}, {"step_size", step_size}, {"rate", rate}, {"write", write}, {"read", read},
                     {"skip", skip}, {"offsets", offsets}, {"parents", parents}, {"initial", initial},
                     {"keep", keep}});
        py::gil_scoped_release release;
        tree_scan(scan, nodes, threads, instructions);
    });
}

}  // namespace

void bind_recurrences(py::module_& module) {
    using py::arg;
    module.def("tree_convolution", &bind_convolution, arg("x"), arg("taps"), arg("bias").none(true),
               arg("silu").noconvert(), arg("offsets"), arg("parents"), arg("initial"), arg("keep"), arg("out"),
               arg("ends"), arg("threads"), arg("instruction_set"));
    module.def("tree_delta_rule", &bind_delta_rule, arg("query"), arg("key"), arg("value"), arg("decay"), arg("beta"),
               arg("key_heads"), arg("heads"), arg("scaling"), arg("normalize").noconvert(), arg("offsets"),
               arg("parents"), arg("initial"), arg("keep"), arg("out"), arg("states"), arg("threads"),
               arg("instruction_set"));
    module.def("tree_scan", &bind_scan, arg("x"), arg("step_size"), arg("rate"), arg("write"), arg("read"),
               arg("skip").none(true), arg("groups"), arg("offsets"), arg("parents"), arg("initial"), arg("keep"),
               arg("out"), arg("states"), arg("threads"), arg("instruction_set"));
}

}  // namespace instsel
