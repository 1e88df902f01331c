"""Names of the columns of results that are not the user's own."""

from __future__ import annotations

RESERVED_COLUMNS = frozenset(
    {
        "row_id",
        "custom_id",
        "generated_text",
        "finish_reason",
        "num_input_tokens",
        "num_generated_tokens",
        "outputs",
        "logprobs",
        "generated_tokens",
        "tool_calls",
        "parsed",
        "status",
        "error_code",
        "error_message",
        "attempts",
    }
)
"""Names of output columns, which `keep` must not collide with."""

TRUNCATED = "truncated"
"""Further one of jobs that cut long rows: whether this row was cut."""

SCORE_COLUMNS = frozenset({"choices", "best_choice", "best_choice_mean"})
"""Further ones of jobs that score choices."""

PERPLEXITY_COLUMNS = frozenset(
    {"sum_logprob", "mean_logprob", "perplexity", "num_scored_tokens", "token_ids", "token_logprobs"}
)
"""Further ones of jobs that measure the perplexity of texts."""

OWN_COLUMNS = {
    "generate": RESERVED_COLUMNS,
    "score": RESERVED_COLUMNS | SCORE_COLUMNS,
    "perplexity": RESERVED_COLUMNS | PERPLEXITY_COLUMNS,
}
"""Names of output columns by task."""
