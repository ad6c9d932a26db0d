"""Score answers with the logits of any model: per-token log-probabilities and each answer's mean, in one call.

    python examples/score_with_logits.py

Here a small random model makes the logits; in your program they come from wherever you have them, padded or packed.
"""

from __future__ import annotations

import torch

from instsel.kernels import row_logprob


def main() -> None:
    torch.manual_seed(0)
    batch, length, vocabulary = 3, 12, 5000
    model = torch.nn.Sequential(torch.nn.Embedding(vocabulary, 64), torch.nn.Linear(64, vocabulary))
    ids = torch.randint(0, vocabulary, (batch, length))
    prompt_length = torch.tensor([4, 7, 2])
    with torch.inference_mode():
        logits = model(ids)  # [batch, length, vocabulary]

    # Row t of a sequence predicts token t + 1; the answer's tokens are scored, the prompt's are masked.
    rows = torch.arange(batch * length).view(batch, length)[:, :-1]
    targets = ids[:, 1:]
    answer = torch.arange(1, length) >= prompt_length[:, None]
    result = row_logprob(
        logits.flatten(0, 1),  # a view: nothing is copied
        rows.flatten(),
        targets.flatten(),
        mask=answer.flatten(),
        offsets=torch.arange(batch + 1) * (length - 1),
        argmax=True,
    )
    assert result.mean is not None and result.argmax is not None
    greedy = (result.argmax[rows] == targets) | ~answer
    for sequence in range(batch):
        count = int(answer[sequence].sum())
        print(
            f"answer {sequence}: {count} tokens, mean log-probability {float(result.mean[sequence]):.4f}, "
            f"perplexity {float((-result.mean[sequence]).exp()):.1f}, greedy: {bool(greedy[sequence].all())}"
        )

    # The same numbers the usual way, through a [tokens, vocabulary] tensor of log-probabilities.
    usual = torch.log_softmax(logits[:, :-1], dim=-1).gather(2, targets[..., None])[..., 0]
    expected = (usual * answer).sum(1) / answer.sum(1)
    print("largest difference from log_softmax and gather:", f"{float((result.mean - expected).abs().max()):.1e}")


if __name__ == "__main__":
    main()
