"""Faults of the engine: what the tokens of a pack see, whose state they go on from, and what is kept for how long."""

from __future__ import annotations

from .faults import Fault

LAYOUT, PACKS = "tests/test_layout.py", "tests/test_score_batch.py -k 'tree_of_requests or plan_says'"
STATES = "tests/test_kept_states.py -k 'last_child or within_the_budget'"
KEPT = "tests/test_kept_states.py -k 'no_step_reads or no_part_of'"
NODES = "tests/test_recurrences.py -k 'own_cached_node or depth'"
LEVELS = "tests/test_recurrences.py -k 'many_levels and levels and (mamba2 or lfm2)'"
STEPS, TREE = "tests/test_packing.py", "tests/test_prefix_tree.py"
MEMORY = "tests/test_memory_backoff.py -k 'room or any_one_pack'"


def of(file: str, name: str, text: str, instead: str, tests: str) -> Fault:
    return Fault(name, f"instsel/{file}.py", text, instead, tests)


FAULTS = [
    of("planning/layout", "a child of a cached node sees all that is cached", "[(0, cached_begin[up] + int(tree.end[up] - tree.start[up]))]", "[(0, num_cached)]", LAYOUT),
    of("planning/layout", "ranges joined that do not touch", "if ranges and ranges[-1][1] == following[0]:", "if ranges:", LAYOUT),
    of("planning/layout", "positions begin anew in every node", "positions = np.repeat(tree.start[nodes], lengths) + within", "positions = within", PACKS),
    of("planning/layout", "a row predicts its own token", "tree.tokens[tree.offsets[sequence] + position + 1]", "tree.tokens[tree.offsets[sequence] + position]", LAYOUT),
    of("planning/layout", "another cached node's state", "{node: -2 - c for c, node in enumerate(step.cached)}", "{node: -2 for c, node in enumerate(step.cached)}", LAYOUT),
    of("planning/layout", "a state is kept only where no child is in the pack", "if any(c not in local for c in tree.children(node))", "if all(c not in local for c in tree.children(node))", LAYOUT),
    of("planning/layout", "spans of a node's parent left out", "up = start > low", "up = start > low + 1", LAYOUT),
    of("planning/layout", "values added to the next sequence", "np.add.at(total, self.scored_sequence[begin]", "np.add.at(total, self.scored_sequence[begin - 1]", PACKS),
    of("planning/pack_tree", "all nodes at one depth", "depth[node] = depth[parent] + 1 if parent >= 0 else 0", "depth[node] = 0", NODES),
    of("planning/pack_tree", "a convolution goes on from the node before", "before = last[parent] if parent >= 0", "before = last[node - 1] if parent >= 0", NODES),
    of("planning/pack_tree", "the initial state of another cached node", "origins[parents < -1] = -2 - order", "origins[parents < -1] = -2 - order[::-1]", NODES),
    of("planning/pack_tree", "last inputs before the node's own", "last[node] = order[-1][len(order[-1]) - width :]", "last[node] = order[-1][:width]", NODES),
    of("layers/recurrence_levels", "every node begins with the first initial state", "initial[-2 - parent]", "initial[0]", NODES),
    of("layers/recurrence_levels", "a state of the level's first node for all", "final[node] = one", "final[node] = last[0]", LEVELS),
    of("engine/kept_states", "a state is let go before its last child", "            if left:\n", "            if left > 1:\n", STATES),
    of("engine/kept_states", "a state is never let go", "left -= int(np.count_nonzero(parents == node))", "left -= 0", STATES),
    of("engine/execution", "what a failed pack still needs is let go", "failed[-1] = replace(failed[-1], release=(*failed[-1].release, *step.release))", "_release(step, caches)", "tests/test_side_by_side_memory.py"),
    of("engine/execution", "keys and values are never let go", "        caches.pop(node, None)\n", "        pass\n", KEPT),
    of("engine/execution", "another cached node's keys", "[caches[node] for node in step.cached])", "[caches[node] for node in sorted(step.cached, reverse=True)])", "tests/test_score_batch.py -k every_height"),
    of("engine/execution", "steps at once that wait for each other", "            if any(node not in caches for node in following.cached):\n                break\n", "", "tests/test_side_by_side.py -k wait_for_one_another"),
    of("engine/execution", "a step that did not fit comes back whole", "                self._lessen_budget(step)\n", "", MEMORY),
    of("engine/execution", "sequences below a lost node are not given up", "        lost.update(step.keep)\n", "", MEMORY),
    of("engine/side_by_side", "packs at once in one workspace", "zip(tasks, self.workspaces, strict=False)", "((task, self.workspaces[0]) for task in tasks)", "tests/test_side_by_side.py -k bits"),
    of("layers/attention", "cached keys behind the pack's own", "keys = torch.cat([*(k for k, _ in layer), keys])", "keys = torch.cat([keys, *(k for k, _ in layer)])", PACKS),
    of("layers/attention", "cached keys for values", "values = torch.cat([*(v for _, v in layer), values])", "values = torch.cat([*(k for k, _ in layer), values])", PACKS),
    of("layers/attention", "kept keys are a view of the pack's", "(keys[first:last].clone(), values[first:last].clone())", "(keys[first:last], values[first:last])", KEPT),
    of("planning/packing", "what hangs higher up sees the whole spine", "path[: path.index(int(tree.parent[unit])) + 1] if path else ()", "path", STEPS),
    of("planning/packing", "a part's keys are let go by its first step", "    steps[-1] = replace(steps[-1], release=(*steps[-1].release, *step.release))\n    return steps", "    steps[0] = replace(steps[0], release=(*steps[0].release, *step.release))\n    return steps", STEPS),
    of("planning/prefix_tree", "a prefix of one token more", "np.repeat(width, width))", "np.repeat(width, width)) + 1", TREE),
    of("planning/planned_tree", "a row of two spans counted twice", "np.maximum(last - np.maximum(first, reached), 0)", "np.maximum(last - first, 0)", PACKS),
    of("engine/logprob", "the arg max of another row", "(out.argmax[row] == target)", "(out.argmax[row.flip(0)] == target)", "tests/test_score_batch.py -k 'greedy or equal_logits'"),
]  # fmt: skip
