"""A batch for workers: shared prefixes, and a row of every status."""

REQUESTS = [("say the thing", " and the other"), ("", "alone"), ("nothing to score", ""), ("x" * 400, "too long")]
REQUESTS += [(f"demonstration {i // 4}: the ring", f" answer {i} of the thing") for i in range(24)]
