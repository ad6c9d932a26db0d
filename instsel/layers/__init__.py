"""What the layers of a model compute, and how they compute it over a pack.

A `replica` of a model's modules shares its tensors and may be changed. It attends by `attention`, and its `recurrences`
go along the tree. `fused_layers` finds what can be computed in fewer passes: modules (`fused_modules`, `fused_norms`,
`fused_experts`) and layers in one run of kernels (`whole_layers`, on a GPU `gpu_layers`). A layer is found from what it
does in one pack (`layer_records`) and with `stand_ins` for its parts: how it joins them (`layer_flow`,
`layer_schedule`) and what they compute (`attention_search`, by what `attention_trace` shows, and `feed_forward_parts`).
"""
