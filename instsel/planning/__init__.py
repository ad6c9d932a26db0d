"""How requests become packs: a prefix tree, steps that each fit a token budget, and their layout as arrays.

`planned_tree` leads through these (`prefix_tree`, `packing`); `layout` is what the model is given of a step and
`pack_tree` how its convolutions and recurrences see it.
"""
