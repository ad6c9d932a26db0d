// Binding of the convolution and the recurrences along a tree.
#pragma once

#include <pybind11/pybind11.h>

namespace instsel {

void bind_recurrences(pybind11::module_& module);

}  // namespace instsel
