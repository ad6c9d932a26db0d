// Binding of the layer operations.
#pragma once

#include <pybind11/pybind11.h>

namespace instsel {

void bind_layer_operations(pybind11::module_& module);

}  // namespace instsel
