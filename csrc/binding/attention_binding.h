#pragma once

#include <pybind11/pybind11.h>

namespace instsel {

void bind_tree_attention(pybind11::module_& m);

}  // namespace instsel
